"""Fit the demo model's linear preview: a colour for each latent cell, from its 16 numbers.

    python -m fluxnb.training.preview

Least squares from normalised latents of scenes to the means of 8 x 8 pixels, written beside the autoencoder
(`fluxnb.checkpoints.linear`) with what it is worth on scenes of another seed. Takes seconds, needs no torch.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import mlx.core as mx
import numpy as np

from fluxnb import images
from fluxnb.checkpoints import linear
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.pipeline import FluxPipeline
from fluxnb.training import scenes

CELL = 8  # pixels


def examples(pipeline: FluxPipeline, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent cells (n, C) of some scenes, and the mean pixels under them (n, 3), -1..1."""
    rng, vae = random.Random(seed), pipeline.networks.vae
    x = np.stack([images.to_float(scenes.render(scenes.make_scene(rng))[0]) for _ in range(count)])
    z = np.concatenate([np.array(vae.encode(mx.array(part))) for part in np.array_split(x, count // 20)])
    z = (z - vae.config.shift_factor) * vae.config.scale_factor
    side = scenes.SIZE // CELL
    means = x.reshape(count, side, CELL, side, CELL, 3).mean(axis=(2, 4))
    return z.reshape(-1, z.shape[-1]), means.reshape(-1, 3)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--count", type=int, default=400, help="scenes to fit, and as many to judge by")
    args = parser.parse_args()
    pipeline = FluxPipeline(local_ckpt=str(args.model))
    cells, colours = examples(pipeline, args.seed, args.count)
    solution, *_ = np.linalg.lstsq(np.c_[cells, np.ones(len(cells))], colours, rcond=None)  # (C + 1, 3)
    cells, colours = examples(pipeline, args.seed + 1, args.count)
    error = np.square(np.c_[cells, np.ones(len(cells))] @ solution - colours).mean()
    fit = {
        "weight": np.round(solution[:-1].T, 5).tolist(),
        "bias": np.round(solution[-1], 5).tolist(),
        "psnr_db": round(10 * np.log10(4 / error), 2),
        "r_squared": round(1 - error / colours.var(axis=0).mean(), 4),
    }
    (args.model / "vae" / linear.FILE).write_text(json.dumps(fit) + "\n", encoding="utf-8")
    print(f"PSNR {fit['psnr_db']} dB, R^2 {fit['r_squared']} on {args.count} other scenes")


if __name__ == "__main__":
    main()
