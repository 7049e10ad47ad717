"""The tiny autoencoder against diffusers' on the same random weights, in float32; at most 1e-6 was seen."""

import mlx.core as mx
import numpy as np
import pytest
import references
import torch
from diffusers import AutoencoderTiny
from references import TOLERANCE, distance

from fluxnb.checkpoints import taesd

TAEF1 = {"latent_channels": 16}
SMALL = {
    "latent_channels": 6,
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 2),
    "scaling_factor": 1.0,
}


@pytest.mark.parametrize("arguments", [TAEF1, SMALL], ids=["TAEF1", "small"])
@torch.no_grad()
def test_a_saved_tiny_autoencoder_decodes_and_encodes_as_diffusers_does(tmp_path, arguments):
    reference = AutoencoderTiny(**arguments).eval()
    made = references.weights({name: tuple(p.shape) for name, p in reference.named_parameters()})
    for name, parameter in reference.named_parameters():
        parameter.copy_(torch.from_numpy(made[name]))
    reference.save_pretrained(tmp_path)
    ours = taesd.load(tmp_path, arguments["latent_channels"])
    z = 2 * references.normal("z", (1, 6, 4, arguments["latent_channels"]))
    theirs = reference.decode(torch.from_numpy(z).permute(0, 3, 1, 2)).sample.permute(0, 2, 3, 1)
    assert distance(np.array(ours.decode(mx.array(z))), theirs.numpy()) < TOLERANCE
    x = np.tanh(references.normal("x", (1, 48, 32, 3)))
    theirs = reference.encode(torch.from_numpy(x).permute(0, 3, 1, 2)).latents.permute(0, 2, 3, 1)
    assert distance(np.array(ours.encode(mx.array(x))), theirs.numpy()) < TOLERANCE
