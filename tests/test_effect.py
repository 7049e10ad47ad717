"""The effect of an intervention: maps of change, beside the attention, against their definitions."""

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb.effect import rank_correlation
from fluxnb.errors import InputError
from fluxnb.interventions import Intervention, cut, cut_block, cut_head, scale, swap

PROMPT = "a cat and a sunflower"


@pytest.fixture(scope="module")
def run():
    start = stubs.session().start(PROMPT, latent_size=(8, 12), cfg_weight=2.0, negative_text="fog")
    return start.finish()


@pytest.fixture(scope="module")
def effect(run):
    return run.effect(cut("sunflower"), step=1)


def test_the_maps_are_norms_of_the_change_over_each_tokens_cells(run, effect):
    fork = run.fork(1, intervention=cut("sunflower"))
    change = np.array(fork.advance().velocity - run.steps[1].velocity, np.float64)[0]  # (8, 12, 16)
    norms = np.sqrt((change.reshape(4, 2, 6, 2, 16) ** 2).sum(axis=(1, 3, 4)))
    assert effect.velocity.shape == (4, 6) and effect.velocity.dtype == np.float32
    assert effect.velocity == pytest.approx(norms, rel=1e-4)
    whole = np.linalg.norm(change) / np.linalg.norm(np.array(run.steps[1].velocity))
    assert effect.relative == pytest.approx(whole, rel=1e-4) and whole > 1e-3


def test_the_change_of_the_clean_picture_is_sigma_times_that_of_the_velocity(run, effect):
    fork = run.fork(1, intervention=cut("sunflower"))
    fork.advance()
    before, after = (
        np.array(r.steps[1].latents - r.steps[1].sigma * r.steps[1].velocity)[0] for r in (run, fork)
    )
    norms = np.sqrt(((after - before).reshape(4, 2, 6, 2, 16) ** 2).sum(axis=(1, 3, 4)))
    assert effect.clean == pytest.approx(norms, rel=1e-3)


def test_the_map_beside_it_is_the_words_own(run, effect):
    heard = run.attention(1, "sunflower", blocks="all", direction="image_to_word")
    assert np.array_equal(effect.attention.weights, heard.weights)
    assert effect.correlation == rank_correlation(effect.velocity, heard.weights)
    other = run.effect(cut("sunflower"), 1, word="cat", direction="word_to_image")
    assert (other.attention.word, other.attention.direction) == ("cat", "word_to_image")
    assert run.effect(swap("cat", "sunflower"), 1).attention.word == "cat"
    assert run.effect(cut_head(0, 0), 1).attention is run.effect(cut_head(0, 0), 1).correlation is None


@pytest.mark.parametrize(("subject", "label"), [("PAD", "PAD tokens"), ("end", "end token"), (2, "token 2")])
def test_groups_and_positions_have_an_effect_and_the_map_of_their_own(run, subject, label):
    made, fork = run.effect(cut(subject), 1), run.fork(1, intervention=cut(subject))
    heard = run.attention(1, subject, blocks="all", direction="image_to_word")
    assert made.attention.word == label
    assert np.array_equal(made.attention.weights, heard.weights)
    change = mx.linalg.norm(fork.advance().velocity - run.steps[1].velocity)
    assert made.relative == pytest.approx((change / mx.linalg.norm(run.steps[1].velocity)).item(), rel=1e-4)
    assert made.relative > 1e-3


@pytest.mark.parametrize("nothing", [Intervention(), scale("cat", 1)])
def test_no_change_has_no_effect_at_all(run, nothing):
    made = run.effect(nothing + scale("cat", 1), -1)
    assert (made.step, made.relative, made.velocity.max()) == (3, 0, 0)


def test_the_pictures_are_the_runs_own_and_that_of_a_fork(run):
    without, with_cut = run.effect(cut("cat"), 1, pictures=True).pictures
    assert np.array_equal(without, run.image())
    assert np.array_equal(with_cut, run.fork(1, intervention=cut("cat")).finish().image())
    assert not np.array_equal(without, with_cut)


