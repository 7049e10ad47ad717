"""Figures show what they say they show."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import stubs

from fluxnb import plots
from fluxnb.errors import InputError

matplotlib.use("agg")


@pytest.fixture(scope="module")
def run():
    return stubs.session().start("a cat", num_steps=3, shift=2.0).finish()


def test_schedule_draws_every_sigma_of_every_run(run):
    figure = plots.schedule([run, run.fork(1, shift=4.0)])
    lines = figure.axes[0].lines
    assert [tuple(line.get_ydata()) for line in lines] == [run.sigmas, run.fork(1, shift=4.0).sigmas]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "shift 2, 3 steps",
        "shift 4, 3 steps",
    ]
    assert tuple(plots.schedule(run).axes[0].lines[0].get_ydata()) == run.sigmas


def test_filmstrip_shows_the_pictures_of_the_steps(run):
    figure = plots.filmstrip(run, count=2)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    expected = [np.array(run.image(i, kind)) for kind in ("clean", "noisy") for i in (0, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
    assert figure.axes[0].get_title() == "step 0, 1.00"


def test_filmstrip_shows_no_step_twice(run):
    assert len(plots.filmstrip(run, count=9, kinds=["clean"]).axes) == 3
    assert len(plots.filmstrip(run, count=1, kinds=["clean"]).axes) == 1


def test_figures_are_not_left_open(run):
    plots.schedule(run), plots.filmstrip(run)
    assert plt.get_fignums() == []


def test_nothing_to_draw_is_said(run):
    with pytest.raises(InputError, match="no runs"):
        plots.schedule([])
    with pytest.raises(InputError, match="0 steps"):
        plots.filmstrip(run.fork(0))
