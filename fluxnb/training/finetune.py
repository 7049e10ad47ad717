"""Teach a model a new thing from a handful of pictures: LoRA in MLX, on the networks that draw.

    from fluxnb.training.finetune import finetune

    adapter = finetune(pipeline, pictures, captions, keep=["a cat on a blue background", ...])
    pipeline.load_lora_weights(adapter)

    python -m fluxnb.training.finetune --sprite fluxnb/demo/dinosaur/dinosaur.png --word dinosaur --to FOLDER
    python -m fluxnb.training.finetune --pictures FOLDER --keep KEEP.txt --to FILE.safetensors

One sprite is laid on grounds as in the demo model's scenes (`sprites`). A FOLDER holds pictures with their
captions, in metadata.jsonl or beside each (`picture_folder`); those without get "a photo of a" and the word.
KEEP.txt holds a caption a line. No torch is needed.

The loss is that of rectified flow, |v(x_t, t, caption) - (noise - picture)|^2, sigma = sigmoid(normal + 0.6);
text encoders and autoencoder stay as they are. Part of each batch are moments of pictures that the model drew
itself, before, from `keep`: there it shall say the same velocity as it did, so that it forgets less (prior
preservation, arXiv 2208.12242, with the model's velocities in place of its pictures).
"""

from __future__ import annotations

import argparse
import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from PIL import Image

from fluxnb import FluxPipeline, checks, flow, interrupts, source
from fluxnb.checkpoints.adapters import Adapter, combine, places
from fluxnb.errors import FluxnbError, InputError
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.lora import LowRank, changed
from fluxnb.model.mmdit import MMDiT
from fluxnb.settings import default_shift
from fluxnb.texts import TextEmbedding
from fluxnb.training import sprites
from fluxnb.training.picture_folder import captioned

MATRICES = ("attn", "ff", "ff_context", "proj_mlp", "proj_out")
"""What is changed in each block: parts of diffusers' names."""

