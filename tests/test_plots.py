"""Figures show what they say they show."""

from dataclasses import replace
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import stubs

from fluxnb import plots
from fluxnb.errors import InputError
from fluxnb.interventions import cut
from fluxnb.trust import Trust

matplotlib.use("agg")


@pytest.fixture(scope="module")
def run():
    return stubs.session().start("a cat", num_steps=3, shift=2.0).finish()


def pictures(figure):
    """What the panels show, in their order."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def titles(figure):
    """Those of the panels, which may be broken into lines."""
    return [axes.get_title().replace("\n", " ") for axes in figure.axes if axes.get_title().strip()]


def test_schedule_draws_every_sigma_of_every_run(run):
    figure = plots.schedule([run, run.fork(1, shift=4.0)])
    lines = figure.axes[0].lines
    assert [tuple(line.get_ydata()) for line in lines] == [run.sigmas, run.fork(1, shift=4.0).sigmas]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "shift 2, 3 steps",
        "shift 4, 3 steps",
    ]
    assert tuple(plots.schedule(run).axes[0].lines[0].get_ydata()) == run.sigmas


def test_schedule_points_out_marked_steps_with_their_noise_level(run):
    noted = [text.get_text() for text in plots.schedule(run, marked=[1, -1]).axes[0].texts]
    assert noted == [f"step 1: {run.sigmas[1]:.2f}", "step 3: 0.00"]
    with pytest.raises(InputError, match=r"a marked step is 4; give an integer in -1\.\.3"):
        plots.schedule(run, marked=[4])


def test_labels_of_neighbouring_marks_stand_on_both_sides(run):
    a, b = plots.schedule(run, marked=[1, 2]).axes[0].texts
    assert a.get_ha() != b.get_ha()


def test_labels_of_early_marks_stay_inside_of_the_axes():
    figure = plots.schedule(stubs.session().start("a cat", num_steps=20), marked=[1, 4, 5])
    figure.canvas.draw()
    (axes,) = figure.axes
    inside = axes.get_window_extent()
    assert all(inside.contains(*text.get_window_extent().min) for text in axes.texts)


@pytest.mark.parametrize("marked", [[2, 3], [3, 2], [1, 2, 3]])
def test_labels_of_early_neighbours_do_not_overlap(marked):
    figure = plots.schedule(stubs.session().start("a cat", num_steps=20), marked=marked)
    figure.canvas.draw()
    labels = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(labels) == len(marked)
    assert not any(a.overlaps(b) for a, b in combinations(labels, 2))


def test_own_sigmas_are_called_so():
    own = stubs.session().start("a cat", sigmas=(1, 0.3, 0))
    assert plots.schedule(own).axes[0].get_legend().get_texts()[0].get_text() == "own sigmas, 2 steps"


def test_two_lines_differ_in_more_than_colour(run):
    a, b = plots.schedule([run, run.fork(1, shift=4.0)]).axes[0].lines
    assert a.get_marker() != b.get_marker()


def test_filmstrip_shows_the_pictures_of_the_steps(run):
    figure = plots.filmstrip(run, count=2)
    expected = [np.array(run.image(i, kind)) for kind in ("clean", "noisy") for i in (0, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(pictures(figure), expected, strict=True))
    assert figure.axes[0].get_title() == "step 0, 1.00"


def test_filmstrip_shows_how_far_a_step_is_from_the_last(run):
    figure = plots.filmstrip(run, count=2, kinds=["difference"])
    first, last = pictures(figure)
    expected = np.abs(np.array(run.image(0), float) - np.array(run.image(2), float)).mean(axis=-1)
    assert np.allclose(first, expected, atol=1e-4)
    assert first.max() > 0
    assert not last.any()
    assert f"white: {expected.max():.0f} of 255" in figure.axes[0].get_ylabel()


def test_filmstrip_shows_no_step_twice(run):
    assert len(plots.filmstrip(run, count=9, kinds=["clean"]).axes) == 3
    assert len(plots.filmstrip(run, count=1, kinds=["clean"]).axes) == 1


def test_maps_lie_over_the_picture_with_their_words_as_titles(run):
    drawn = [run.attention(1, word) for word in ("a", "cat")]
    figure = plots.maps(run, drawn)
    assert titles(figure) == ["a", "cat"]
    for axes, one in zip(figure.axes, drawn, strict=False):
        under, over = axes.images
        assert np.array_equal(under.get_array(), np.array(run.image(1)))
        assert np.array_equal(over.get_array(), one.weights)
        assert over.get_clim() == (0, max(other.weights.max() for other in drawn))


def test_maps_of_several_steps_say_which(run):
    figure = plots.maps(run, run.attention("all", "cat"), same_scale=False)
    assert titles(figure) == ["cat, step 0", "cat, step 1", "cat, step 2"]


def test_maps_are_told_apart_by_what_differs(run):
    ways = ("word_to_image", "image_to_word")
    drawn = [run.attention(1, "cat", direction=way) for way in ways]
    assert titles(plots.maps(run, drawn)) == ["cat, word to image", "cat, image to word"]
    double, single = run.session.pipeline.blocks
    drawn = [run.attention(1, "cat", blocks=blocks, heads=head) for blocks, head in (("all", "mean"), (0, 1))]
    assert titles(plots.maps(run, drawn)) == [
        f"cat, blocks 0-{double + single - 1}, all heads",
        "cat, block 0, head 1",
    ]


def test_maps_of_other_blocks_say_which(run):
    blocks = (2, (0, 1, 2), (0, 3))
    figure = plots.maps(run, [run.attention(1, "cat", some) for some in blocks])
    assert titles(figure) == ["cat, block 2", "cat, blocks 0-2", "cat, blocks 0, 3"]


def test_concepts_are_drawn_one_panel_each(run):
    found = run.concepts(["cat", "dog"], step=1)
    figure = plots.maps(run, found)
    assert titles(figure) == ["cat", "dog"]
    assert np.array_equal(figure.axes[1].images[1].get_array(), found["dog"])


def test_maps_of_each_head_are_refused(run):
    with pytest.raises(InputError, match="one of each head; ask for heads='mean'"):
        plots.maps(run, run.attention(1, "cat", heads="each"))
    with pytest.raises(InputError, match="no maps"):
        plots.maps(run, [])


def test_a_ledger_is_drawn_as_bars_that_reach_one(run):
    account = run.ledger(step=1)
    figure = plots.ledger(account)
    axes = figure.axes[0]
    heights = np.array([[bar.get_height() for bar in group] for group in axes.containers])
    assert heights.shape == (len(account.keys), len(account.blocks))
    assert np.allclose(heights.sum(axis=0), 1, atol=1e-5)
    assert np.allclose(heights, account.bars("image tokens", "block").T)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == list(account.keys)[::-1]  # from top to bottom, as the bars stand


def test_the_foot_of_a_ledger_can_be_shown_larger(run):
    figure = plots.ledger(run.ledger(step=1), "cat", top=0.25)
    assert figure.axes[0].get_ylim() == (0, 0.25)
    assert titles(figure) == ["where 'cat' looks"]
    with pytest.raises(InputError, match="top is 2"):
        plots.ledger(run.ledger(step=1), top=2)


def test_groups_of_a_ledger_differ_in_more_than_colour(run):
    looks = {
        (group[0].get_facecolor(), group[0].get_hatch())
        for group in plots.ledger(run.ledger(step=1)).axes[0].containers
    }
    assert len(looks) == len(run.ledger(step=1).keys)


def test_an_effect_is_drawn_beside_the_map_and_both_ends(run):
    found = run.effect(cut("cat"), 1, pictures=True)
    figure = plots.effect(run, found)
    shown = pictures(figure)
    expected = [run.image(1), found.attention.weights, found.velocity, *found.pictures]
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(shown, expected, strict=True))
    assert "cut('cat')" in figure.get_suptitle()
    assert f"rank correlation {found.correlation:.2f}" in titles(figure)[1]


def test_a_tree_shows_each_run_from_its_fork_on(run):
    fork = run.fork(2, prompt="a dog").finish()
    figure = plots.tree(run, count=4)
    own = [axes for axes in figure.axes if axes.images]
    assert [axes.get_xlabel() for axes in own] == ["step 0", "step 1", "step 2", "end", "step 2", "end"]
    assert np.array_equal(own[-1].images[0].get_array(), np.array(fork.image()))
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert labels == [branch.label for branch in run.tree().branches]
    assert len(figure.patches) + len(figure.artists) == 1  # one fork, one line


def test_a_tree_shows_an_unfinished_run_so_far():
    root = stubs.session().start("a cat", num_steps=8).finish()
    fork = root.fork(3, prompt="a dog")  # between the columns for steps 2 and 4
    own = [axes for axes in plots.tree(root, count=5).figure.axes if axes.images]
    assert [axes.get_xlabel() for axes in own][-2:] == ["end", "so far"]
    assert np.array_equal(own[-1].images[0].get_array(), np.array(fork.image()))


def test_nothing_written_leaves_its_figure():
    run = stubs.session().start("a very long prompt about a cat", num_steps=2, latent_size=(4, 16)).finish()
    fork = run.fork(1, intervention=cut("cat", queries="image") + cut("prompt", blocks=(0, 1, 2)))
    for figure in (
        plots.tree(fork),
        plots.effect(run, run.effect(cut("cat") + cut("prompt", blocks=(0, 2)) + cut("long"), 1)),
        plots.maps(run, run.attention(1, "cat")),
        plots.maps(run, [run.attention(1, word) for word in (["very", "long", "prompt", "about"], "PAD")]),
    ):
        figure.draw_without_rendering(), figure.canvas.draw()  # the layout, then where all stands in it
        texts = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label, *axes.texts)]
        texts += [*figure.texts, *(axes.xaxis.label for axes in figure.axes)]
        boxes = np.array([text.get_window_extent().extents for text in texts if text.get_text().strip()])
        assert boxes.min() > -1 and (boxes[:, 2:] < figure.bbox.size + 1).all()  # pixels


def test_panels_have_the_shape_of_their_pictures():
    wide, tall = (
        plots.filmstrip(stubs.session().start("a cat", num_steps=2, latent_size=size).finish())
        for size in ((8, 16), (16, 8))
    )
    assert wide.get_figheight() < tall.get_figheight()
    for figure in (wide, tall):
        figure.canvas.draw()
        panel = figure.axes[0].get_window_extent()
        assert panel.width * panel.height > 0.3 * np.prod(figure.bbox.size) / 4


def test_a_tree_without_steps_is_refused():
    with pytest.raises(InputError, match="0 steps and count 5 make no tree"):
        plots.tree(stubs.session().start("a cat"))


def test_a_trajectory_is_drawn_from_noise_to_picture(run):
    way = run.trajectory()
    figure = plots.trajectory(way)
    plane, speed, turn = figure.axes
    states, cleans = (np.column_stack(line.get_data()) for line in plane.lines if line.get_label()[0] != "_")
    assert np.array_equal(states, way.path)
    assert np.array_equal(cleans, way.clean)
    assert np.array_equal(speed.lines[0].get_ydata(), way.speeds)
    assert np.array_equal(turn.lines[0].get_ydata(), way.angles)


def test_trust_is_drawn_with_its_interval_and_what_should_fail():
    one = Trust("image_to_word", "double", 0.5, 0.8, (0.7, 0.85), 0.2, 0.6, 0.3, 0.5, 0.1, 200, "fluxnb/demo")
    noisy = replace(one, sigma=0.9, average_precision=0.6, interval=(0.5, 0.7))
    rows = replace(one, method="word_to_image", text_only=None)
    figure = plots.trust([rows, replace(rows, blocks="all", absent_word=0.7), noisy, one])
    left, axes = figure.axes
    line = axes.containers[0].lines[0]
    assert np.array_equal(line.get_xydata(), [(0.5, 0.8), (0.9, 0.6)])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "double blocks",
        "all blocks",
        "absent word",
        "text only",
        "other word",
        "untrained",
        "noise",
    }
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["absent word"] == [[0.5, 0.6], [0.9, 0.6]] and drawn["text only"] == [[0.5, 0.5], [0.9, 0.5]]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert drawn["absent word"] == [[0.5, 0.7]] and "text only" not in drawn
    assert "fluxnb/demo, 200 scenes" in figure.get_suptitle()
    with pytest.raises(InputError, match="nothing was measured"):
        plots.trust([one], blocks=["single"])


def test_trust_of_single_blocks_is_told_apart():
    legend = plots.trust(blocks=("0", "3", "later")).legends[0]
    assert [text.get_text() for text in legend.get_texts()][:3] == ["block 0", "block 3", "later blocks"]


def test_figures_are_not_left_open(run):
    plots.schedule(run), plots.filmstrip(run), plots.trajectory(run.trajectory())
    assert plt.get_fignums() == []


def test_nothing_to_draw_is_said(run):
    with pytest.raises(InputError, match="no runs"):
        plots.schedule([])
    with pytest.raises(InputError, match="0 steps"):
        plots.filmstrip(run.fork(0))


def test_dollars_in_a_prompt_are_no_mathematics():
    run = stubs.session().start("a $cat_$ for $x^$", num_steps=2).finish()
    maps = [run.attention(1, word) for word in ("$cat_$", "$x^$")]
    other = run.fork(1, prompt="a hat for $5 or $6").finish()
    figures = [plots.maps(run, maps), plots.ledger(run.ledger(), "$x^$"), plots.tree(other)]
    for figure in figures:
        figure.figure.canvas.draw()  # a formula that is none raises
