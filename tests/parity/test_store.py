"""Folders that diffusers and transformers save today, loaded and compared with what these compute."""

import copy

import numpy as np
import pytest
import references
import tiny_checkpoint as tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from parity import torch_networks
from references import TOLERANCE, distance

from fluxnb.checkpoints import store

NETWORK = {"transformer": "mmdit", "vae": "vae", "text_encoder": "clip", "text_encoder_2": "t5"}


@pytest.fixture(scope="module")
def references_of_torch():
    networks = {component: torch_networks.build(case) for component, case in tiny.CASES.items()}
    networks["vae"].register_to_config(shift_factor=0.1)
    return networks


def save(networks, folder, dtype, **how):
    """Saves the networks by their own code; returns them with the weights that the files have room for."""
    saved = {component: copy.deepcopy(network).to(dtype) for component, network in networks.items()}
    for component, network in saved.items():
        network.save_pretrained(folder / component, **how)
    tiny.write_clip_tokenizer(folder / "tokenizer")
    tiny.write_t5_tokenizer(folder / "tokenizer_2")
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0).save_pretrained(
        folder / "scheduler"
    )
    return {component: network.to(torch.float32) for component, network in saved.items()}


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        (torch.float32, {}),
        (torch.float32, {"max_shard_size": "300KB"}),
        (torch.bfloat16, {}),
        (torch.float16, {"max_shard_size": "1MB"}),
    ],
    ids=["float32", "shards", "bfloat16", "float16 shards"],
)
def test_what_the_reference_saves_is_loaded_and_gives_the_same(references_of_torch, tmp_path, dtype, how):
    theirs = save(references_of_torch, tmp_path, dtype, **how)
    ours = store.load(local_ckpt=tmp_path)
    assert ours.entry.shift is None
    for component, case in tiny.CASES.items():
        given = references.outputs(case, getattr(ours, NETWORK[component]))
        for name, expected in torch_networks.outputs(case, theirs[component]).items():
            assert np.isfinite(expected).all()
            assert distance(given[name], expected) < TOLERANCE, name
    if how:
        assert list(tmp_path.glob("transformer/*.safetensors.index.json"))
