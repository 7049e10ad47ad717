"""The four networks together: text to embedding, latents to velocity, latents to picture, prompt to picture.

A `FluxPipeline` remembers nothing between calls; a session (`fluxnb.session`) keeps the steps of a run.
Letters: see `fluxnb.model`. Latents are float32, (1, H, W, C), normalised as the transformer sees them.
"""

from __future__ import annotations

import textwrap
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from fluxnb import checks, flow, images
from fluxnb.checkpoints import store
from fluxnb.errors import PromptWarning
from fluxnb.flow import Step
from fluxnb.model.layers import Attend, attention
from fluxnb.model.tokenizers import Word
from fluxnb.settings import Settings, fill_in, warn_of_no_effect


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """A text as the transformer reads it.

    Args:
        text: As given.
        txt: T5's states, float32 (1, L, D), evaluated; padding included.
        vec: CLIP's pooled state, float32 (1, D), evaluated.
        words: The words that T5 read, with their positions among its tokens.
        end: Position of T5's end token; what stands after it is padding.
        notes: Sentences on what the encoders did not see as it was meant, usually none.
    """

    text: str
    txt: mx.array
    vec: mx.array
    words: tuple[Word, ...]
    end: int
    notes: tuple[str, ...]


class FluxPipeline:
    """FLUX.1, loaded and ready; all its arrays are evaluated, so any thread may call it, one at a time.

    Args:
        model_version: Name in the catalog, e.g. "fluxnb/demo", which needs no network; any "owner/name" on
            the hub, which is downloaded as far as it is not in the cache; or the path of a folder or file.
        shift: Static shift of every run that names none; None for the model's own.
        low_memory_mode: See `checkpoints.store.load`, as for the four below.
        a16: Activations in 16 bits.
        w16: Weights in 16 bits.
        quantize: Bits of a weight, None for as they are.
        local_ckpt: Folder or file to take the weights from.
        revision: Branch, tag or commit of a model on the hub, None for the newest.

    Raises:
        UnknownModelError: if there is no such name.
        InputError: if there is no such revision.
        DownloadError: if the model cannot be had from the hub.
        CheckpointError: if the files are none of that model.
    """

    def __init__(
        self,
        model_version: str = "fluxnb/demo",
        shift: float | None = None,
        low_memory_mode: bool = False,
        a16: bool = False,
        w16: bool = False,
        quantize: int | None = None,
        local_ckpt: str | None = None,
        revision: str | None = None,
    ):
        """Loads the networks."""
        shift = None if shift is None else checks.number("shift", shift, above=0)
        networks = store.load(
            model_version,
            low_memory_mode=low_memory_mode,
            a16=a16,
            w16=w16,
            quantize=quantize,
            local_ckpt=local_ckpt,
            revision=revision,
        )
        self._take(networks, shift)

    @classmethod
    def from_networks(cls, networks: store.Networks, shift: float | None = None) -> FluxPipeline:
        """Makes a pipeline of networks that are there already, all their parameters evaluated."""
        pipeline = cls.__new__(cls)
        pipeline._take(networks, None if shift is None else checks.number("shift", shift, above=0))
        return pipeline

    def _take(self, networks: store.Networks, shift: float | None) -> None:
        """Keeps the networks, and their defaults with the shift that is wished."""
        self.networks = networks
        self.entry = networks.entry if shift is None else replace(networks.entry, shift=shift)

    def __repr__(self) -> str:
        """Names the model."""
        return f"FluxPipeline({self.entry.name!r})"

    @property
    def blocks(self) -> tuple[int, int]:
        """Numbers of double and of single blocks."""
        config = self.networks.mmdit.config
        return config.depth, config.depth_single

    def encode_text(self, text: str) -> TextEmbedding:
        """Encodes a text by both encoders.

        Raises:
            InputError: if it is no string.
        """
        checks.text("the text", text)
        nets = self.networks
        clip_ids, clip_cut = nets.clip_tokenizer.encode(text)
        t5_ids, t5_cut = nets.t5_tokenizer.encode(text)
        txt = nets.t5(mx.array([t5_ids])).astype(mx.float32)  # (1, L, D)
        vec = nets.clip(mx.array([clip_ids]))[1].astype(mx.float32)  # (1, D)
        mx.eval(txt, vec)
        return TextEmbedding(
            text=text,
            txt=txt,
            vec=vec,
            words=nets.t5_tokenizer.words(text),
            end=nets.t5_tokenizer.end(text),
            notes=_notes(text, {"T5": t5_cut, "CLIP": clip_cut}),
        )

    def velocity(
        self,
        latents: mx.array,
        sigma: float,
        text: TextEmbedding,
        guidance: float | None = None,
        negative: TextEmbedding | None = None,
        cfg_weight: float = 0.0,
        attend: Attend = attention,
    ) -> mx.array:
        """Returns the direction from picture to noise at `latents`, not evaluated.

        Args:
            latents: (1, H, W, C).
            sigma: Noise level, 0..1.
            text: What to draw.
            guidance: Guidance strength if the network takes one.
            negative: Text that CFG leads away from by a second pass; None for one pass.
            cfg_weight: How far.
            attend: Attention of the first pass; the second keeps the default.

        Returns:
            (1, H, W, C), float32.
        """
        positive = self._pass(latents, sigma, text, guidance, attend)
        if negative is None:
            return positive
        other = self._pass(latents, sigma, negative, guidance, attention)
        return other + cfg_weight * (positive - other)

    def _pass(self, latents, sigma, text, guidance, attend) -> mx.array:
        """Runs the transformer once."""
        size = latents.shape[1:3]
        velocity = self.networks.mmdit(
            flow.pack(latents),
            text.txt,
            text.vec,
            mx.array([sigma]),
            None if guidance is None else mx.array([guidance]),
            img_ids=flow.image_ids(size),
            txt_ids=mx.zeros((text.txt.shape[1], 3)),
            attend=attend,
        )
        return flow.unpack(velocity, size).astype(mx.float32)

    def step(
        self,
        index: int,
        latents: mx.array,
        settings: Settings,
        text: TextEmbedding,
        negative: TextEmbedding | None,
    ) -> Step:
        """Makes step `index` of a run from the latents before it, evaluated."""
        start = time.perf_counter()
        sigma, sigma_next = settings.sigmas[index : index + 2]
        velocity = self.velocity(latents, sigma, text, settings.guidance, negative, settings.cfg_weight)
        mx.eval(velocity)
        return Step(index, sigma, sigma_next, latents, velocity, time.perf_counter() - start)

    def noise(self, settings: Settings) -> mx.array:
        """Returns the latents that a run starts from: (1, H, W, C), evaluated."""
        channels = self.networks.vae.config.latent_channels
        return flow.noise(settings.seed, settings.latent_size, channels)

    def decode(self, latents: mx.array) -> Image.Image:
        """Decodes latents (1, H, W, C) to a picture of 8 H x 8 W pixels."""
        config = self.networks.vae.config
        pixels = self.networks.vae.decode(latents / config.scale_factor + config.shift_factor)
        return images.picture(np.array(pixels.astype(mx.float32)))  # (1, 8H, 8W, 3)

    def generate_image(
        self,
        text: str,
        num_steps: int | None = None,
        cfg_weight: float | None = None,
        negative_text: str = "",
        latent_size: tuple[int, int] | None = None,
        seed: int | None = 0,
        verbose: bool = False,
        image_path: str | None = None,
        denoise: float = 1.0,
        *,
        guidance: float | None = None,
        shift: float | None = None,
    ) -> tuple[Image.Image, dict]:
        """Draws a picture from a prompt.

        Args:
            text: The prompt.
            num_steps: 1 to 1000; None, here and below, for the model's own.
            cfg_weight: At least 0; 0 switches CFG off.
            negative_text: What CFG leads away from.
            latent_size: (H, W) in latent cells of 8 pixels, even.
            seed: Of the noise; None draws one, which the log then tells.
            verbose: Whether to show a progress bar.
            image_path: Picture to start from; not there yet.
            denoise: How much of it to draw anew; not there yet.
            guidance: Guidance strength, for a model that takes one.
            shift: Static shift of the schedule.

        Returns:
            The picture, and a log with DiffusionKit's keys: for "text_encoding", "denoising" and "decoding"
            the "time" in seconds and the memory in GB "pre" and "post"; "peak_memory", "total_time"; "seed".

        Raises:
            InputError: if an argument is none that can be drawn with.
        """
        settings = fill_in(
            self.entry,
            text,
            seed=seed,
            num_steps=num_steps,
            shift=shift,
            guidance=guidance,
            cfg_weight=cfg_weight,
            negative_text=negative_text,
            latent_size=latent_size,
            image=image_path,
            denoise=denoise,
        )
        warn_of_no_effect(self.entry, settings, guidance, negative_text)
        start, log = time.perf_counter(), {"seed": settings.seed}
        with _logged(log, "text_encoding"):
            positive = self.encode_text(text)
            negative = self.encode_text(negative_text) if settings.has_cfg else None
        warn_of_texts(positive, negative)
        with _logged(log, "denoising"):
            latents, seconds = self.noise(settings), []
            for i in tqdm(range(settings.num_steps), disable=not verbose):
                step = self.step(i, latents, settings, positive, negative)
                latents = flow.euler(step)
                seconds.append(round(step.seconds, 3))
        log["denoising"]["iter_time"] = seconds
        with _logged(log, "decoding"):
            image = self.decode(latents)
        log["peak_memory"] = max(
            phase["post"]["peak_memory"] for phase in log.values() if isinstance(phase, dict)
        )
        log["total_time"] = round(time.perf_counter() - start, 3)
        return image, log


def warn_of_texts(prompt: TextEmbedding, negative: TextEmbedding | None) -> None:
    """Warns of what the encoders did not see as it was meant; an empty negative text is meant so.

    Called by who was called by the user, so that the warning points at the user's line.
    """
    notes = prompt.notes
    if negative is not None and negative.text.strip():
        notes += negative.notes
    for note in notes:
        warnings.warn(note, PromptWarning, stacklevel=3)


def _notes(text: str, cuts: dict[str, str | None]) -> tuple[str, ...]:
    """Says what each encoder did not see of `text`."""
    if not text.strip():
        return ("the prompt is empty: the model draws whatever comes; try 'a photo of a cat'",)
    start = textwrap.shorten(text, 40, placeholder="...")
    return tuple(
        f"the prompt {start!r} is too long for {encoder}, which does not see "
        f"{textwrap.shorten(cut, 200, placeholder='...')!r}; shorten it"
        for encoder, cut in cuts.items()
        if cut
    )


@contextmanager
def _logged(log: dict, phase: str) -> Iterator[None]:
    """Notes the time and memory of a phase of `generate_image`, in seconds and GB."""
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
