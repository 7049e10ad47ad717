"""Pictures to latents and back: by the autoencoder, by a tiny one, or by a linear fit.

Knows nothing of prompts and steps. Latents are float32, (1, H, W, C), as the transformer sees them.
"""

from __future__ import annotations

import os

import mlx.core as mx
import numpy as np
from PIL import Image

from fluxnb import checks, flow, images
from fluxnb.checkpoints import taesd
from fluxnb.errors import InputError
from fluxnb.model import strips
from fluxnb.model.taesd import TAESD
from fluxnb.model.vae import gaussian
from fluxnb.source import Source

DECODERS = ("vae", "taef1", "linear")
"""What latents can be decoded by: the autoencoder, the tiny one of `load_preview`, the model's linear fit."""

MANY_CELLS = 1024
"""Above so many latent cells, 256 x 256 pixels, the autoencoder works in strips (`fluxnb.model.strips`)."""


class Decoding:
    """What `FluxPipeline` inherits to decode and encode pictures."""

    preview: TAESD | None = None

    def load_preview(self, source: str | os.PathLike) -> None:
        """Reads a tiny autoencoder, by which `decode(latents, "taef1")` then decodes.

        Args:
            source: A folder or a safetensors file in the layout of diffusers' AutoencoderTiny, or its name on
                the hub, from where it is then downloaded: "madebyollin/taef1", 10 MB, for FLUX.1.

        Raises:
            InputError: if it is none of these.
            CheckpointError: if it cannot be read, or is for latents of another model.
            DownloadError: if it cannot be brought from the hub.
        """
        self.preview = taesd.load(source, self.networks.configs.vae.latent_channels)

    def check_decoder(self, decoder: str) -> str:
        """Returns the name of a decoder if it is there.

        Raises:
            InputError: if it is not; the message says how to get it.
        """
        checks.choice("decoder", decoder, DECODERS)
        if decoder == "taef1" and self.preview is None:
            raise InputError(
                "no tiny autoencoder is loaded; call load_preview() with a folder, or with "
                "'madebyollin/taef1', which is then downloaded"
            )
        if decoder == "linear" and self.networks.linear is None:
            raise InputError(
                f"no linear fit comes with {self.entry.name}; decode by 'vae', or by 'taef1' after "
                "load_preview()"
            )
        return decoder

    def check_latents(self, latents: mx.array) -> None:
        """Refuses what has not the shape of latents.

        Raises:
            InputError: it says which shape is expected.
        """
        shape, channels = getattr(latents, "shape", None), self.networks.configs.vae.latent_channels
        if not isinstance(latents, mx.array) or len(shape) != 4 or shape[3] != channels:
            what = f"a {type(latents).__name__}" if shape is None else f"of the shape {shape}"
            raise InputError(f"the latents are {what}; give an array of MLX, (B, H, W, {channels})")

    def decode(self, latents: mx.array, decoder: str = "vae") -> Image.Image:
        """Decodes latents (1, H, W, C) to a picture of 8 H x 8 W pixels.

        Args:
            latents: Normalised.
            decoder: One of `DECODERS`; "linear" gives one colour for each latent cell.

        Raises:
            InputError: if that decoder is not there, or these are no latents of the model.
        """
        self.check_decoder(decoder)
        self.check_latents(latents)
        if decoder == "vae":
            pixels = self.pixels(self.raw(latents))
        else:
            pixels = {"taef1": self.preview, "linear": self.networks.linear}[decoder].decode(latents)
        return images.picture(np.array(pixels.astype(mx.float32)))  # (1, 8H, 8W, 3)

    def pixels(self, raw: mx.array) -> mx.array:
        """Decodes raw latents (B, H, W, C) by the autoencoder: (B, 8 H, 8 W, 3), about -1..1."""
        vae, raw = self.networks.vae, raw.astype(self.networks.dtype)
        return strips.decode(vae, raw) if _is_large(raw) else vae.decode(raw)

    def encode(self, source: Source, latent_size: tuple[int, int], seed: int | None = None) -> mx.array:
        """Encodes a picture, fitted to a size, to latents (1, H, W, C); undone by `decode`.

        Args:
            source: The picture.
            latent_size: (H, W) in latent cells of 8 pixels.
            seed: Of the sample of the autoencoder's distribution that diffusers takes; None for its mean.
        """
        vae = self.networks.vae
        picture = mx.array(source.pixels(latent_size))
        moments = strips.encode(vae, picture) if _is_large(picture, 8) else vae.encoder(picture)
        mean, deviation = gaussian(moments)
        if seed is not None:
            mean = mean + deviation * flow.noise(seed, latent_size, vae.config.latent_channels)
        return ((mean - vae.config.shift_factor) * vae.config.scale_factor).astype(mx.float32)

    def raw(self, latents: mx.array) -> mx.array:
        """Returns latents as the autoencoder takes them."""
        config = self.networks.configs.vae
        return latents / config.scale_factor + config.shift_factor


def _is_large(array: mx.array, pixels: int = 1) -> bool:
    """Tells whether an array (B, H, W, C), with so many pixels a side of a cell, has many latent cells."""
    return array.shape[1] * array.shape[2] > MANY_CELLS * pixels * pixels
