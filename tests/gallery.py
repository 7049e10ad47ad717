"""Writes every figure of `fluxnb.plots`, drawn from the demo model, as PNG files into a folder, for a look.

python tests/gallery.py FOLDER                              # as in a light notebook
python tests/gallery.py FOLDER --style dark_background      # or any other style sheet of matplotlib
python tests/gallery.py FOLDER --deuteranopia               # as an eye without green receptors sees them
"""

import argparse
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fluxnb import FluxSession, interventions, plots

# Machado, Oliveira and Fernandes 2009, table 1, severity 1: linear RGB to linear RGB
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def figures() -> Iterator[tuple[str, Figure]]:
    """Draws them one by one, each with the name of its function, and what it shows if there are several."""
    session = FluxSession.from_pretrained()
    run = session.start("a panda on a red background", seed=1, num_steps=20).finish()
    shifted = [session.start(run.prompt, seed=1, num_steps=20, shift=shift) for shift in (3, 9)]
    yield "schedule", plots.schedule([run, *shifted], marked=[0, 7, -1])
    yield "filmstrip", plots.filmstrip(run, kinds=["noisy", "clean", "difference"])
    yield "trajectory", plots.trajectory(run.trajectory())
    words = dict.fromkeys(word.text for word in run.words)
    columns = [run.attention(10, word, direction="image_to_word") for word in words]
    yield "maps_words", plots.maps(run, columns)
    yield "maps_one", plots.maps(run, columns[1])
    steps = run.attention([0, 2, 5, 10, 15, 17, 19], "panda", direction="image_to_word")
    yield "maps_steps", plots.maps(run, steps, same_scale=False)
    yield "maps_concepts", plots.maps(run, run.concepts(["panda", "background"], step=[10, 14, 18]))
    account = run.ledger()
    for along in ("step", "block", "head"):
        yield f"ledger_{along}", plots.ledger(account, along=along, top=0.4)
    yield "effect", plots.effect(run, run.effect(interventions.cut("red"), 0, pictures=True))
    yield "trust", plots.trust()
    blue = run.fork(4, prompt="a panda on a blue background").finish()
    other = run.fork(0, prompt="a cat on a red background", seed=3).finish()
    late = blue.fork(10, intervention=interventions.cut("panda") + interventions.cut("blue")).finish()
    yield "tree", plots.tree(run)
    del other, late  # a family forgets runs that nobody holds


def render(figure: Figure, is_deuteranopic: bool = False) -> Image.Image:
    """Draws a figure as a notebook does, on the ground of the style sheet."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    picture = Image.open(drawn).convert("RGB")
    if not is_deuteranopic:
        return picture
    srgb = np.asarray(picture) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DEUTERANOPIA.T, 0, 1)
    srgb = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.rint(255 * srgb).astype(np.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes every figure of fluxnb.plots into a folder.")
    parser.add_argument("folder", type=Path, help="made if it does not exist")
    parser.add_argument("--style", default="default", help="a style sheet of matplotlib")
    parser.add_argument("--deuteranopia", action="store_true", help="as an eye without green receptors sees")
    chosen = parser.parse_args()
    matplotlib.use("agg")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    written = set()
    with plt.style.context(chosen.style):
        for name, figure in figures():
            path = chosen.folder / f"{name}.png"
            render(figure, chosen.deuteranopia).save(path)
            written.add(name.partition("_")[0])
            print(path)
    if missing := set(plots.__all__) - written:
        raise SystemExit(f"no figure of {', '.join(sorted(missing))}; draw one in figures()")
