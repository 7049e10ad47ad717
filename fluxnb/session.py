"""A session: one pipeline, its texts encoded once each, and the runs that are started on it.

Knows nothing of what a run can be asked (`fluxnb.run`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from fluxnb import given
from fluxnb.errors import InputError
from fluxnb.pipeline import FluxPipeline, warn_of_texts
from fluxnb.run import Run
from fluxnb.settings import fill_in, warn_of_no_effect
from fluxnb.source import read

TEXTS_KEPT = 32  # embeddings; 8 MB each for FLUX.1-dev


class FluxSession:
    """Starts runs on one pipeline, and encodes each text once.

    Args:
        pipeline: What draws.
    """

    def __init__(self, pipeline: FluxPipeline):
        """Takes the pipeline as it is."""
        if not hasattr(pipeline, "velocity"):
            raise InputError(
                f"pipeline is {pipeline!r}; give a FluxPipeline, or use FluxSession.from_pretrained()"
            )
        self.pipeline = pipeline
        self.encode_text = lru_cache(maxsize=TEXTS_KEPT)(pipeline.encode_text)

    @classmethod
    def from_pretrained(cls, model_version: str = "fluxnb/demo", **options) -> FluxSession:
        """Loads a pipeline by name and opens a session on it; `options` are those of `FluxPipeline`."""
        return cls(FluxPipeline(model_version, **options))

    def __repr__(self) -> str:
        """Names the model."""
        return f"FluxSession({self.pipeline!r})"

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
            sigmas: Noise levels in place of `num_steps` and `shift`: they fall, from at most 1, to 0.
            latents: To start from instead of the seed's noise, taken to be at the first noise level:
                (1, H, W, C), an array of MLX or numpy; they give the size.
            text: An embedding to draw from instead of the encoders', whose name the prompt then is: a
                `TextEmbedding`, or arrays (txt, vec) of the shapes that `encode_text` gives.

        Raises:
            InputError: if an argument is none that can be drawn with.
        """
        source = None if image is None else read(image)
        if latents is not None:
            if source is not None:
                raise InputError("image and latents are both given to start from; give one of them")
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
        )
        warn_of_no_effect(self.pipeline.entry, settings, guidance, negative_text, denoise)
        if text is not None:
            text = given.text(text, self.encode_text(prompt))
            settings = replace(settings, embedding=given.digest(text))
        if latents is None:
            latents = self.pipeline.first_latents(settings, source)
        else:
            settings = replace(settings, seed=None)
        run = Run(self, settings, latents, text=text, source=source)
        warn_of_texts(run.text, run.negative)
        return run
