"""diffusers' own converters of black-forest-labs' files, against our table of diffusers' names."""

import layout_writers as writers
import mlx.core as mx
import numpy as np
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from full_size import released

from fluxnb.checkpoints import layouts, tables


def ours(table, targets, converted):
    """Brings diffusers' tensors to our names by a table; every one is used once."""
    arrays = {name: mx.array(tensor.numpy()) for name, tensor in converted.items()}
    parts = layouts.plan(table, targets, arrays, "converted")
    return {part.target: part.transform(*(arrays[name] for name in part.sources)) for part in parts}


def test_rows_of_the_transformer_come_back_to_their_places():
    """The converter knows FLUX.1's width only, so that each row is a number here instead of 3072."""
    held = {}
    for i, (name, shape) in enumerate(sorted(released("bfl-dev").items())):
        rows = torch.arange(shape[0], dtype=torch.float32) + 21504 * i  # all below 2^24, so exact
        held[name] = rows[:, None] if len(shape) == 2 else rows
    expected = {name: tensor.numpy() for name, tensor in held.items()}
    converted = convert_flux_transformer_checkpoint_to_diffusers(dict(held))
    made = ours(tables.DIFFUSERS_MMDIT, expected, converted)
    assert all(np.array_equal(np.array(made[name]), rows) for name, rows in expected.items())


def test_the_autoencoder_comes_back_to_the_same_bits():
    original = writers.original("vae")
    theirs = {name: torch.from_numpy(np.array(array)) for name, array in writers.bfl_vae(original).items()}
    config = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    converted = convert_ldm_vae_checkpoint(theirs, config)
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == {
        name: array.shape for name, array in writers.diffusers_vae(original).items()
    }
    made = ours(tables.diffusers_vae(4), original, converted)
    assert all(mx.array_equal(made[name], array) for name, array in original.items())
