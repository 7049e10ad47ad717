"""Scores of maps, by hand and against brute force."""

import numpy as np
import pytest

from fluxnb.training import scoring


def brute_average_precision(values, inside):
    """Each threshold by itself: precision times what it adds to recall."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        taken = [bool(i) for v, i in zip(values, inside, strict=True) if v >= threshold]
        recall = sum(taken) / sum(inside)
        area += (recall - before) * sum(taken) / len(taken)
        before = recall
    return area


def test_average_precision_by_hand():
    inside = np.array([True, False, True, False])
    assert scoring.average_precision(np.array([4.0, 3, 2, 1]), inside) == pytest.approx((1 + 2 / 3) / 2)
    assert scoring.average_precision(np.array([4.0, 1, 3, 2]), inside) == 1
    assert scoring.average_precision(np.array([1.0, 4, 2, 3]), inside) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert scoring.average_precision(np.ones(4), inside) == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_its_definition_ties_included(seed):
    rng = np.random.default_rng(seed)
    values, inside = rng.integers(0, 12, 40) / 7, rng.random(40) < 0.3
    inside[0] = True
    assert scoring.average_precision(values, inside) == pytest.approx(brute_average_precision(values, inside))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_iou_is_the_highest_over_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    picture, shares = rng.integers(0, 9, (4, 5)).astype(float), rng.random((4, 5))
    inside = shares >= 0.5
    expected = max(scoring.iou(picture >= threshold, inside) for threshold in np.unique(picture))
    assert scoring.score(picture, shares).iou_best == pytest.approx(expected)


def test_a_map_that_is_its_mask_scores_highest():
    shares = np.zeros((4, 4))
    shares[1:3, 1:3] = 1
    made = scoring.score(shares, shares)
    assert made == scoring.Scores(1, 1, 1, 1, lift=4)


def test_the_opposite_of_a_mask_scores_lowest():
    shares = np.zeros((4, 4))
    shares[1:3, 1:3] = 1
    made = scoring.score(1 - shares, shares)
    assert (made.iou_mean, made.pointing, made.lift) == (0, 0, 0)
    assert made.average_precision == made.iou_best == 0.25  # all tokens under one threshold


def test_a_flat_map_gets_the_share_of_the_mask():
    shares = np.array([[1.0, 0.6, 0.2, 0]])
    assert scoring.score(np.full((1, 4), 0.3), shares) == scoring.Scores(0.5, 0.5, 0, 0.5, pytest.approx(1))


def test_the_lift_counts_tokens_by_what_is_covered_of_them():
    shares = np.array([[0.75, 0.25, 0, 0]])
    made = scoring.score(np.array([[6.0, 2, 1, 1]]), shares)
    assert made.lift == pytest.approx((0.6 * 0.75 + 0.2 * 0.25) / 0.25)


def test_iou_at_the_mean_takes_what_is_above_it():
    shares = np.array([[1.0, 1, 0, 0]])
    assert scoring.score(np.array([[5.0, 1, 4, 0]]), shares).iou_mean == pytest.approx(1 / 3)  # mean 2.5


@pytest.mark.parametrize("shares", [np.zeros((2, 2)), np.ones((2, 2)), np.full((2, 2), 0.49)])
def test_where_nothing_can_be_found_there_is_no_score(shares):
    assert scoring.score(np.arange(4.0).reshape(2, 2), shares) is None


def test_a_tokens_share_is_the_mean_of_its_pixels():
    mask = np.zeros((32, 48), bool)
    mask[:8, 16:32] = True
    mask[16:, 40:] = True
    assert np.array_equal(scoring.token_shares(mask), [[0, 0.5, 0], [0, 0, 0.5]])


def test_a_bootstrap_holds_the_mean_and_narrows_with_more_scenes():
    rng = np.random.default_rng(1)
    few, many = rng.normal(3, 1, 30), rng.normal(3, 1, 3000)
    (mean, low, high), (_, low2, high2) = (scoring.bootstrap(np.arange(len(x)), x)[0] for x in (few, many))
    assert mean == pytest.approx(few.mean()) and low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * few.std() / np.sqrt(30), rel=0.15)
    assert high2 - low2 < 0.2 * (high - low)


def test_a_bootstrap_draws_scenes_and_not_objects():
    """Each value ten times in a scene of its own tells no more than once."""
    values = np.random.default_rng(2).normal(size=50)
    once = scoring.bootstrap(np.arange(50), values)
    tenfold = scoring.bootstrap(np.repeat(np.arange(50), 10), np.repeat(values, 10))
    assert tenfold == pytest.approx(once)


def test_a_bootstrap_of_several_columns_does_each():
    values = np.random.default_rng(3).normal(size=(20, 2))
    both = scoring.bootstrap(np.arange(20), values)
    assert both.shape == (2, 3)
    assert both[1] == pytest.approx(scoring.bootstrap(np.arange(20), values[:, 1])[0])
