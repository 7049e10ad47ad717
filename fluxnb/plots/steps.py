"""Figures of steps: the schedule, the pictures on the way, the way itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from fluxnb import checks
from fluxnb.errors import InputError
from fluxnb.plots.canvas import COLOURS, panels, shaped, show, styles
from fluxnb.run import KINDS, Run
from fluxnb.trajectory import Trajectory

ROWS = (*KINDS, "difference")
"""What a row of a filmstrip can show."""


def schedule(runs: Run | Iterable[Run], marked: Iterable[int] = ()) -> Figure:
    """Draws the noise level before each step of one or several runs, and after the last.

    Args:
        runs: At least one, finished or not.
        marked: Steps of the first run to point out with their noise level; -1 is the state after the last.

    Raises:
        InputError: if there are no runs, or no such step.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    if not runs:
        raise InputError("no runs to draw; give at least one")
    figure, grid = panels(1, 1, (6.2, 3))
    axes = grid[0, 0]
    for run, (colour, marker, _) in zip(runs, styles(), strict=False):
        shift = "own sigmas" if run.shift is None else f"shift {run.shift:.3g}"
        label = f"{shift}, {run.num_steps} step{'s' if run.num_steps > 1 else ''}"
        axes.plot(run.sigmas, color=colour, marker=marker, markersize=4, label=label)
    last = runs[0].num_steps
    steps = sorted({checks.whole("a marked step", step, -1, last) % (last + 1) for step in marked})
    early = [step for step in steps if step <= last / 5]
    for i, step in enumerate(steps):
        sigma = runs[0].sigmas[step]
        axes.plot(step, sigma, "o", markersize=11, markerfacecolor="none", markeredgecolor="grey")
        is_below = step not in (*early, last) and not i % 2  # neighbours' labels stand on both sides
        rank = sum(step < other for other in early)  # or, where there is no room on the left, ever higher
        axes.annotate(
            f"step {step}: {sigma:.2f}",
            (step, sigma),
            (-7, -7) if is_below else (8, 5 + 9 * rank),
            ha="right" if is_below else "left",
            va="top" if is_below else "bottom",
            textcoords="offset points",
            fontsize="small",
        )
    axes.set(xlabel="step", ylabel="noise level sigma", ylim=(-0.06, 1.15))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def filmstrip(run: Run, count: int = 6, kinds: Iterable[str] = ("clean", "noisy")) -> Figure:
    """Draws pictures of a run's steps side by side, a row for each kind.

    Args:
        run: At least one step of it must be made.
        count: Pictures of a row at most, spread evenly from the first step to the last.
        kinds: "clean" and "noisy" as in `Run.image`; "difference": how far the clean picture is from that of
            the last step, the mean over the colours; white is the largest in the row, black is none.

    Raises:
        InputError: if there is no step, no kind or no picture to draw.
    """
    kinds, last = tuple(kinds), len(run.steps) - 1
    if last < 0 or not kinds or count < 1:
        raise InputError(
            f"{last + 1} steps, kinds {kinds!r} and count {count!r} make no filmstrip; "
            "it takes at least one of each: call run.finish() first"
        )
    for kind in kinds:
        checks.choice("a kind", kind, ROWS)
    shown = sorted({round(i * last / max(count - 1, 1)) for i in range(count)})
    width, height = shaped(run.latent_size, 1.5)
    figure, rows = panels(len(kinds), len(shown), (width, height + 0.2))
    for kind, row in zip(kinds, rows, strict=True):
        pictures, options, label = (
            _differences(run, shown)
            if kind == "difference"
            else ([run.image(i, kind) for i in shown], {}, kind)
        )
        for i, picture, axes in zip(shown, pictures, row, strict=True):
            show(axes, picture, f"step {i}, {run.steps[i].sigma:.2f}", **options)
        row[0].set_ylabel(label)
    return figure


def _differences(run: Run, steps: list[int]) -> tuple[list[np.ndarray], dict, str]:
    """Returns how far the clean pictures are from the last one, each (H, W), 0..255, and how to show it."""
    final = np.asarray(run.image(len(run.steps) - 1), np.float32)
    away = [np.abs(np.asarray(run.image(i), np.float32) - final).mean(axis=-1) for i in steps]
    largest = max(one.max() for one in away)
    return (
        away,
        {"cmap": "gray", "vmin": 0, "vmax": largest or 1},
        f"difference\n(white: {largest:.0f} of 255)",
    )


def trajectory(way: Trajectory) -> Figure:
    """Draws the way of a run in the plane where most of it happens, and its speed and turns by steps.

    Left, the states from noise to picture, and the clean picture that each step's straight line ends in,
    joined by thin lines; one scale for both axes. Right, the length of the velocity, and its turns.

    Args:
        way: As `Run.trajectory` returns it.
    """
    figure, grid = panels(1, 3, (3.4, 3.4))
    plane, speed, turn = grid[0]
    for before, clean in zip(way.path, way.clean, strict=False):
        plane.plot(*zip(before, clean, strict=True), color="grey", linewidth=0.4)
    plane.plot(*way.path.T, color=COLOURS[0], marker="o", markersize=4, label="latents")
    plane.plot(
        *way.clean.T, color=COLOURS[1], marker="s", markersize=4, linestyle="--", label="clean picture"
    )
    for (x, y), name in ((way.path[0], "noise"), (way.path[-1], "picture")):
        plane.annotate(name, (x, y), (5, 5), textcoords="offset points", fontsize="small")
    first, second = way.explained
    plane.set(xlabel=f"1st component, {first:.0%} of variance", ylabel=f"2nd component, {second:.0%}")
    plane.margins(0.15)  # room for the two words
    plane.set_aspect("equal", adjustable="datalim")
    plane.legend(frameon=False, fontsize="small")
    speed.plot(way.speeds, color=COLOURS[0], marker="o", markersize=4)
    speed.set(xlabel="step", ylabel="length of the velocity (RMS)", ylim=(0, None))
    turn.plot(range(1, len(way.speeds)), way.angles, color=COLOURS[5], marker="^", markersize=4)
    turn.set(xlabel="step", ylabel="turn from the step before (degrees)", ylim=(0, None))
    for axes in (speed, turn):
        axes.set_xlim(-0.5, len(way.speeds) - 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return figure
