"""Graphs that are kept between calls: the bits of the network, whatever changes, and no compiler."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from fluxnb import backend
from fluxnb.model.lora import LowRank, changed
from fluxnb.model.repeated import Repeated
from fluxnb.pipeline import FluxPipeline

pytestmark = pytest.mark.skipif(not backend.on_linux_cpu(), reason="graphs are kept on a Linux CPU alone")
calls = []


class Network(nn.Module):
    """A layer in a list; `calls` tells when Python ran it."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 2)]

    def __call__(self, x, *, shift):
        """Adds the shift, and refuses thirteen rows."""
        calls.append(len(x))
        if len(x) == 13:
            raise ValueError("thirteen rows")
        return self.layers[0](x) + shift


@pytest.fixture
def network():
    backend.setup()
    network = Network()
    mx.eval(network.parameters())
    calls.clear()
    return network


def given(rows=4):
    return mx.arange(rows * 3.0).reshape(rows, 3), mx.array([1.0, -2.0])


def assert_same(repeated, network, rows=4):
    x, shift = given(rows)
    ours, wanted = repeated(network, x, shift=shift), network(x, shift=shift)
    assert np.array_equal(np.array(ours), np.array(wanted)) and np.ptp(np.array(ours)) > 0


def test_python_builds_a_graph_once_for_each_shape(network):
    repeated = Repeated()
    for rows in (4, 4, 5, 4, 5):
        x, shift = given(rows)
        mx.eval(repeated(network, x, shift=shift))
    assert calls == [4, 5]
    assert_same(repeated, network)


def test_weights_may_change_between_calls(network):
    repeated = Repeated()
    assert_same(repeated, network)
    layer = network.layers[0]
    layer.weight = layer.weight * 2
    assert_same(repeated, network)
    assert_same(repeated, changed(network, {"layers.0": mx.ones((2, 3))}))  # a matrix in its place
    for strength in (1.0, 3.0):  # a change beside it
        low_rank = LowRank(mx.ones((1, 3)), mx.array([[strength], [-1.0]]))
        assert_same(repeated, changed(network, {"layers.0": low_rank}))
    assert_same(repeated, network)


def test_an_error_leaves_the_network_as_it_was(network):
    repeated = Repeated()
    before = np.array(network.layers[0].weight)
    for _ in range(2):
        with pytest.raises(ValueError, match="thirteen rows"):
            repeated(network, given(13)[0], shift=given()[1])
    assert np.array_equal(np.array(network.layers[0].weight), before)
    assert_same(repeated, network)


def test_another_thread_gets_the_same(network):
    repeated = Repeated()
    assert_same(repeated, network)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(assert_same, repeated, network).result()
    assert_same(repeated, network)


def test_a_run_repeats_its_graphs_with_the_same_bits(monkeypatch):
    pipeline = FluxPipeline()
    built = []
    whole = type(pipeline.networks.mmdit).__call__
    monkeypatch.setattr(
        type(pipeline.networks.mmdit), "__call__", lambda *a, **k: built.append(None) or whole(*a, **k)
    )
    pictures = []
    for is_narrow in (True, False):
        monkeypatch.setattr(backend, "is_narrow", lambda width, answer=is_narrow: answer)
        built.clear()
        pictures.append(np.array(pipeline.generate_image("a cat", num_steps=3, cfg_weight=3.0)[0]))
        assert len(built) == (2 if is_narrow else 6)  # with and without the prompt
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("symbol", ["", "no_such_symbol"])
def test_no_compiler_is_called(tmp_path, symbol):
    """Where MLX has no mode without fusing, nothing is kept."""
    script = f"""
        import mlx.core as mx
        from fluxnb import backend
        from fluxnb.backend import graphs
        graphs.SET_MODE = {symbol!r} or graphs.SET_MODE
        backend.setup()
        calls = []
        def work(x):
            calls.append(x)
            return mx.exp(x * 2) + 1
        kept = mx.compile(work)
        for _ in range(3):
            assert kept(mx.zeros(2)).tolist() == [2.0, 2.0]
        print(len(calls))
    """
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert said.split() == ["3" if symbol else "1"]
    assert not list(tmp_path.glob("mlx/**/*"))  # where MLX puts its kernels