KEPT_STEPS = 8  # of the pictures that the model draws before
MEASURED = 8  # pictures that the command measures the loss of
LEVELS = 8  # of noise, that a loss is measured at
NUMBERS = ("rank", "steps", "batch", "learning_rate", "seed")  # arguments of `finetune`, and flags
SIGMA_MEAN = 0.6  # of the normal, as in the demo model's own training: what it will be is decided early
WARM_UP = 10  # steps until the learning rate is reached; from there it falls to 0


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of training as it happened.

    Attributes:
        index: From 0.
        loss: Mean square of a number of the velocity.
        seconds: Since the beginning.
    """

    index: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """States of pictures on their way, and the velocity that the model should say there.

    Attributes:
        latents: (B, H, W, C)
        sigmas: (B,)
        velocity: (B, H, W, C)
        texts: Of each, B of them.
    """

    latents: mx.array
    sigmas: mx.array
    velocity: mx.array
    texts: tuple[TextEmbedding, ...]


def finetune(
    pipeline: FluxPipeline,
    pictures: Sequence[object],
    captions: Sequence[str],
    *,
    keep: Sequence[str] = (),
    name: str = "adapter",
    rank: int = 4,
    steps: int = 400,
    batch: int = 8,
    learning_rate: float = 3e-3,
    seed: int = 0,
    on_step: Callable[[Progress], object] | None = None,
) -> Adapter:
    """Trains an adapter on the model's own weights; the pipeline is left as it is.

    Ctrl-C, or the stop button of a notebook, ends the training: what was learnt until then is returned.

    Args:
        pipeline: Of any FLUX.1, quantised or not.
        pictures: At least one, as `fluxnb.source.read` takes it; drawn at the model's own size.
        captions: One for each. The new thing needs a word whose tokens the model knows.
        keep: Captions of what it shall draw as before: half of each batch are moments of such pictures.
        name: Of the adapter.
        rank: Of the changes, at least 1.
        steps: At least 1.
        batch: Moments in a step, at least 1; 2 with `keep`.
        learning_rate: Of AdamW, after a short rise; it falls to 0 by the last step.
        seed: Of all that is random: the same bits again on the same machine.
        on_step: Called after each step.

    Raises:
        InputError: if an argument is none that can be trained with, or the pipeline draws with an adapter.
    """
    captions, keep = checks.several("captions", captions, str), checks.several("keep", keep, str)
    if not len(pictures) or len(pictures) != len(captions):
        raise InputError(
            f"there are {len(pictures)} pictures and {len(captions)} captions; give one for each"
        )
    for what, value in (("rank", rank), ("steps", steps), ("batch", batch)):
        checks.whole(what, value, low=2 if what == "batch" and keep else 1)
    learning_rate = checks.number("learning_rate", learning_rate, above=0)
    if in_use := [use.name for use in pipeline.adapters if use.scale]:
        raise InputError(
            f"the model draws with the adapter {in_use[0]!r}, and what is learnt would be for the model "
            "without it; unload_lora_weights() first"
        )
    rng = np.random.default_rng(checks.whole("seed", seed, 0))

    start = time.perf_counter()
    words = {text: pipeline.encode_text(text) for text in dict.fromkeys([*captions, *keep])}
    size = pipeline.entry.latent_size
    clean = mx.concatenate([pipeline.encode(source.read(picture), size) for picture in pictures])
    kept = _drawn(pipeline, [words[text] for text in keep], seed, batch) if keep else None
    mx.eval(clean, kept and (kept.latents, kept.velocity))

    config, network = pipeline.networks.configs.mmdit, pipeline.networks.mmdit
    guidance, dtype = pipeline.entry.guidance, pipeline.networks.dtype
    layers = _first(config, rank, rng)

    def loss(layers: dict[str, dict[str, mx.array]], moments: Moments) -> mx.array:
        changes = combine(config, [({name: LowRank(**one) for name, one in layers.items()}, 1.0)])
        there = moments.latents, moments.sigmas, moments.texts
        said = _velocity(changed(network, changes), *there, guidance, dtype)
        return mx.mean((said - moments.velocity) ** 2)

    optimizer = optim.AdamW(_rate(learning_rate, steps), weight_decay=0.0)
    loss_and_slope = mx.value_and_grad(loss)
    old = batch // 2 if keep else 0
    losses = []
    try:
        for index in range(steps):
            with interrupts.kept():
                moments = _new(rng, clean, [words[text] for text in captions], batch - old)
                if old:
                    moments = _joined([moments, _some(kept, rng.integers(len(kept.texts), size=old))])
                value, slope = loss_and_slope(layers, moments)
                better = optimizer.apply_gradients(slope, layers)
                mx.eval(better, optimizer.state, value)
            layers = better  # the only change there is: an interrupt before it loses one step
            losses.append(value.item())
            if on_step is not None:
                on_step(Progress(index, losses[-1], time.perf_counter() - start))
    except KeyboardInterrupt:
        pass  # the length of the losses says so
    return Adapter(name, {name: LowRank(**one) for name, one in layers.items()}, tuple(losses))


def measure(
    pipeline: FluxPipeline, pictures: Sequence[object], captions: Sequence[str], seed: int = 0
) -> float:
    """Returns the loss of a pipeline, its adapters included, on pictures: how well it knows them.

    It is the mean over `LEVELS` noise levels, spread as those of the training are, with the same noise for
    the same seed.

    Args:
        pipeline: As in `finetune`.
        pictures: Likewise.
        captions: Likewise.
        seed: Of the noise.
    """
    network, entry = pipeline.transformer(), pipeline.entry
    channels = pipeline.networks.configs.vae.latent_channels
    normal = [NormalDist().inv_cdf((level + 0.5) / LEVELS) for level in range(LEVELS)]
    sigmas = [1 / (1 + math.exp(-SIGMA_MEAN - one)) for one in normal]
    losses = []
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        clean = pipeline.encode(source.read(picture), entry.latent_size)
        noise = flow.noise(seed + i, entry.latent_size, channels)
        noisy = mx.concatenate([flow.add_noise(clean, noise, sigma) for sigma in sigmas])
        texts = [pipeline.encode_text(caption)] * LEVELS
        said = _velocity(network, noisy, mx.array(sigmas), texts, entry.guidance, pipeline.networks.dtype)
        losses.append(mx.mean((said - (noise - clean)) ** 2).item())
    return sum(losses) / len(losses)


def _first(config: MMDiTConfig, rank: int, rng: np.random.Generator) -> dict[str, dict[str, mx.array]]:
    """Gives the matrices to begin with: `down` uniform as PEFT has it, `up` zero, so that nothing changes."""
    layers = {}
    for place in places(config):
        for source_name, rows in zip(place.sources, place.rows, strict=True):
            parts = source_name.split(".")
            if "blocks" in parts[0] and set(parts) & set(MATRICES):
                bound = place.columns**-0.5
                down = rng.uniform(-bound, bound, (rank, place.columns)).astype(np.float32)
                layers[source_name] = {"down": mx.array(down), "up": mx.zeros((rows, rank))}
    return layers


def _rate(highest: float, steps: int) -> Callable[[mx.array], mx.array]:
    """Gives the learning rate of each step: a short rise, and a long way down to 0."""
    rise = min(WARM_UP, steps // 2)
    fall = optim.cosine_decay(highest, steps - rise)
    if not rise:
        return fall
    return optim.join_schedules([optim.linear_schedule(0, highest, rise), fall], [rise])


def _velocity(
    network: MMDiT,
    latents: mx.array,
    sigmas: mx.array,
    texts: Sequence[TextEmbedding],
    guidance: float | None,
    dtype: mx.Dtype,
) -> mx.array:
    """Returns what a network says at latents (B, H, W, C), each with its sigma and text; float32."""
    count, *size = latents.shape[:3]
    txt = mx.concatenate([text.txt for text in texts])
    said = network(
        flow.pack(latents).astype(dtype),
        txt,
        mx.concatenate([text.vec for text in texts]),
        sigmas,
        None if guidance is None else mx.full((count,), guidance),
        img_ids=flow.image_ids(size),
        txt_ids=mx.zeros((txt.shape[1], 3)),
    )
    return flow.unpack(said, size).astype(mx.float32)


def _new(
    rng: np.random.Generator,
    clean: mx.array,
    texts: Sequence[TextEmbedding],
    count: int,
) -> Moments:
    """Takes some of the pictures, each at a noise level."""
    chosen = rng.integers(len(texts), size=count)
    sigmas = mx.array(1 / (1 + np.exp(-SIGMA_MEAN - rng.standard_normal(count))), dtype=mx.float32)
    latents = clean[mx.array(chosen)]
    noise = mx.array(rng.standard_normal(latents.shape, dtype=np.float32))
    share = sigmas[:, None, None, None]
    shown = tuple(texts[i] for i in chosen)
    return Moments((1 - share) * latents + share * noise, sigmas, noise - latents, shown)


def _drawn(pipeline: FluxPipeline, texts: Sequence[TextEmbedding], seed: int, batch: int) -> Moments:
    """Draws a picture of each text, and keeps every step: what the model says, where it says it."""
    entry, channels = pipeline.entry, pipeline.networks.configs.vae.latent_channels
    sigmas = flow.schedule(KEPT_STEPS, default_shift(entry, entry.latent_size))
    steps = []
    for first in range(0, len(texts), batch):
        some = tuple(texts[first : first + batch])
        latents = [flow.noise(seed + first + i, entry.latent_size, channels) for i in range(len(some))]
        x = mx.concatenate(latents)
        for sigma, sigma_next in pairwise(sigmas):
            here = mx.full((len(some),), sigma)
            said = _velocity(pipeline.networks.mmdit, x, here, some, entry.guidance, pipeline.networks.dtype)
            mx.eval(said)
            steps.append(Moments(x, here, said, some))
            x = x + (sigma_next - sigma) * said
    return _joined(steps)


def _some(moments: Moments, chosen: np.ndarray) -> Moments:
    """Takes some of many moments."""
    rows = mx.array(chosen)
    return Moments(
        moments.latents[rows],
        moments.sigmas[rows],
        moments.velocity[rows],
        tuple(moments.texts[i] for i in chosen),
    )


def _joined(several: Sequence[Moments]) -> Moments:
    """Puts moments together."""
    latents, sigmas, velocity = (
        mx.concatenate([getattr(one, part) for one in several]) for part in ("latents", "sigmas", "velocity")
    )
    return Moments(latents, sigmas, velocity, sum((one.texts for one in several), ()))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = parser.add_mutually_exclusive_group(required=True)
    shown.add_argument("--pictures", type=Path, help="folder of pictures and captions, see picture_folder.py")
    shown.add_argument("--sprite", type=Path, help="one picture with a transparent ground, for the demo")
    parser.add_argument("--count", type=int, default=300, help="pictures made of the sprite")
    parser.add_argument("--word", help="what captions call the sprite, and pictures without a caption")
    parser.add_argument("--keep", type=Path, help="captions of what is not forgotten, one a line")
    parser.add_argument("--to", type=Path, required=True, help="file that ends in .safetensors, or folder")
    parser.add_argument("--model-version", default="fluxnb/demo", help="name or path of the model")
    for name, default in inspect.signature(finetune).parameters.items():
        if name in NUMBERS:
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=type(default.default), default=default.default
            )
    args = parser.parse_args()
    try:
        _teach(args)
    except FluxnbError as error:
        parser.error(str(error))


def _teach(args: argparse.Namespace) -> None:
    """Does what the command asks for."""
    if args.sprite is None:
        pictures, captions = captioned(args.pictures, args.word)
        keep = []
    else:
        with Image.open(args.sprite) as sprite:
            pictures, captions = sprites.on_grounds(sprite, args.word, args.count)
        keep = sprites.others(64)
    if args.keep is not None:
        keep = [line for line in args.keep.read_text(encoding="utf-8").splitlines() if line.strip()]
    pipeline = FluxPipeline(args.model_version)
    if pipeline.adapters:
        raise InputError(
            f"{args.model_version} is another model with an adapter; give that one as --model-version"
        )

    def tell(step: Progress) -> None:
        if step.index % 10 == 0:
            print(f"step {step.index}: loss {step.loss:.4f}, {step.seconds:.0f} s", flush=True)

    shown = pictures[:MEASURED], captions[:MEASURED]
    before = measure(pipeline, *shown)
    numbers = {name: getattr(args, name) for name in NUMBERS}
    adapter = finetune(pipeline, pictures, captions, keep=keep, on_step=tell, **numbers)
    pipeline.load_lora_weights(adapter)
    print(f"loss on the pictures: {before:.4f}, with the adapter {measure(pipeline, *shown):.4f}")
    print(adapter.save(args.to))


if __name__ == "__main__":
    main()