def test_a_run_on_its_way_stays_as_it_is():
    run = stubs.session().start(PROMPT)
    run.advance()
    pictures = run.effect(cut("cat"), 0, pictures=True).pictures
    assert len(run.steps) == 1 and np.array_equal(pictures[0], run.finish().image())


def test_what_the_run_has_already_is_in_both(run):
    fork = run.fork(0, intervention=cut("cat")).finish()
    both = run.fork(0, intervention=cut("cat") + cut("and"))
    made = fork.effect(cut("and"), 0)
    change = mx.linalg.norm(both.advance().velocity - fork.steps[0].velocity)
    assert made.relative == pytest.approx((change / mx.linalg.norm(fork.steps[0].velocity)).item(), rel=1e-5)
    assert fork.effect(cut("cat"), 0).relative == 0


def test_the_pictures_leave_out_what_was_over_before_the_step(run):
    first = cut("cat", steps=(0, 2))
    fork = run.fork(0, intervention=first).finish()
    _, drawn = fork.effect(cut("and"), 3, pictures=True).pictures
    assert drawn == fork.fork(3, intervention=cut("and")).finish().image()
    _, drawn = run.effect(first + cut("and"), 3, pictures=True).pictures
    assert drawn == run.fork(3, intervention=cut("and")).finish().image()


def test_a_shared_step_is_asked_of_the_run_that_made_it(run):
    fork = run.fork(2, prompt="a dog").finish()
    assert np.array_equal(fork.effect(cut("cat"), 1).velocity, run.effect(cut("cat"), 1).velocity)
    with pytest.raises(InputError, match="no word 'cat'; its words are 'a', 'dog'"):
        fork.effect(cut("cat"), 2)


@pytest.mark.parametrize(
    ("made", "step", "message"),
    [
        ("cat", 0, r"intervention is 'cat'; give one, e\.g\. fluxnb\.interventions\.cut\('cat'\)"),
        (cut("dog"), 0, "no word 'dog'"),
        (cut("cat"), 4, r"step is 4; give an integer in -1\.\.3"),
        (cut("cat", steps=(0, 2)), 2, r"cut\('cat', steps=\(0, 2\)\) is not meant for step 2"),
        (cut("cat", steps=(0, 5)), 2, "steps 0 to 4, but there are 0 to 3"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_exists(run, made, step, message):
    with pytest.raises(InputError, match=message):
        run.effect(made, step)


def test_a_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3, 4], [10, 200, 3000, 40000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, -9]) == pytest.approx(-1)
    # four ranks are off by one: 1 - 6 * 4 / (n (n^2 - 1)), n = 6
    assert rank_correlation([[1, 2, 3], [4, 5, 6]], [[2, 1, 4], [3, 5, 6]]) == pytest.approx(
        1 - 6 * 4 / (6 * 35)
    )
    # ties share 0.5: ranks 0.5, 0.5, 2 and 0, 1, 2
    assert rank_correlation([7, 7, 9], [1, 2, 3]) == pytest.approx(1.5 / np.sqrt(1.5 * 2))
    assert np.isnan(rank_correlation([1, 1], [1, 2]))


def test_attention_of_a_changed_step_is_the_changed_attention(run):
    fork = run.fork(1, intervention=cut("cat", queries="image") + cut_block(1)).finish()
    heard = fork.attention(2, "cat", blocks=[0, 2], direction="image_to_word")
    assert heard.weights.max() < 1e-6 < run.attention(2, "cat", 0, direction="image_to_word").weights.min()
    row = fork.attention(2, "cat", 0, direction="word_to_image")
    assert row.weights.sum() > 0.01  # what the word itself looks at is not cut
    assert np.array_equal(fork.attention(0, "cat").weights, run.attention(0, "cat").weights)
