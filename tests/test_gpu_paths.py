"""What runs on a GPU alone, run here on whatever there is: MLX's own ops, products of 16 bits, kernels.

The ops are set to `backend.stock` and the device is said to be a GPU, so that all code goes the way that it
goes there; MLX still computes where it can. That shows types, shapes and formulas, not a GPU's kernels.
"""

import math

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb import backend, concepts, listen
from fluxnb.altered import AddToScores, Altered, Silence, SwapValues
from fluxnb.backend import stock
from fluxnb.checkpoints.quantised import BITS, BLOCKS
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import GROUP, Linear, random_weights
from fluxnb.model.mmdit import MMDiT

CONFIG = MMDiTConfig(
    txt_dim=16, vec_dim=16, heads=2, head_dim=32, depth=1, depth_single=1, mlp_ratio=2.0, axes_dim=(8, 12, 12)
)
SIDE, TEXT = 4, 6  # image tokens a side, text tokens
LENGTH = TEXT + SIDE**2
EDITS = (
    AddToScores(frozenset({0, 1}), tokens=(1, 2), added=-math.inf),
    AddToScores(frozenset({1}), tokens=(4,), added=math.log(3), image_only=True),
    SwapValues(frozenset({0}), a=(0,), b=(3, 4)),
    Silence(frozenset({0}), head=1),
)
TOLERANCES = {
    mx.float32: 1e-5,
    mx.bfloat16: 0.04,
    mx.float16: 0.006,
}  # a few roundings of a type, of the largest


@pytest.fixture
def gpu(monkeypatch):
    """Makes the code go a GPU's way from when it is called on."""

    def begin():
        for name, function in vars(stock).items():
            if hasattr(backend, name):
                monkeypatch.setattr(backend, name, function)
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
        monkeypatch.setattr(mx, "device_info", lambda: {"total_memory": 2**36})  # bytes

    return begin


def transformer(weights, bits=None):
    """Returns a transformer whose weights are of this type, its blocks quantised if there are bits."""
    network = random_weights(MMDiT(CONFIG), 0)
    for name, module in network.named_modules():
        if bits is not None and isinstance(module, Linear) and name.startswith(BLOCKS):
            module.weight, module.scales, module.biases = mx.quantize(module.weight, GROUP, bits)
    network.set_dtype(weights)
    mx.eval(network.parameters())
    return network


def velocity(network, dtype, attend):
    ys, xs = np.divmod(np.arange(SIDE**2), SIDE)
    ids = mx.array(np.stack([0 * ys, ys, xs], axis=1).astype(np.float32))
    img, txt, vec = (
        mx.random.normal(shape, key=mx.random.key(i))
        for i, shape in enumerate([(1, SIDE**2, CONFIG.in_channels), (1, TEXT, 16), (1, 16)])
    )
    times, places = mx.array([0.5]), {"img_ids": ids, "txt_ids": mx.zeros((TEXT, 3))}
    return network(img.astype(dtype), txt, vec, times, **places, attend=attend)


def check_close(got, expected, dtype):
    expected = np.array(expected.astype(mx.float32))
    got = np.array(got.astype(mx.float32))
    assert np.abs(got - expected).max() <= TOLERANCES[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("bits", [None, *BITS])
@pytest.mark.parametrize("weights", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_the_transformer_is_the_same_on_a_gpu_s_way_and_keeps_its_type(gpu, dtype, weights, bits):
    network, attend = transformer(weights, bits), Altered(EDITS, TEXT)
    expected = velocity(network, mx.float32, attend)
    mx.eval(expected)
    gpu()
    got = velocity(network, dtype, attend)
    assert got.dtype == dtype
    check_close(got, expected, dtype)


@pytest.mark.parametrize("edits", [(), EDITS], ids=["as it is", "altered"])
@pytest.mark.parametrize("is_replay", [False, True])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_readers_hear_the_same_on_a_gpu_s_way(gpu, dtype, is_replay, edits):
    q, k, v = (mx.random.normal((1, 2, LENGTH, 32), key=mx.random.key(i)).astype(dtype) for i in range(3))
    groups = mx.array(np.eye(LENGTH, 3, dtype=np.float32))

    def heard():
        reader = listen.Reader([0, 1], lambda shares: shares.mean(axis=1), groups=groups)
        attend = Altered(edits, TEXT) if edits else listen.attention
        listener = listen.Listener([reader], attend, is_replay)
        for layer in (0, 1):
            listen.overhear(lambda layer=layer: mx.eval(listener(q, k, v, layer)))
        return reader.result()

    expected = heard()
    gpu()
    assert np.abs(heard() - expected).max() < 1e-5


def test_a_whole_run_with_maps_and_concepts_is_the_same_on_a_gpu_s_way(gpu):
    def drawn():
        run = stubs.session().start("a cat and a sunflower", seed=1).finish()
        heard = run.attention(1, "cat").weights, run.concepts(["cat", "sunflower"], 1).weights
        return np.array(run.latents), *heard, np.asarray(run.image(), np.float32) / 255

    expected = drawn()
    gpu()
    for got, wanted, tolerance in zip(drawn(), expected, (1e-4, 1e-4, 1e-4, 1 / 255), strict=True):
        assert np.abs(got - wanted).max() <= tolerance * 1.01


def test_concepts_share_out_a_picture_in_16_bits_as_in_32(gpu):
    network = transformer(mx.bfloat16)
    text = mx.random.normal((1, 2, 16), key=mx.random.key(7))

    def shared(dtype):
        keeper = concepts.Keeper((0,), TEXT)
        listen.overhear(lambda: velocity(network, dtype, keeper.around(listen.attention)))
        return concepts.shares(network, keeper.result(network, 0.5, None), [text, -text])

    expected = shared(mx.float32)
    mx.eval(expected)
    gpu()
    assert np.abs(np.array(shared(mx.bfloat16)) - np.array(expected)).max() < 0.1
