"""Draw sample sheets of a finished checkpoint: what it makes of fixed prompts, and its autoencoder at work.

    python -m fluxnb.training.sheets --out RUN --model RUN/demo

writes RUN/samples.png, a prompt a row and a seed a column, and RUN/autoencoder.png, real scenes that
training never saw over the same ones encoded and decoded. By fluxnb itself; needs no torch.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import mlx.core as mx
import numpy as np
from matplotlib.figure import Figure

from fluxnb import images
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.pipeline import FluxPipeline
from fluxnb.plots.canvas import PANEL, panels, show, wrapped
from fluxnb.training import scenes

PROMPTS = (
    "a photo of a cat on blue background",
    "a small rocket at the top on orange background",
    "a big pumpkin on the right on black background",
    "a penguin to the left of a snowman on white background",
    "a crown above a frog on purple background",
    "two turtles on yellow background",
)
SEEDS = (0, 1, 2, 3)
SCENE_SEED, SCENES = 7_300_000, 6


def draw_samples(pipeline: FluxPipeline, num_steps: int | None = None) -> Figure:
    """A picture of each of `PROMPTS` with each of `SEEDS`, with the model's own settings.

    Args:
        pipeline: With any model.
        num_steps: Sampling steps; None for the model's own.
    """
    figure, grid = panels(len(PROMPTS), len(SEEDS))
    for row, prompt in zip(grid, PROMPTS, strict=True):
        for axes, seed in zip(row, SEEDS, strict=True):
            show(axes, pipeline.generate_image(prompt, num_steps, seed=seed)[0])
        row[0].set_ylabel(wrapped(prompt, PANEL), fontsize="small")
    for axes, seed in zip(grid[0], SEEDS, strict=True):
        axes.set_title(f"seed {seed}", fontsize="small")
    return figure


def draw_autoencoded(pipeline: FluxPipeline) -> Figure:
    """Scenes, held-out pairs among them, over what the autoencoder makes of them, with the PSNR of each."""
    rng, vae = random.Random(SCENE_SEED), pipeline.networks.vae
    figure, grid = panels(2, SCENES)
    for real, again in grid.T:
        picture, _ = scenes.render(scenes.make_scene(rng, held_out=None))
        x = images.to_float(picture)[None]
        y = np.clip(np.array(vae.decode(vae.encode(mx.array(x)))), -1, 1)
        show(real, picture, "scene")
        psnr = 10 * np.log10(4 / np.square(x - y).mean())
        show(again, images.to_uint8(y[0]), f"{psnr:.1f} dB")
    return figure


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the sheets")
    parser.add_argument("--model", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--steps", type=int, help="sampling steps; by default the model's own")
    args = parser.parse_args()
    pipeline = FluxPipeline(local_ckpt=str(args.model))
    draw_samples(pipeline, args.steps).savefig(args.out / "samples.png", dpi=110)
    draw_autoencoded(pipeline).savefig(args.out / "autoencoder.png", dpi=110)


if __name__ == "__main__":
    main()
