import mlx.core as mx
import numpy as np
import pytest
from full_size import parameters, released
from references import T5, TOLERANCE, distance, names, network, outputs, stored, stored_shapes

from fluxnb.model.config import T5Config, t5_xxl
from fluxnb.model.layers import random_weights
from fluxnb.model.t5 import T5Encoder, buckets

CONFIG = T5Config(vocab_size=20, width=16, heads=2, head_dim=8, mlp_width=24, depth=2)


@pytest.mark.parametrize("case", T5, ids=names(T5))
def test_states_are_those_of_transformers(case):
    ours = outputs(case, network(case, stored_shapes(case)))["txt"]
    assert distance(ours, stored()[f"{case.name}/txt"]) < TOLERANCE


def test_parameters_are_those_of_the_released_file_and_occupy_no_memory():
    before = mx.get_active_memory()
    encoder = T5Encoder(t5_xxl())
    assert mx.get_active_memory() - before < 2**20  # filled it would be 19 GB
    assert parameters(encoder) == released("hub-t5xxl")


def test_buckets_are_one_a_distance_when_near_and_shared_when_far():
    rows = buckets(400, 32, 128)
    before, after = rows[399, ::-1], rows[0]  # by distance to keys before and after the query
    assert (before[:8] == np.arange(8)).all()
    assert (after[1:8] == 16 + np.arange(1, 8)).all() and after[0] == 0
    assert (np.diff(before) >= 0).all() and (np.diff(after[1:]) >= 0).all()
    assert before[127] == before[128] == before[399] == 15 and after[399] == 31
    assert set(rows.ravel()) == set(range(32)) - {16}  # row 16 is distance 0 after the query: never


def test_padding_is_attended_to():
    encoder = random_weights(T5Encoder(CONFIG), seed=0)
    short, padded = (encoder(mx.array([ids])) for ids in ([5, 6, 1], [5, 6, 1, 0, 0]))
    assert distance(np.array(padded[:, :3]), np.array(short)) > 1e-2


def test_states_are_in_the_dtype_asked_for():
    encoder = random_weights(T5Encoder(CONFIG), seed=0)
    ids = mx.array([[5, 6, 1, 0]])
    narrow = encoder(ids, dtype=mx.bfloat16)
    assert narrow.dtype == mx.bfloat16
    assert distance(np.array(narrow.astype(mx.float32)), np.array(encoder(ids))) < 0.05
