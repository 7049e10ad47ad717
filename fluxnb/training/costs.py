"""What the demo model costs: bytes, parameters, and the time of a pass beside that of torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import torch
from mlx.utils import tree_flatten

from fluxnb import flow
from fluxnb.pipeline import FluxPipeline
from fluxnb.training.figures import Figure

PART = "Size and speed"
SIGMA = 0.5
ROUNDS = 60


def costs(pipeline: FluxPipeline, folder: Path) -> list[Figure]:
    """Bytes of a checkpoint's folder, parameters of its networks, and milliseconds of a pass."""
    networks = pipeline.networks
    trees = [one.parameters() for one in (networks.mmdit, networks.vae, networks.clip, networks.t5)]
    parameters = sum(array.size for tree in trees for _, array in tree_flatten(tree))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return [
        Figure(PART, "folder", size / 1e6, "MB", most=25),
        Figure(PART, "parameters", parameters / 1e6, "million"),
        *times(pipeline, folder, 1, "one pass", 20, 1.0),
        *times(pipeline, folder, 2, "both passes of a step with CFG"),
    ]


def times(
    pipeline: FluxPipeline,
    folder: Path,
    passes: int,
    words: str,
    most: float | None = None,
    most_of_torch: float | None = None,
) -> list[Figure]:
    """Milliseconds of one pass or of CFG's two, beside those of torch, which makes two as a batch."""
    ours, theirs = fastest(
        [fluxnb_passes(pipeline, passes), *torch_passes(folder / "transformer", pipeline, passes)]
    )
    made = [Figure(PART, f"{words}, the fastest of {ROUNDS}", ours, "ms", count=ROUNDS, most=most)]
    if theirs is not None:
        made += [
            Figure(PART, f"{words}, in torch, with one thread or all, whichever is faster", theirs, "ms"),
            Figure(PART, f"{words}, fluxnb's time over torch's", ours / theirs, "", most=most_of_torch),
        ]
    return made


def fastest(passes: list[Callable[[], None]], rounds: int = ROUNDS) -> tuple[float, float | None]:
    """The fewest milliseconds of the first pass, and of all others or None; they take turns."""
    times: list[list[float]] = [[] for _ in passes]
    for one in passes:
        one()
    for _ in range(rounds):
        for one, taken in zip(passes, times, strict=True):
            start = time.perf_counter()
            one()
            taken.append(1e3 * (time.perf_counter() - start))
    best = [min(taken) for taken in times]
    return best[0], min(best[1:], default=None)


def fluxnb_passes(pipeline: FluxPipeline, passes: int) -> Callable[[], None]:
    """One pass through the transformer at the model's own size, or CFG's two; texts are encoded already."""
    text, nothing = (pipeline.encode_text(words) for words in ("a photo of a cat on a blue background", ""))
    latents = flow.noise(0, pipeline.entry.latent_size, pipeline.networks.configs.vae.latent_channels)
    negative = {"negative": nothing, "cfg_weight": 3.0} if passes == 2 else {}
    return lambda: mx.eval(pipeline.velocity(latents, SIGMA, text, **negative))


def torch_passes(folder: Path, pipeline: FluxPipeline, batch: int) -> list[Callable[[], None]]:
    """The same by diffusers as a batch, with one thread and with all; nothing where it is not installed."""
    if not find_spec("diffusers"):
        return []
    from diffusers import FluxTransformer2DModel  # late: it takes seconds, which workers should not wait for

    net = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    size, text = pipeline.entry.latent_size, pipeline.encode_text("a cat")
    ids = torch.tensor(flow.image_ids(size).tolist())
    image = torch.zeros(batch, len(ids), net.config.in_channels)
    given = {
        "encoder_hidden_states": torch.zeros(batch, *text.txt.shape[1:]),
        "pooled_projections": torch.zeros(batch, *text.vec.shape[1:]),
        "timestep": torch.full((batch,), SIGMA),
        "img_ids": ids,
        "txt_ids": torch.zeros(text.txt.shape[1], 3),
    }
    all_threads = torch.get_num_threads()

    def one_pass(threads: int) -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            net(image, **given)

    return [lambda threads=threads: one_pass(threads) for threads in sorted({1, all_threads})]
