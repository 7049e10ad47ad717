"""Altered attention, against an explicit softmax in float64."""

import math

import mlx.core as mx
import numpy as np
import pytest

from fluxnb.altered import AddToScores, Altered, Silence, SwapValues
from fluxnb.backend import linux_cpu
from fluxnb.model.layers import attention

TEXT, IMAGE, HEADS, WIDTH = 6, 10, 3, 8
HERE = frozenset({1, 4})


@pytest.fixture(scope="module")
def qkv():
    shape = (1, HEADS, TEXT + IMAGE, WIDTH)
    return tuple(mx.random.normal(shape, key=mx.random.key(seed)) for seed in range(3))


def explicit(q, k, v, added):
    """softmax(q k^T / sqrt(D) + added) v in float64; `added` is (L, L), by query and key."""
    q, k, v = (np.array(x, np.float64)[0] for x in (q, k, v))
    weights = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(WIDTH) + added)
    return weights / weights.sum(-1, keepdims=True) @ v


def differ(altered, q, k, v, added):
    return np.abs(np.array(Altered(altered, TEXT)(q, k, v, 1))[0] - explicit(q, k, v, added)).max()


@pytest.mark.parametrize("added", [-math.inf, math.log(2.5), math.log(0.1)])
@pytest.mark.parametrize("image_only", [False, True])
def test_scores_are_added_before_the_softmax_over_all_keys(qkv, added, image_only):
    table = np.zeros((TEXT + IMAGE, TEXT + IMAGE))
    table[TEXT if image_only else 0 :, [1, 2]] = added
    assert differ((AddToScores(HERE, (1, 2), added, image_only),), *qkv, table) < 1e-6


def test_a_factor_on_scores_makes_of_a_weight_w_wf_over_1_minus_w_plus_wf(qkv):
    q, k, _ = qkv
    ones = mx.zeros(q.shape)
    ones = mx.where(mx.arange(TEXT + IMAGE)[:, None] == 2, 1.0, ones)  # the value of token 2 is 1, else 0
    before, after = (
        f(q, k, ones, 1) for f in (attention, Altered((AddToScores(HERE, (2,), math.log(3)),), TEXT))
    )
    assert mx.abs(after - before * 3 / (1 - before + before * 3)).max() < 1e-6


def test_edits_of_scores_add_up(qkv):
    table = np.zeros((TEXT + IMAGE, TEXT + IMAGE))
    table[:, 3] += math.log(2)
    table[TEXT:, [3, 4]] += math.log(5)
    edits = (AddToScores(HERE, (3, 4), math.log(5), True), AddToScores(HERE, (3,), math.log(2)))
    assert differ(edits, *qkv, table) < 1e-6
    assert differ(edits[::-1], *qkv, table) < 1e-6


@pytest.mark.parametrize("image_only", [False, True])
def test_chunks_of_queries_see_the_same_mask(qkv, monkeypatch, image_only):
    table = np.zeros((TEXT + IMAGE, TEXT + IMAGE))
    table[TEXT if image_only else 0 :, 5] = -math.inf
    monkeypatch.setattr(linux_cpu, "MANY_SCORES", 3 * (TEXT + IMAGE))  # three rows of one head at a time
    assert differ((AddToScores(HERE, (5,), -math.inf, image_only),), *qkv, table) < 1e-6


def test_values_swap_token_by_token(qkv):
    q, k, v = qkv
    order = [3, 4, 2, 0, 1, *range(5, TEXT + IMAGE)]
    swapped = Altered((SwapValues(HERE, (0, 1), (3, 4)),), TEXT)(q, k, v, 4)
    assert mx.array_equal(swapped, attention(q, k, v[:, :, mx.array(order)], 4))
    assert not mx.allclose(swapped, attention(q, k, v, 4), atol=1e-2)


def test_words_of_other_lengths_swap_their_mean_values(qkv):
    q, k, v = qkv
    values = np.array(v)
    expected = values.copy()
    expected[:, :, [0, 1, 2]] = values[:, :, [4]]
    expected[:, :, 4] = values[:, :, [0, 1, 2]].mean(axis=2)
    swapped = Altered((SwapValues(HERE, (0, 1, 2), (4,)),), TEXT)(q, k, v, 1)
    assert mx.allclose(swapped, attention(q, k, mx.array(expected), 1), atol=1e-6)


def test_a_silent_head_gives_0_and_the_others_what_they_gave(qkv):
    plain, silenced = attention(*qkv, 1), Altered((Silence(HERE, 1),), TEXT)(*qkv, 1)
    assert not silenced[:, 1].any()
    assert mx.array_equal(silenced[:, [0, 2]], plain[:, [0, 2]])


def test_a_block_that_is_not_meant_is_computed_as_ever_bit_for_bit(qkv):
    edits = (AddToScores(HERE, (1,), -math.inf), SwapValues(HERE, (0,), (3,)), Silence(HERE, 0))
    assert mx.array_equal(Altered(edits, TEXT)(*qkv, 2), attention(*qkv, 2))


@pytest.mark.parametrize("image_only", [False, True])
def test_the_mask_takes_no_memory_of_queries_times_keys(image_only):
    """One float32 mask for all queries would be 21 MB here, and 85 MB at the tokens of 1024 pixels."""
    shape = (1, 1, 2304, 8)
    q, k, v = (mx.random.normal(shape, key=mx.random.key(seed)) for seed in range(3))
    mx.eval(q, k, v)

    def peak(attend):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(attend(q, k, v, 1))
        return (mx.get_peak_memory() - before) / 1e6  # MB

    plain = peak(attention)
    altered = peak(Altered((AddToScores(HERE, (1,), -math.inf, image_only),), 512))
    assert altered < plain + 8
