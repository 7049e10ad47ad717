"""Draws the README's figure by running the README: `python tests/readme_figure.py`.

Its snippets make a run and a fork; the last figure that they draw, the tree, goes to examples/images.
"""

import os
import tempfile
from pathlib import Path

import matplotlib
from gallery import render  # beside this script
from test_readme import blocks

from fluxnb import plots

TARGET = Path(__file__).parents[1] / "examples" / "images" / "tree.png"

if __name__ == "__main__":
    matplotlib.use("agg")
    names = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the snippets save a run
        for snippet in blocks("python")[1:3]:
            exec(snippet, names)
    picture = render(plots.tree(names["run"]))
    picture.save(TARGET, optimize=True)
    print(f"{TARGET}: {picture.width} x {picture.height}, {TARGET.stat().st_size / 1000:.0f} kB")
