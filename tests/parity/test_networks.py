"""Our networks against those of diffusers and transformers, on the same random weights, in float32."""

import pytest
import references
import torch
from parity import torch_networks
from references import CLIP, MMDIT, T5, TOLERANCE, VAES, distance, names
from transformers.models.t5.modeling_t5 import T5Attention

from fluxnb.model.t5 import buckets

CASES = (*MMDIT, *T5, *CLIP, *VAES)


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_outputs_are_those_of_the_reference(case):
    network = torch_networks.build(case)
    ours = references.outputs(case, references.network(case, torch_networks.shapes(network)))
    theirs = torch_networks.outputs(case, network)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert distance(ours[name], value) < TOLERANCE, name


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_stored_references_are_what_the_reference_gives_today(case):
    network = torch_networks.build(case)
    stored = references.stored()
    assert {name: list(shape) for name, shape in torch_networks.shapes(network).items()} == (
        references.stored_shapes(case)
    )
    for name, value in torch_networks.outputs(case, network).items():
        assert distance(stored[f"{case.name}/{name}"], value) < 1e-5, name


@pytest.mark.parametrize(("count", "max_distance"), [(32, 128), (16, 64)])
def test_buckets_are_those_of_transformers(count, max_distance):
    offset = torch.arange(512)[None, :] - torch.arange(512)[:, None]
    theirs = T5Attention._relative_position_bucket(offset, True, count, max_distance)
    assert (buckets(512, count, max_distance) == theirs.numpy()).all()
