import mlx.core as mx
import numpy as np
import pytest
from full_size import parameters, released
from mlx.utils import tree_map
from references import TOLERANCE, VAES, distance, names, network, normal, outputs, stored, stored_shapes

from fluxnb.errors import InputError
from fluxnb.model.config import VAEConfig, flux_vae
from fluxnb.model.layers import random_weights
from fluxnb.model.vae import VAE

CONFIG = VAEConfig(channels=(4, 8, 8, 8), layers=1, groups=2)


@pytest.mark.parametrize("case", VAES, ids=names(VAES))
def test_pictures_and_latents_are_those_of_diffusers(case):
    ours = outputs(case, network(case, stored_shapes(case)))
    assert distance(ours["decoded"], stored()[f"{case.name}/decoded"]) < TOLERANCE
    assert distance(ours["mean"], stored()[f"{case.name}/mean"]) < TOLERANCE


def test_parameters_are_those_of_the_released_file_and_occupy_no_memory():
    before = mx.get_active_memory()
    vae = VAE(flux_vae())
    assert mx.get_active_memory() - before < 2**20  # filled it would be 335 MB
    ours = {
        name: (shape[0], shape[3], *shape[1:3])
        if len(shape) == 4
        else shape  # convolutions: to the file's order
        for name, shape in parameters(vae).items()
    }
    assert ours == released("bfl-ae")


def test_a_latent_cell_is_8_pixels_a_side():
    vae = random_weights(VAE(CONFIG), seed=0)
    picture = vae.decode(mx.zeros((1, 3, 5, 16)))
    assert picture.shape == (1, 24, 40, 3)
    assert vae.encode(picture).shape == (1, 3, 5, 16)


def test_a_batch_is_its_rows():
    vae = random_weights(VAE(CONFIG), seed=0)
    z = mx.array(normal("z", (2, 4, 4, 16)))
    both = np.array(vae.decode(z))
    for row in (0, 1):
        assert distance(np.array(vae.decode(z[row : row + 1])), both[row : row + 1]) < 1e-5


def test_16_bit_weights_give_what_the_same_weights_give_in_float32():
    vae = random_weights(VAE(CONFIG), seed=0)
    z = mx.array(normal("z", (1, 4, 4, 16)))
    vae.update(tree_map(lambda value: value.astype(mx.float16), vae.parameters()))
    narrow = np.array(vae.decode(z))
    vae.update(tree_map(lambda value: value.astype(mx.float32), vae.parameters()))
    assert distance(narrow, np.array(vae.decode(z))) < 1e-6


def test_pictures_are_in_the_dtype_of_the_latents():
    vae = random_weights(VAE(CONFIG), seed=0)
    z = mx.array(normal("z", (1, 4, 4, 16)))
    picture = vae.decode(z.astype(mx.bfloat16))
    assert picture.dtype == vae.encode(picture).dtype == mx.bfloat16
    assert distance(np.array(picture.astype(mx.float32)), np.array(vae.decode(z))) < 0.1


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(InputError, match="multiples of groups 3"):
        VAEConfig(channels=(4, 8), groups=3)
