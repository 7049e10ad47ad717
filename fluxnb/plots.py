"""Figures of runs for notebooks and papers, by matplotlib; each function returns a Figure, saved nowhere.

Colours are matplotlib's default cycle on its default ground, so a style sheet of the user's applies.
"""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fluxnb.errors import InputError
from fluxnb.run import Run


def schedule(runs: Run | Iterable[Run]) -> Figure:
    """Draws the noise level before each step of one or several runs, and after the last.

    Args:
        runs: At least one, finished or not.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    if not runs:
        raise InputError("no runs to draw; give at least one")
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for run in runs:
        shift = "own sigmas" if run.shift is None else f"shift {run.shift:.3g}"
        axes.plot(run.sigmas, marker="o", markersize=3, label=f"{shift}, {run.num_steps} steps")
    axes.set(xlabel="step", ylabel="noise level sigma", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    plt.close(figure)  # a notebook shows what is returned; left open, it would show it twice
    return figure


def filmstrip(run: Run, count: int = 6, kinds: Iterable[str] = ("clean", "noisy")) -> Figure:
    """Draws pictures of a run's steps side by side, a row for each kind.

    Args:
        run: At least one step of it must be made.
        count: Pictures of a row at most, spread evenly from the first step to the last.
        kinds: Of picture, as in `Run.image`: "clean", "noisy".
    """
    kinds, last = tuple(kinds), len(run.steps) - 1
    if last < 0 or not kinds or count < 1:
        raise InputError(
            f"{last + 1} steps, kinds {kinds!r} and count {count!r} make no filmstrip; "
            "it takes at least one of each: call run.finish() first"
        )
    shown = sorted({round(i * last / max(count - 1, 1)) for i in range(count)})
    figure, rows = plt.subplots(
        len(kinds),
        len(shown),
        figsize=(1.5 * len(shown), 1.6 * len(kinds)),
        layout="constrained",
        squeeze=False,
    )
    for kind, row in zip(kinds, rows, strict=True):
        for i, axes in zip(shown, row, strict=True):
            axes.imshow(run.image(i, kind))
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"step {i}, {run.steps[i].sigma:.2f}", fontsize="small")
        row[0].set_ylabel(kind)
    plt.close(figure)
    return figure
