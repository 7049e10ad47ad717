"""Draw the logs of a training run as curves, RUN/curves.png; knows only CSV files.

    python -m fluxnb.training.curves --out RUN

A stage whose log is not there, or not yet, has no panel. What a log counts as shares of right answers,
columns other than those of `NO_SHARES`, goes into one panel.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fluxnb.plots.canvas import panels, row_of, styles

LOGS = {
    "vae": "autoencoder",
    "decoder": "decoder alone",
    "text": "text encoders",
    "transformer": "transformer",
    "judge": "judge",
}
"""Each log's file name without its suffix, and what is written over its panels."""

PANEL = (4.2, 2.8)  # inches
NO_SHARES = {"step", "minutes", "samples", "loss", "psnr", "latent_std"}


def read_log(file: Path) -> dict[str, np.ndarray]:
    """Columns of a log by name; of a step told twice, which a stop can cause, the last row counts."""
    with file.open(newline="") as opened:
        rows = {row["step"]: row for row in csv.DictReader(opened)}
    names = next(iter(rows.values()), {})
    return {name: np.array([float(row[name]) for row in rows.values()]) for name in names}


def draw_curves(out: Path) -> Figure:
    """Loss against samples or steps, PSNR against steps, shares of right answers against steps.

    Raises:
        FileNotFoundError: If no stage has written a log.
    """
    wanted = []
    for name, title in LOGS.items():
        file = out / f"{name}.csv"
        log = read_log(file) if file.exists() else {}
        shares = [column for column in log if column not in NO_SHARES]
        for columns, label in ((["loss"], "loss"), (["psnr"], "PSNR in dB"), (shares, "right answers")):
            if set(columns) <= set(log) and columns:
                wanted.append((title, log, columns, label))
    if not wanted:
        raise FileNotFoundError(f"no log in {out}: none of {', '.join(f'{name}.csv' for name in LOGS)}")
    figure, grid = panels(*row_of(len(wanted), most=3), PANEL)
    for axes, one in zip(grid.flat, wanted, strict=False):
        _curve(axes, *one)
    for axes in grid.flat[len(wanted) :]:
        axes.set_axis_off()
    return figure


def _curve(axes: Axes, title: str, log: dict[str, np.ndarray], columns: list[str], label: str) -> None:
    """One panel: some columns of a log."""
    along = "samples" if "samples" in log else "step"
    for column, (colour, marker, _) in zip(columns, styles(), strict=False):
        sparse = max(1, len(log[along]) // 8)  # rows to a marker
        axes.plot(
            log[along], log[column], color=colour, marker=marker, markersize=4, markevery=sparse,
            label=column.replace("_", " "),
        )  # fmt: skip
    axes.set(title=title, xlabel=along if along == "samples" else "steps", ylabel=label)
    if label == "loss":
        axes.set_yscale("log")
    if len(columns) > 1:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(fontsize="x-small", frameon=False)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder with the logs")
    args = parser.parse_args()
    draw_curves(args.out).savefig(args.out / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
