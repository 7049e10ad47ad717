"""An adapter in diffusers and here: the same file, the same velocity, either way.

Measured with torch 2.13, diffusers 0.42.1 and peft 0.21.2 on random weights and an adapter of all matrices:
velocities differ by at most 1.4e-6 of the largest number, and the adapters change them by 12 to 91 % of it.
"""

import mlx.core as mx
import numpy as np
import pytest
import references
import torch
from diffusers import FluxPipeline as Reference
from parity import torch_networks
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from fluxnb.checkpoints import adapter_files
from fluxnb.checkpoints.adapters import Adapter, combine, places
from fluxnb.model.lora import LowRank, changed

TOLERANCE = 2e-5
CASE = references.MMDIT[0]


def ours(adapter, scale=1.0):
    """The velocity here with an adapter."""
    network = changed(
        references.network(CASE, references.stored_shapes(CASE)),
        combine(CASE.config, [(adapter.layers, scale)]),
    )
    return np.array(references.outputs(CASE, network)["velocity"])


def theirs(file=None, scale=1.0):
    """The velocity of diffusers with an adapter's file."""
    network = torch_networks.build(CASE)
    if file is not None:
        pipeline = Reference(None, None, None, None, None, None, network)
        pipeline.load_lora_weights(str(file), adapter_name="one")
        pipeline.set_adapters("one", scale)
    return torch_networks.outputs(CASE, network)["velocity"]


def random_adapter(only=None):
    """An adapter of all matrices, of two ranks."""
    rng, layers = np.random.default_rng(0), {}
    for place in places(CASE.config):
        for i, (name, rows) in enumerate(zip(place.sources, place.rows, strict=True)):
            rank = 4 + 2 * (i == 1)
            down = rng.standard_normal((rank, place.columns)) / place.columns**0.5
            up = 0.2 * rng.standard_normal((rows, rank))
            if only is None or only in name:
                layers[name] = LowRank(mx.array(down, mx.float32), mx.array(up, mx.float32))
    return Adapter("one", layers)


@pytest.mark.parametrize(("only", "scale"), [(None, 1.0), (None, 0.3), ("attn", 1.0), ("norm_out", 1.0)])
def test_what_is_saved_here_draws_the_same_in_diffusers(tmp_path, only, scale):
    adapter = random_adapter(only)
    expected, found = theirs(adapter.save(tmp_path / "one"), scale), ours(adapter, scale)
    assert references.distance(expected, theirs()) > 0.02
    assert references.distance(found, expected) < TOLERANCE


def test_what_diffusers_saved_draws_the_same_here(tmp_path):
    torch.manual_seed(0)
    network = torch_networks.build(CASE)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        rank_pattern={"to_k": 2},
        alpha_pattern={"to_k": 5},
        target_modules=[
            "to_q",
            "to_k",
            "to_v",
            "to_out.0",
            "add_q_proj",
            "ff.net.2",
            "proj_mlp",
            "norm1.linear",
        ],
        init_lora_weights=False,
    )
    network.add_adapter(config)
    expected = torch_networks.outputs(CASE, network)["velocity"]
    Reference.save_lora_weights(
        tmp_path,
        get_peft_model_state_dict(network),
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    found = ours(adapter_files.read(tmp_path, CASE.config))
    assert references.distance(expected, theirs()) > 0.02
    assert references.distance(found, expected) < TOLERANCE
