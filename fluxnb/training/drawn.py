"""Pictures drawn by fluxnb, one an order, in worker processes; knows nothing of scenes or judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context

import numpy as np
from tqdm.auto import tqdm

from fluxnb.pipeline import FluxPipeline


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to draw; what is None is the model's own.

    Args:
        prompt: What.
        seed: Of the noise.
        num_steps: Euler steps.
        cfg_weight: Weight of CFG, 0 for none.
        latent_size: (H, W) in latent cells of 8 px.
    """

    prompt: str
    seed: int
    num_steps: int | None = None
    cfg_weight: float | None = None
    latent_size: tuple[int, int] | None = None


Draw = Callable[[Sequence[Order]], np.ndarray]
"""Draws orders of one size: uint8 (n, H, W, 3)."""


def draw_with(pipeline: FluxPipeline, order: Order) -> np.ndarray:
    """One picture, uint8 (H, W, 3)."""
    image, _ = pipeline.generate_image(
        order.prompt,
        seed=order.seed,
        num_steps=order.num_steps,
        cfg_weight=order.cfg_weight,
        latent_size=order.latent_size,
    )
    return np.asarray(image)


@contextmanager
def workers(name: str, checkpoint: str | None, processes: int) -> Iterator[Draw]:
    """Start processes that draw.

    Args:
        name: Of the model, as `FluxPipeline` takes it.
        checkpoint: Folder in its place, or None.
        processes: How many, at least 1.
    """
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:

        def draw(orders: Sequence[Order]) -> np.ndarray:
            pictures = pool.map(partial(_draw, name, checkpoint), orders)
            return np.stack(list(tqdm(pictures, total=len(orders), leave=False)))

        yield draw


@cache
def _pipeline(name: str, checkpoint: str | None) -> FluxPipeline:
    """The pipeline of a process."""
    return FluxPipeline(name, local_ckpt=checkpoint)


def _draw(name: str, checkpoint: str | None, order: Order) -> np.ndarray:
    """What a worker does."""
    return draw_with(_pipeline(name, checkpoint), order)
