import mlx.core as mx
import numpy as np
import pytest

from fluxnb.model import strips
from fluxnb.model.config import VAEConfig
from fluxnb.model.layers import random_weights
from fluxnb.model.vae import VAE

SEAMLESS = 1e-5  # at most 4e-6 was seen; a picture's range is 2
DEEP = VAEConfig(channels=(4, 8, 8, 16), layers=2, groups=2)
FLAT = VAEConfig(channels=(8, 4), layers=1, groups=4, latent_channels=3)


@pytest.fixture(scope="module", params=[DEEP, FLAT], ids=["deep", "flat"])
def vae(request):
    return random_weights(VAE(request.param), seed=0)


def normal(*shape):
    return mx.random.normal(shape, key=mx.random.key(shape[1]))


def apart(one, other):
    assert one.shape == other.shape
    return np.abs(np.array(one) - np.array(other)).max()


@pytest.mark.parametrize("rows", [2, 4, 6, None])
@pytest.mark.parametrize("size", [(2, 2), (10, 4), (7, 5), (16, 12)])
def test_a_picture_in_strips_has_no_seams(vae, size, rows):
    z = normal(1, *size, vae.config.latent_channels)
    assert apart(strips.decode(vae, z, rows), vae.decode(z)) < SEAMLESS


@pytest.mark.parametrize("rows", [2, 4, 6, None])
@pytest.mark.parametrize("size", [(2, 2), (10, 4), (7, 5), (16, 12)])
def test_latents_are_those_of_the_whole_picture(vae, size, rows):
    factor = 2 ** (len(vae.config.channels) - 1)
    x = normal(1, factor * size[0], factor * size[1], 3)
    assert apart(strips.encode(vae, x, rows), vae.encoder(x)) < SEAMLESS


def test_a_batch_is_its_pictures(vae):
    z = normal(2, 8, 6, vae.config.latent_channels)
    both = strips.decode(vae, z, 2)
    assert apart(both[1:], strips.decode(vae, z[1:], 2)) < SEAMLESS


def test_strips_differ_where_the_picture_does_since_norms_see_all_of_it():
    vae = random_weights(VAE(DEEP), seed=0)
    z = normal(1, 12, 4, 16)
    alone = mx.concatenate([vae.decode(z[:, :6]), vae.decode(z[:, 6:])], axis=1)
    assert apart(alone, vae.decode(z)) > 0.1  # what plain tiles would give


def test_16_bits_stay_16_bits():
    vae, z = random_weights(VAE(DEEP), seed=0), normal(1, 6, 4, 16)
    narrow = strips.decode(vae, z.astype(mx.bfloat16), 2)
    assert narrow.dtype == mx.bfloat16
    assert apart(narrow.astype(mx.float32), vae.decode(z)) < 0.2


def test_memory_is_a_part_of_what_the_whole_takes():
    vae = random_weights(VAE(VAEConfig(channels=(16, 32, 32), layers=1, groups=4)), seed=0)
    z = normal(1, 48, 48, 16)
    mx.eval(vae.parameters(), z)

    def peak(decode):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(decode())
        return mx.get_peak_memory() - before

    assert peak(lambda: strips.decode(vae, z, 8)) < 0.4 * peak(lambda: vae.decode(z))
