"""From complete settings to a picture, with what it took: the whole way at once, not step by step like a run.

Knows nothing of arguments and defaults. Memory is what MLX holds, in GB of 1e9 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import mlx.core as mx
from PIL import Image
from tqdm.auto import tqdm

from fluxnb import advice, flow, memory
from fluxnb.recipe import write_down
from fluxnb.texts import TextEmbedding

if TYPE_CHECKING:
    from fluxnb.pipeline import FluxPipeline
    from fluxnb.settings import Settings
    from fluxnb.source import Source


def draw(
    pipeline: FluxPipeline, settings: Settings, source: Source | None, verbose: bool
) -> tuple[Image.Image, dict]:
    """Draws a picture, see `FluxPipeline.draw`; called by what the user called, whose line warnings name."""
    recipe = write_down(pipeline.entry, pipeline.arguments or {}, settings)
    memory.check(pipeline.networks, settings.latent_size)
    start, log = time.perf_counter(), {"seed": settings.seed, "recipe": recipe}
    with _logged(log, "text_encoding"):
        text = pipeline.encode_text(settings.prompt)
        negative = pipeline.encode_text(settings.negative_text) if settings.has_cfg else None
    advice.warn(advice.notes(pipeline.vocabulary, settings, text, negative), depth=4)
    with _logged(log, "denoising"):
        latents, seconds = denoise(pipeline, settings, source, text, negative, verbose)
    log["denoising"]["iter_time"] = seconds
    with _logged(log, "decoding"):
        image = pipeline.decode(latents)
    log["width"], log["height"] = image.size
    log["peak_memory"] = max(
        phase["post"]["peak_memory"] for phase in log.values() if isinstance(phase, dict)
    )
    log["total_time"] = round(time.perf_counter() - start, 3)
    return image, log


def denoise(
    pipeline: FluxPipeline,
    settings: Settings,
    source: Source | None,
    text: TextEmbedding,
    negative: TextEmbedding | None,
    verbose: bool = False,
) -> tuple[mx.array, list[float]]:
    """Makes all steps; returns the last latents, normalised and evaluated, and the seconds of each step."""
    latents, seconds = pipeline.first_latents(settings, source), []
    for i in tqdm(range(settings.num_steps), disable=not verbose):
        step = pipeline.step(i, latents, settings, text, negative)
        latents = flow.euler(step)
        seconds.append(round(step.seconds, 3))
    mx.eval(latents)
    return latents, seconds


@contextmanager
def _logged(log: dict, phase: str) -> Iterator[None]:
    """Notes the time and memory of a phase, in seconds and GB."""
    start = time.perf_counter()
    mx.reset_peak_memory()
    log[phase] = {"pre": _memory()}
    yield
    log[phase] |= {"post": _memory(), "time": round(time.perf_counter() - start, 3)}


def _memory() -> dict[str, float]:
    """Returns MLX's memory in GB."""
    return {
        "peak_memory": round(mx.get_peak_memory() / 1e9, 3),
        "active_memory": round(mx.get_active_memory() / 1e9, 3),
    }
