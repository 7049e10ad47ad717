"""The figures that maps carry: found by kind, nearest noise level, and said with where they come from."""

import json
import subprocess
import sys

import pytest
import stubs

from fluxnb import trust
from fluxnb.interventions import cut, cut_block
from fluxnb.probe import Probe

SCORES = ("average_precision", "iou_best", "iou_mean", "pointing", "lift")
METHODS = ("word_to_image", "image_to_word")


def test_a_figure_is_found_by_method_blocks_and_the_nearest_sigma():
    results = json.loads(trust.RESULTS.read_text())
    one = next(
        one
        for one in results["maps"]
        if (one["method"], one["blocks"], one["sigma"]) == ("image_to_word", "double", 0.5)
    )
    found = trust.lookup("image_to_word", "double", 0.47)
    value, low, high = one["average_precision"]
    assert (found.method, found.blocks, found.sigma) == ("image_to_word", "double", 0.5)
    assert (found.average_precision, found.interval) == (value, (low, high))
    assert found.untrained == one["controls"]["untrained"][0]
    assert found.other_word == one["controls"]["other_word"][0]
    assert (found.scenes, found.noise, found.model) == (200, results["noise"][0], "fluxnb/demo")
    assert trust.lookup("image_to_word", "double", 1.0).sigma == 0.9
    assert trust.lookup("image_to_word", "double", 0.0).sigma == 0.1


@pytest.mark.parametrize(
    ("numbers", "depth", "group"),
    [
        ((0, 1), None, "double"),
        ((2, 3, 4, 5), None, "single"),
        (tuple(range(6)), None, "all"),
        ((3,), None, "3"),
        ((3,), (2, 4), "3"),
        (tuple(range(19)), (19, 38), "double"),
        (tuple(range(19, 57)), (19, 38), "single"),
        (tuple(range(57)), (19, 38), "all"),
        ((0,), (1, 0), "double"),
    ],
)
def test_numbers_of_blocks_are_known_by_the_group_that_they_are(numbers, depth, group):
    assert trust.lookup("word_to_image", numbers, 0.5, depth).blocks == group


def test_concepts_are_known_by_the_later_half_of_the_double_blocks():
    assert trust.lookup("concepts", (1,), 0.5).blocks == "later"
    assert trust.lookup("concepts", tuple(range(9, 19)), 0.5, (19, 38)).blocks == "later"
    assert trust.lookup("image_to_word", (1,), 0.5).blocks == "1"


@pytest.mark.parametrize(
    ("method", "numbers", "depth"),
    [
        ("word_to_image", (0, 2), None),
        ("word_to_image", (3,), (19, 38)),
        ("word_to_image", (), (2, 0)),
        ("rows", (0, 1), None),
        ("concepts", (2, 3, 4, 5), None),
        ("image_to_word", "triple", None),
    ],
)
def test_what_was_not_measured_has_no_figure(method, numbers, depth):
    assert trust.lookup(method, numbers, 0.5, depth) is None


def test_a_figure_says_what_it_is_and_on_which_model_it_was_measured():
    known = trust.Trust("image_to_word", "double", 0.5, 0.912, (0.87, 0.95), 0.2, 0.25, 0.16, 200, "a demo")
    assert str(known) == (
        "On 200 scenes with exact masks, columns of double blocks at sigma 0.5 found the word's object with "
        "an average precision of 0.91 (0.87 to 0.95); the other object's word got 0.25, an untrained network "
        "0.20, noise 0.16. Measured on a demo and no other model."
    )
    assert "rows of block 3 at" in str(trust.lookup("word_to_image", "3", 0.5))


def test_every_kind_of_map_is_measured_at_every_sigma():
    known = {(one.method, one.blocks, one.sigma) for one in trust.measured()}
    groups = (*map(str, range(6)), "double", "single", "all")
    sigmas = (0.9, 0.7, 0.5, 0.3, 0.1)
    assert known >= {(m, g, s) for m in METHODS for g in groups for s in sigmas}
    assert known >= {("concepts", g, s) for g in ("0", "1", "double", "later") for s in sigmas}
    assert all(one.interval[0] <= one.average_precision <= one.interval[1] for one in trust.measured())


def test_the_results_come_with_intervals_and_controls():
    for one in json.loads(trust.RESULTS.read_text())["maps"]:
        for figure in (*(one[name] for name in SCORES), *one["controls"].values()):
            assert len(figure) == 3 and figure[1] <= figure[0] <= figure[2]
        assert {"untrained", "other_word", "absent_word"} <= set(one["controls"])


def test_nothing_is_read_before_it_is_asked_for():
    program = (
        "import fluxnb.trust as t; assert t._read.cache_info().currsize == 0; t.measured(); t.measured()"
    )
    program += "; assert t._read.cache_info().misses == 1"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_maps_of_words_carry_the_figure_of_their_kind():
    run = stubs.session().start("a cat and a sunflower", num_steps=2).finish()
    for direction in METHODS:
        made = run.attention(1, "cat", "double", direction=direction)
        assert made.trust == trust.lookup(direction, "double", run.sigmas[1])
    assert run.attention(1, "cat", "all").trust.blocks == "all"
    assert run.attention(1, "cat", 0).trust is None  # no counterpart in the demo model
    assert run.attention(1, "cat", "double", heads=0).trust is None
    assert run.attention(1, "PAD", "double").trust is None
    assert run.attention(1, (0, 1), "double").trust is None
    assert run.attention(1, ["cat", "sunflower"], "double").trust is None
    assert run.attention(1, ["cat"], "double").trust == run.attention(1, "cat", "double").trust
    assert run.attention(1, run.words[1], "double").trust == run.attention(1, "cat", "double").trust
    assert run.attention(1, run.words[3].tokens[0], "double").trust is None  # a piece of a word


def test_maps_of_a_step_with_an_intervention_carry_none():
    run = stubs.session().start("a cat", num_steps=3, probes=[Probe("cat")])
    run = run.fork(0, intervention=cut("a", steps=(1, 2)), probes=[Probe("cat")]).finish()
    figures = [one.trust is not None for one in run.attention("all", "cat")]
    assert figures == [True, False, True] == [maps[0].trust is not None for maps in run.maps]
    assert [run.concepts(["cat", "sky"], step).trust is not None for step in range(3)] == figures
    assert run.fork(1, intervention=cut_block(0)).finish().attention(1, "cat", "double").trust is None


def test_concept_maps_carry_the_figure_of_one_step():
    run = stubs.session().start("a cat", num_steps=2).finish()
    assert run.concepts(["cat", "sky"], 0).trust == trust.lookup("concepts", "later", 1.0)
    assert run.concepts(["cat", "sky"], "all").trust is None
