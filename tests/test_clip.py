import dataclasses

import mlx.core as mx
import numpy as np
import pytest
from full_size import parameters, released
from references import CLIP, TOLERANCE, distance, names, network, outputs, stored, stored_shapes

from fluxnb.errors import InputError
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import CLIPConfig, clip_l
from fluxnb.model.layers import random_weights

CONFIG = CLIPConfig(vocab_size=20, width=16, heads=2, mlp_width=24, depth=2, max_length=8, eos_token=3)


@pytest.mark.parametrize("case", CLIP, ids=names(CLIP))
def test_states_are_those_of_transformers(case):
    ours = outputs(case, network(case, stored_shapes(case)))
    assert distance(ours["hidden"], stored()[f"{case.name}/hidden"]) < TOLERANCE
    assert distance(ours["vec"], stored()[f"{case.name}/vec"]) < TOLERANCE


def test_parameters_are_those_of_the_released_file_and_occupy_no_memory():
    before = mx.get_active_memory()
    encoder = CLIPText(clip_l())
    assert mx.get_active_memory() - before < 2**20  # filled it would be 490 MB
    tensors = released("hub-clip")
    assert all(name.startswith("text_model.") for name in tensors)
    assert parameters(encoder) == {name.removeprefix("text_model."): shape for name, shape in tensors.items()}


def test_a_token_sees_none_after_it():
    encoder = random_weights(CLIPText(CONFIG), seed=0)
    one, other = (np.array(encoder(mx.array([ids]))[0][0]) for ids in ([5, 6, 7, 3], [5, 6, 8, 3]))
    assert (one[:2] == other[:2]).all()
    assert (np.abs(one[2:] - other[2:]).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize(("eos_token", "place"), [(3, 1), (None, 2)], ids=["end token", "highest id"])
def test_pooled_is_the_state_of_the_first_end_token(eos_token, place):
    encoder = random_weights(CLIPText(dataclasses.replace(CONFIG, eos_token=eos_token)), seed=0)
    hidden, pooled = encoder(mx.array([[5, 3, 19, 3, 19]]))
    assert mx.array_equal(pooled, hidden[:, place])


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(InputError, match="9 tokens, but CLIP has 8 positions"):
        CLIPText(CONFIG)(mx.zeros((1, 9), dtype=mx.int32))


def test_states_are_in_the_dtype_asked_for():
    encoder = random_weights(CLIPText(CONFIG), seed=0)
    ids = mx.array([[5, 6, 3]])
    narrow, wide = encoder(ids, dtype=mx.bfloat16)[0], encoder(ids)[0]
    assert narrow.dtype == mx.bfloat16
    assert distance(np.array(narrow.astype(mx.float32)), np.array(wide)) < 0.05
