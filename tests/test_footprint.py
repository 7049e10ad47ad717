import math

import mlx.core as mx
import pytest
from full_size import released
from mlx.utils import tree_flatten

from fluxnb.checkpoints import catalog, footprint, store


def nbytes(networks):
    parts = (networks.mmdit, networks.vae, networks.clip, networks.t5)
    return sum(array.nbytes for part in parts for _, array in tree_flatten(part.parameters()))


def test_the_demo_model_takes_what_is_reckoned():
    assert footprint.footprint(catalog.DEMO).memory == nbytes(store.load("fluxnb/demo"))


def test_flux_takes_two_bytes_for_each_number_of_the_released_files():
    files = ("bfl-dev", "bfl-ae", "hub-clip", "hub-t5xxl")
    numbers = sum(math.prod(shape) for file in files for shape in released(file).values())
    assert footprint.footprint(catalog.DEV).disk == pytest.approx(2 * numbers, rel=1e-6)


def test_a_quantised_matrix_takes_what_mlx_makes_of_it():
    matrix = mx.zeros((128, 192), mx.bfloat16)
    made = sum(array.nbytes for array in mx.quantize(matrix, group_size=64, bits=4))
    assert footprint._bytes({"double_blocks.0.img_mlp.0.weight": matrix.shape}, 4) == made


def test_quantising_makes_every_model_smaller_and_one_that_is_so_already_comes_smaller():
    takes = {entry.name: footprint.footprint(entry) for entry in catalog.ENTRIES}
    assert all(one.memory_4bit < one.memory for one in takes.values())
    whole, small = takes[catalog.SCHNELL_DIFFUSIONKIT.name], takes[catalog.SCHNELL_4BIT.name]
    assert small.disk < 0.52 * whole.disk  # T5 stays as it is
    assert small.memory < 0.52 * whole.memory
