"""A session: one pipeline, its texts encoded once each, and the runs that are started on it.

Knows nothing of what a run can be asked (`fluxnb.run`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product

import mlx.core as mx
from PIL import Image

from fluxnb import advice, concepts, flow, given, memory, saved
from fluxnb.checkpoints.catalog import DEMO, DEMO_SCHNELL
from fluxnb.errors import FluxnbWarning, InputError
from fluxnb.identity import identify
from fluxnb.pipeline import FluxPipeline
from fluxnb.probe import Probe
from fluxnb.run import Run
from fluxnb.settings import fill_in, warn_of_no_effect
from fluxnb.source import read
from fluxnb.sweep import Sweep, several, sweep
from fluxnb.version import __version__


class _Either:
    """A function that a class gives as it is, and an instance with itself as the argument `session`."""

    def __init__(self, function: Callable):
        self._function = function

    def __get__(self, session: FluxSession | None, owner: type | None = None) -> Callable:
        return self._function if session is None else partial(self._function, session=session)


TEXTS_KEPT = 32  # embeddings; 8 MB each for FLUX.1-dev


class FluxSession:
    """Starts runs on one pipeline, and encodes each text once.

    Args:
        pipeline: What draws.
        decoder: What the pictures of its runs are decoded by if nothing else is asked for: "vae", "taef1" or
            "linear", see `FluxPipeline.decode`.

    Raises:
        InputError: if the pipeline is none, or has no such decoder.
    """

    def __init__(self, pipeline: FluxPipeline, decoder: str = "vae"):
        """Takes the pipeline as it is."""
        if not hasattr(pipeline, "velocity"):
            raise InputError(
                f"pipeline is {pipeline!r}; give a FluxPipeline, or use FluxSession.from_pretrained()"
            )
        self.pipeline = pipeline
        self.image_sides = concepts.ImageSides()
        self.decoder = pipeline.check_decoder(decoder)
        self.encode_text = lru_cache(maxsize=TEXTS_KEPT)(pipeline.encode_text)
        encode_concept = partial(concepts.encode, pipeline.networks)
        self.encode_concept = lru_cache(maxsize=TEXTS_KEPT)(encode_concept)

    @classmethod
    def from_pretrained(
        cls, model_version: str = "fluxnb/demo", *, decoder: str = "vae", **options
    ) -> FluxSession:
        """Loads a pipeline by name and opens a session on it; `options` are those of `FluxPipeline`."""
        return cls(FluxPipeline(model_version, **options), decoder)

    @_Either
    def open(path: str | os.PathLike, session: FluxSession | None = None) -> Run:
        """Opens a run that `Run.save` wrote: the same latents bit for bit, on any machine.

        `session.open(path)` decodes and goes on with the model at hand, `FluxSession.open(path)` with the
        demo model or its sibling, if that drew the run; no other model is loaded. `fluxnb.saved.read(path)`
        gives steps, settings and latents without any.

        Warns if the run was drawn by other weights than those at hand, whose pictures are others, or with
        other versions of fluxnb or MLX, with which steps made again may differ in the last bits.

        Args:
            path: Of the file.
            session: Whose model is at hand.

        Raises:
            CheckpointError: if the file is missing, cut off, or no saved run.
            InputError: if there is no model at hand, or one whose latents or texts have other sizes, or that
                takes guidance where the other takes none.
        """
        held = saved.read(path)
        if session is None:
            packed = (DEMO.name, DEMO_SCHNELL.name)
            if held.model.name not in packed:
                raise InputError(
                    f"{path} was drawn by {held.model}, and opening a run loads no model but "
                    f"{' and '.join(packed)}; "
                    "load it and call session.open(path), or look at fluxnb.saved.read(path) without"
                )
            session = FluxSession.from_pretrained(held.model.name)
        return session.resume(held, str(path))

    def resume(self, held: saved.Saved, origin: str = "the run") -> Run:
        """Makes a run of what was saved; warns and raises as `open`, where `origin` is what is spoken of."""
        here, networks = identify(self.pipeline), self.pipeline.networks
        wants = {"latents": networks.configs.vae.latent_channels}
        widths = {"latents": held.latents.shape[-1]}
        for text in (part.text for part in held.parts if part.text is not None):
            wants |= {"txt": networks.configs.mmdit.txt_dim, "vec": networks.configs.mmdit.vec_dim}
            widths |= {"txt": text.txt.shape[-1], "vec": text.vec.shape[-1]}
        for name, width in widths.items():
            if width != wants[name]:
                raise InputError(
                    f"{origin} was drawn by {held.model}: its {name} have {width} channels, but {here} takes "
                    f"{wants[name]}; open it with the model that drew it"
                )
        takes = networks.configs.mmdit.guidance
        if takes == (held.settings.guidance is None):
            raise InputError(
                f"{origin} was drawn by {held.model} with{'out' if takes else ''} guidance, and {here} takes "
                f"{'one' if takes else 'none'}; open it with the model that drew it"
            )
        run, ends = None, [*(part.at for part in held.parts[1:]), len(held.steps)]
        for part, end in zip(held.parts, ends, strict=True):
            latents = held.steps[end].latents if end < len(held.steps) else held.latents
            run = Run(self, part.settings, latents, held.steps[:end], run, part.at, part.text)
            run.opened = held
        if strangers := [str(model) for model in held.models if model.fingerprint != here.fingerprint]:
            message = (
                f"{origin} was drawn by {' and '.join(strangers)}, and {here} is at hand: the latents are as "
                "they were, pictures and steps made again are not"
            )
            warnings.warn(message, FluxnbWarning, stacklevel=3)
        elif (held.fluxnb, held.mlx) != (__version__, mx.__version__):
            message = (
                f"{origin} was drawn with fluxnb {held.fluxnb} and MLX {held.mlx}, here are {__version__} "
                f"and {mx.__version__}: steps made again may differ in the last bits"
            )
            warnings.warn(message, FluxnbWarning, stacklevel=3)
        return run

    def __repr__(self) -> str:
        """Names the model."""
        return f"FluxSession({self.pipeline!r})"

    def decode(self, latents: mx.array, decoder: str | None = None) -> Image.Image:
        """Decodes latents as `FluxPipeline.decode` does, by the session's decoder if none is named."""
        return self.pipeline.decode(latents, self.decoder if decoder is None else decoder)

    def start(
        self,
        prompt: str,
        seed: int | None = 0,
        num_steps: int | None = None,
        shift: float | None = None,
        guidance: float | None = None,
        cfg_weight: float | None = None,
        negative_text: str = "",
        latent_size: tuple[int, int] | None = None,
        image: object = None,
        denoise: float = 1.0,
        *,
        sigmas: Iterable[float] | None = None,
        latents: object = None,
        text: object = None,
        probes: Iterable[Probe] = (),
    ) -> Run:
        """Opens a run before its first step.

        Args:
            prompt: What to draw.
            seed: Of the noise, the same as in diffusers on a CPU; None draws one, see `run.seed`.
            num_steps: 1 to 1000; None, here and below, for the model's own.
            shift: Static shift of the schedule, above 0.
            guidance: Guidance strength, for a model that takes one.
            cfg_weight: At least 0; 0 switches CFG off.
            negative_text: What CFG leads away from.
            latent_size: (H, W) in latent cells of 8 pixels, even; that of the picture if there is one.
            image: Picture to start from: a path, a Pillow image or an array, see `fluxnb.source.read`.
            denoise: How much of it to draw anew, above 0 and at most 1: the run leaves out the first steps
                and starts from the picture with the noise of the first step that is left.
            sigmas: Noise levels in place of `num_steps`, `shift` and `denoise`; they fall to 0.
            latents: To start from instead of the seed's noise, taken to be at the first noise level:
                (1, H, W, C), an array of MLX or numpy; they give the size.
            text: An embedding to draw from instead of the encoders', whose name the prompt then is: a
                `TextEmbedding`, or arrays (txt, vec) of the shapes that `encode_text` gives.
            probes: What is asked of every step while it is made, see `run.maps`; the picture stays the same.

        Raises:
            InputError: if an argument is none that can be drawn with.
        """
        source = None if image is None else read(image)
        if latents is not None:
            if source is not None:
                raise InputError(
                    "a run starts from a picture or from latents, but both are given; leave one out"
                )
            channels = self.pipeline.networks.configs.vae.latent_channels
            latents = given.latents(latents, channels, latent_size)
            latent_size = latents.shape[1:3]
        settings = fill_in(
            self.pipeline.entry,
            prompt,
            seed=seed,
            num_steps=num_steps,
            shift=shift,
            sigmas=sigmas,
            guidance=guidance,
            cfg_weight=cfg_weight,
            negative_text=negative_text,
            latent_size=latent_size,
            image=source,
            denoise=denoise,
            adapters=self.pipeline.adapters,
        )
        warn_of_no_effect(self.pipeline.entry, settings, guidance, negative_text, denoise)
        if text is not None:
            text = given.text(text, self.encode_text(prompt), settings.negative_text)
            settings = replace(settings, embedding=given.digest(text))
        if latents is None:
            latents = self.pipeline.first_latents(settings, source)
        else:
            memory.check(self.pipeline.networks, settings.latent_size)
            settings = replace(settings, seed=None)
        run = Run(self, settings, latents, text=text, source=source, probes=probes)
        advice.warn(run.notes)
        return run

    def sweep(
        self,
        prompts: str | Iterable[str],
        seeds: int | Iterable[int] = 0,
        shifts: float | Iterable[float | None] | None = None,
        *,
        num_steps: int | None = None,
        sigmas: Iterable[float] | None = None,
        guidance: float | None = None,
        cfg_weight: float | None = None,
        negative_text: str = "",
        latent_size: tuple[int, int] | None = None,
        executor: Executor | None = None,
    ) -> Sweep:
        """Draws all combinations of prompts, shifts and seeds, with a progress bar.

        What fails is kept in `failures`, with a warning, and the others go on; Ctrl-C ends it with the runs
        that are finished.

        Args:
            prompts: One or several.
            seeds: One or several; they change first.
            shifts: One or several, None for the model's own; they change before the prompts.
            num_steps: Of all runs, as for `start`, like the five below.
            sigmas: Noise levels in place of `num_steps` and `shifts`.
            guidance: Guidance strength.
            cfg_weight: Weight of CFG.
            negative_text: What CFG leads away from.
            latent_size: (H, W) in latent cells.
            executor: One of `concurrent.futures`, or alike, whose workers draw, see `fluxnb.sweep`; None to
                draw here, one after the other.

        Returns:
            The runs, in order: the seeds of the first shift of the first prompt come first.

        Raises:
            InputError: if an argument is none that can be drawn with, or the executor's workers cannot draw.
        """
        sigmas = None if sigmas is None else flow.own_schedule(sigmas)
        axes = [several("prompts", prompts), several("shifts", shifts), several("seeds", seeds)]
        wanted = tuple(
            fill_in(
                self.pipeline.entry,
                prompt,
                seed=seed,
                num_steps=num_steps,
                shift=shift,
                sigmas=sigmas,
                guidance=guidance,
                cfg_weight=cfg_weight,
                negative_text=negative_text,
                latent_size=latent_size,
                adapters=self.pipeline.adapters,
            )
            for prompt, shift, seed in product(*axes)
        )
        warn_of_no_effect(self.pipeline.entry, wanted[0], guidance, negative_text)
        drawn = sweep(self, wanted, executor)
        advice.warn(dict.fromkeys(note for run in drawn for note in run.notes))
        if drawn.complaint:
            warnings.warn(drawn.complaint, FluxnbWarning, stacklevel=2)
        return drawn
