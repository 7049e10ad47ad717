"""The methods of DiffusionKit's pipeline that its users call one by one, by its names, arguments and results.

    conditioning, pooled = pipeline.encode_text("a photo of a cat")
    latents, seconds = pipeline.denoise_latents(conditioning, pooled, num_steps=4, seed=0)
    pixels = pipeline.decode_latents_to_image(latents)

These latents are raw, as the autoencoder gives and takes them; everywhere else in fluxnb they are normalised,
(raw - shift_factor) * scale_factor. Noise is that of diffusers for the seed, not DiffusionKit's.
"""

from __future__ import annotations

import mlx.core as mx

from fluxnb import advice, drawing
from fluxnb.errors import InputError
from fluxnb.settings import fill_in, warn_of_no_effect
from fluxnb.source import read
from fluxnb.texts import TextEmbedding


class DiffusionKitCalls:
    """What `FluxPipeline` inherits for the users of DiffusionKit; it has no state."""

    def denoise_latents(
        self,
        conditioning: mx.array,
        pooled_conditioning: mx.array,
        num_steps: int | None = None,
        cfg_weight: float = 0.0,
        latent_size: tuple[int, int] | None = None,
        seed: int | None = None,
        image_path: object = None,
        denoise: float = 1.0,
    ) -> tuple[mx.array, list[float]]:
        """Goes from noise, or from a picture, to latents.

        Args:
            conditioning: T5's states, (1, L, D), or (2, L, D) with those of the negative text.
            pooled_conditioning: CLIP's pooled state, (1, D) or (2, D) likewise.
            num_steps: As in `generate_image`, like the arguments below.
            cfg_weight: Other than 0 and 1 it needs the negative text's rows, see `encode_text`.
            latent_size: (H, W) in latent cells of 8 pixels, even.
            seed: Of the noise; None draws one.
            image_path: Picture to start from.
            denoise: How much of it to draw anew.

        Returns:
            Raw latents, float32 (1, H, W, C), evaluated, and the seconds of each step.

        Raises:
            InputError: if an argument is none that can be drawn with.
        """
        source = None if image_path is None else read(image_path)
        settings = fill_in(
            self.entry,
            "",
            seed=seed,
            num_steps=num_steps,
            cfg_weight=cfg_weight,
            latent_size=latent_size,
            image=source,
            denoise=denoise,
            adapters=self.adapters,
        )
        warn_of_no_effect(self.entry, settings, None, None, denoise)
        if self.vocabulary is not None:
            advice.warn(self.vocabulary.notes_on_size(settings.latent_size))
        texts = self._texts(conditioning, pooled_conditioning)
        if settings.has_cfg and len(texts) < 2:
            raise InputError(
                f"cfg_weight {settings.cfg_weight:g} leads away from a negative text, and there is none; "
                f"take conditioning from encode_text(text, {settings.cfg_weight:g}, negative_text)"
            )
        negative = texts[1] if settings.has_cfg else None
        latents, seconds = drawing.denoise(self, settings, source, texts[0], negative)
        return self.raw(latents), seconds

    def _texts(self, conditioning: mx.array, pooled_conditioning: mx.array) -> list[TextEmbedding]:
        """Takes the rows of the conditionings apart, one or two."""
        config = self.networks.configs.mmdit
        txt, vec = (getattr(array, "shape", ()) for array in (conditioning, pooled_conditioning))
        fits = len(txt) == 3 and len(vec) == 2 and txt[0] == vec[0] in (1, 2)
        if not fits or (txt[2], vec[1]) != (config.txt_dim, config.vec_dim):
            raise InputError(
                f"conditioning and pooled_conditioning have the shapes {txt} and {vec}; give what encode_text"
                f" returns, (1, L, {config.txt_dim}) and (1, {config.vec_dim}), or 2 rows of each"
            )
        return [
            TextEmbedding.from_arrays(txt[None], vec[None])
            for txt, vec in zip(mx.array(conditioning), mx.array(pooled_conditioning), strict=True)
        ]

    def decode_latents_to_image(self, x_t: mx.array) -> mx.array:
        """Decodes raw latents (B, H, W, C) to pixels in 0..1, (B, 8 H, 8 W, 3), evaluated.

        Raises:
            InputError: if they have another shape.
        """
        self.check_latents(x_t)
        pixels = mx.clip(self.pixels(x_t).astype(mx.float32) / 2 + 0.5, 0, 1)
        mx.eval(pixels)
        return pixels

    def read_image(self, image_path: object) -> mx.array:
        """Reads a picture: (1, H, W, 3) in -1..1, at the size that `generate_image` would draw it at.

        DiffusionKit rounds the sides down to multiples of 64 pixels; here it is to the nearest 16.
        """
        source = read(image_path)
        return mx.array(source.pixels(source.latent_size(self.entry.latent_size)))

    def encode_image_to_latents(self, image_path: object, seed: int | None = None) -> mx.array:
        """Encodes a picture at the size that `generate_image` would draw it at.

        Args:
            image_path: See `fluxnb.source.read`.
            seed: Of the sample of the autoencoder's distribution; None for its mean.

        Returns:
            Raw latents, (1, H, W, C), evaluated.
        """
        source = read(image_path)
        latents = self.raw(self.encode(source, source.latent_size(self.entry.latent_size), seed))
        mx.eval(latents)
        return latents

    def ensure_models_are_loaded(self) -> None:
        """Reads what is not in memory yet: in low memory mode the text encoders, which are needed first."""
        mx.eval(self.networks.clip.parameters(), self.networks.t5.parameters())
