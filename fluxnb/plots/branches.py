"""The figure of a family of runs: a row a run, its pictures where it went its own way."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.transforms import blended_transform_factory

from fluxnb.errors import InputError
from fluxnb.family import Tree
from fluxnb.plots.canvas import COLOURS, SMALL, panels, shaped, show, wrapped
from fluxnb.run import Run


def tree(tree: Tree | Run, count: int = 5) -> Figure:
    """Draws a family of runs: what each believed in at some steps, from where it branched off to its end.

    A line leads from the picture of the parent at which a run branched off to its own first one.

    Args:
        tree: As `Run.tree` returns it, or a run, for its family.
        count: Columns: steps spread evenly from the first to the last of the longest run.

    Raises:
        InputError: if no run has made a step, or `count` is below 2.
    """
    tree = tree.tree() if isinstance(tree, Run) else tree
    longest = max(len(branch.run.steps) for branch in tree.branches)
    if not longest or count < 2:
        raise InputError(
            f"{longest} steps and count {count!r} make no tree; it takes a step and 2 columns at least"
        )
    # `longest` stands for the state after the last step
    steps = sorted({round(i * longest / (count - 1)) for i in range(count)})
    width, height = shaped(tree.branches[0].run.latent_size)
    figure, grid = panels(len(tree.branches), len(steps), (width, height + 0.4))
    figure.get_layout_engine().set(w_pad=0.08)
    first = []  # column of each run's first own picture
    for row, branch in zip(grid, tree.branches, strict=True):
        made = len(branch.run.steps)
        own = [i for i, step in enumerate(steps) if branch.at <= step <= made]
        if not own or not made:  # where no column is of its own steps, the next one shows its last
            own = [i for i, step in enumerate(steps) if step >= made > 0][:1]
        first.append(own[0] if own else 0)
        for i, axes in enumerate(row):
            if i in own:
                show(axes, branch.run.image(min(steps[i], made - 1)))
                last = "end" if branch.run.done else "so far"
                axes.set_xlabel(f"step {steps[i]}" if steps[i] < made else last, fontsize="small")
            else:
                axes.set_axis_off()
        _label(row, first[-1], branch.label, width)
    for i, branch in enumerate(tree.branches):
        if branch.parent is not None:
            before = [j for j, step in enumerate(steps) if step <= branch.at]
            start = grid[branch.parent, max(before[-1], first[branch.parent])]
            _connect(figure, start, grid[i, first[i]])
    return figure


def _label(row: Sequence[Axes], first: int, text: str, width: float) -> None:
    """Writes a label over a row from its first picture on, or from as far to the left as it takes."""
    text = wrapped(text, width * len(row))
    lines = text.split("\n")
    columns = math.ceil(max(map(len, lines)) * SMALL / width)
    start = row[max(0, min(first, len(row) - columns))]
    place = blended_transform_factory(start.transAxes, row[first].transAxes)
    row[first].set_title("\n".join(" " for _ in lines), fontsize="small")  # room for it
    label = row[first].text(0, 1.06, text, transform=place, fontsize="small")
    label.set_in_layout(False)  # it may be as long as the row, and widens no column


def _connect(figure: Figure, start, end) -> None:
    """Draws a line from the foot of one panel to the left edge of another."""
    figure.add_artist(
        ConnectionPatch(
            xyA=(-0.03, 0),
            coordsA=start.transAxes,
            xyB=(-0.01, 0.5),
            coordsB=end.transAxes,
            color=COLOURS[0],
            linewidth=1.5,
            arrowstyle="-|>",
            connectionstyle="angle,angleA=-90,angleB=180,rad=0",
        )
    )
