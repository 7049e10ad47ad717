"""What the autoencoder keeps of scenes, and how far apart in its latents the pictures of one prompt are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from fluxnb import images
from fluxnb.pipeline import FluxPipeline
from fluxnb.training import figures, prompts, scenes
from fluxnb.training.drawn import Draw, Order
from fluxnb.training.figures import Figure
from fluxnb.training.judge import Judge, judge_pictures
from fluxnb.training.scenes import Scene
from fluxnb.training.verdicts import answers

SEEDS = 16  # pictures of one prompt
PSNR_GOAL = 30  # dB
SPREAD_GOAL = 0.5


def variety(pipeline: FluxPipeline, draw: Draw, count: int) -> list[Figure]:
    """How far pictures of one prompt are from one another, beside real scenes.

    The distance of two pictures is the root mean square of the difference of their normalised latents.
    For each prompt the mean distance of `SEEDS` pictures is divided by that of as many real scenes: first
    scenes drawn anew in all that its caption leaves open, then scenes of any caption.
    """
    rng = random.Random(prompts.SEED + 6)
    to_same, to_any = [], []
    for scene in prompts.seen(count, 0.5, 6):
        own = spread(pipeline, draw([Order(scene.caption, seed) for seed in range(SEEDS)]))
        same = [prompts.alike(rng, scene) for _ in range(SEEDS)]
        others = [scenes.make_scene(rng, held_out=None) for _ in range(SEEDS)]
        to_same.append(own / spread(pipeline, painted(same)))
        to_any.append(own / spread(pipeline, painted(others)))
    what = f"distance of {SEEDS} pictures of a prompt over that of real scenes of"
    return [
        figures.average("Seeds", f"{what} its caption", to_same, "", least=SPREAD_GOAL),
        figures.average("Seeds", f"{what} any caption", to_any, ""),
    ]


def spread(pipeline: FluxPipeline, pictures: np.ndarray) -> float:
    """The mean distance of two of several pictures, uint8 (n, H, W, 3), in normalised latents."""
    vae = pipeline.networks.vae
    latents = np.array(vae.encode(mx.array(np.stack([images.to_float(one) for one in pictures]))))
    flat = latents.reshape(len(latents), -1).astype(np.float64) * vae.config.scale_factor
    pairs = [(one, other) for i, one in enumerate(flat) for other in flat[:i]]
    return float(np.mean([np.sqrt(np.square(one - other).mean()) for one, other in pairs]))


def painted(made: Sequence[Scene]) -> np.ndarray:
    """Real scenes of one size, uint8 (n, H, W, 3)."""
    return np.stack([scenes.render(scene)[0] for scene in made])


def autoencoder(pipeline: FluxPipeline, model: Judge, count: int) -> list[Figure]:
    """The PSNR of the autoencoder on scenes that training never saw, and what the judge sees in its pictures.

    What the judge misses there bounds what it can find in pictures that the transformer drew.
    """
    vae, made = pipeline.networks.vae, prompts.seen(count, 0.5, 2)
    decibels, kept = [], []
    for picture in painted(made):
        x = images.to_float(picture)
        y = np.clip(np.array(vae.decode(vae.encode(mx.array(x[None]))))[0], -1, 1)
        decibels.append(float(10 * np.log10(4 / np.square(x - y).mean())))
        kept.append(images.to_uint8(y))
    right = answers(made, judge_pictures(model, np.stack(kept)))
    return [
        figures.average("Autoencoder", "PSNR on scenes not seen", decibels, "dB", least=PSNR_GOAL),
        figures.share(
            "Autoencoder", "the judge on the same scenes, autoencoded: all objects", right["exact"]
        ),
    ]
