"""Estimates of memory against MLX's own count, and sizes that are refused before anything is computed."""

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb import backend, flow, memory
from fluxnb.checkpoints.networks import SwappedNetworks
from fluxnb.errors import InputError
from fluxnb.model import strips
from fluxnb.model.config import MMDiTConfig, VAEConfig, flux_vae, schnell
from fluxnb.model.layers import random_weights
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.vae import VAE

FACTOR = 1.5
pytestmark = pytest.mark.skipif(not backend.on_linux_cpu(), reason="hardware: estimates of a Linux CPU")


def taken(compute):
    """Returns the bytes that MLX takes for what compute returns, at most at once."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(compute())
    return mx.get_peak_memory() - before


def near(estimate, measured):
    return measured / FACTOR <= estimate <= measured * FACTOR


@pytest.mark.parametrize(
    ("heads", "ratio", "size", "dtype"), [(4, 4.0, 64, mx.float32), (6, 2.0, 48, mx.bfloat16)]
)
def test_a_step_takes_what_is_estimated(heads, ratio, size, dtype):
    sizes = {"depth": 2, "depth_single": 2, "txt_dim": 64, "vec_dim": 64, "axes_dim": (16, 24, 24)}
    config = MMDiTConfig(heads=heads, head_dim=64, mlp_ratio=ratio, **sizes)
    network = random_weights(MMDiT(config), 0)
    img = flow.pack(flow.noise(0, (size, size))).astype(dtype)
    txt, vec = mx.ones((1, 128, 64)), mx.ones((1, 64))
    mx.eval(network.parameters(), img, txt, vec)
    ids = {"img_ids": flow.image_ids((size, size)), "txt_ids": mx.zeros((128, 3))}
    measured = taken(lambda: network(img, txt, vec, mx.array([0.5]), **ids))
    assert near(memory.step_bytes(config, (size, size), 128, on_cpu=True), measured)


@pytest.mark.parametrize(("size", "decode"), [((16, 24), VAE.decode), ((48, 32), strips.decode)])
def test_decoding_takes_what_is_estimated(size, decode):
    config = VAEConfig(channels=(32, 64, 128, 128))
    vae, z = random_weights(VAE(config), 0), mx.ones((1, *size, 16))
    mx.eval(vae.parameters(), z)
    assert near(memory.decode_bytes(config, size, on_cpu=True), taken(lambda: decode(vae, z)))


def test_on_a_gpu_no_more_is_estimated_than_has_to_be_there():
    for size in ((32, 32), (128, 128)):
        assert (
            memory.step_bytes(schnell(), size, 256, False) < memory.step_bytes(schnell(), size, 256, True) / 5
        )
        assert memory.decode_bytes(flux_vae(), size, False) < memory.decode_bytes(flux_vae(), size, True) / 2


def test_a_size_that_does_not_fit_is_refused_with_one_that_does(monkeypatch):
    pipeline = stubs.pipeline()
    monkeypatch.setattr(backend, "memory_bytes", lambda: mx.get_active_memory() + 100_000_000)
    words = (
        r"8000 x 4000 pixels would take about .* GB beside .* in use.*; "
        r"try \d+ x \d+ pixels, latent_size=\(\d+, \d+\)"
    )
    with pytest.raises(InputError, match=words) as caught:
        pipeline.generate_image("a cat", latent_size=(500, 1000))
    height, width = map(int, str(caught.value).split("latent_size=(")[1].split(")")[0].split(", "))
    assert height % 2 == width % 2 == 0 and height > 10 and 1.8 < width / height < 2.2
    memory.check(pipeline.networks, (height, width))


def test_a_run_of_such_a_size_is_refused_before_its_noise_is_drawn(monkeypatch):
    session = stubs.session()
    monkeypatch.setattr(flow, "noise", lambda *arguments: pytest.fail("noise was drawn"))
    with pytest.raises(InputError, match="pixels would take about"):
        session.start("a cat", latent_size=(100_000, 100_000))


def test_a_run_from_own_latents_of_such_a_size_is_refused_too(monkeypatch):
    session = stubs.session()
    monkeypatch.setattr(backend, "memory_bytes", lambda: 2)
    with pytest.raises(InputError, match="pixels would take about"):
        session.start(
            "a cat", latents=np.zeros((1, 8, 8, session.pipeline.networks.configs.vae.latent_channels))
        )


def test_weights_that_can_be_swapped_do_not_count(monkeypatch):
    networks = stubs.networks()
    swapped = SwappedNetworks(networks.configs, None, None, None, networks.entry)
    monkeypatch.setattr(backend, "memory_bytes", lambda: 2_000_000)
    memory.check(swapped, (2, 2))
    held = mx.zeros((1_000_000,))
    mx.eval(held)
    with pytest.raises(InputError, match="GB in use"):
        memory.check(networks, (2, 2))
