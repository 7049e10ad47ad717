"""What all figures share: panels, colours and hatches that every eye can tell apart; knows no runs."""

from __future__ import annotations

import textwrap
from itertools import count, cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Those of Okabe and Ito (2008), told apart by every kind of eye; their black is left to the letters."""

HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HEAT = "inferno"
PANEL = 1.7  # inches a side
SMALL, MEDIUM = 0.07, 0.085  # inches a letter takes in matplotlib's small and medium type


def panels(rows: int, columns: int, size: tuple[float, float] = (PANEL, PANEL)) -> tuple[Figure, np.ndarray]:
    """Returns a figure and its panels, an array (rows, columns) of Axes, each of `size` inches.

    The figure is not left open: a notebook shows what is returned, and would show it twice.
    """
    figure, grid = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), layout="constrained", squeeze=False
    )
    plt.close(figure)
    return figure, grid


def shaped(latent_size: tuple[int, int], side: float = PANEL) -> tuple[float, float]:
    """Returns the width and height in inches of a panel for pictures of a size, its longer side `side`.

    One for narrow pictures is wider than they are, so that a title has room.
    """
    height, width = latent_size
    scale = side / max(height, width)
    return max(0.6 * side, scale * width), scale * height


def show(axes: Axes, picture: Image.Image | np.ndarray, title: str = "", **options):
    """Shows a picture or a map in a panel without ticks, and returns matplotlib's image of it."""
    axes.set(xticks=[], yticks=[])
    if title:
        axes.set_title(title, fontsize="small")
    return axes.imshow(picture, **options)


def plain(text: str) -> str:
    """Spells a text so that matplotlib takes no `$` for mathematics."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: float, letter: float = SMALL) -> str:
    """Breaks lines of text that are longer than so many inches; `letter`: inches that one takes."""
    letters = max(1, int(width / letter))
    return plain("\n".join(textwrap.fill(line, letters) for line in text.split("\n")))


def styles():
    """Gives line after line, bar after bar a colour, a marker and a hatch; 49 differ before one returns."""
    for i, colour in zip(count(), cycle(COLOURS)):
        j = (i + i // len(COLOURS)) % len(MARKERS)
        yield colour, MARKERS[j], HATCHES[j]


def row_of(count: int, most: int = 6) -> tuple[int, int]:
    """Returns how many rows and columns hold `count` panels, at most `most` in a row."""
    columns = min(count, most)
    return -(-count // columns), columns
