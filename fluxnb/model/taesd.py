"""TAESD, an autoencoder of a hundredth of the work: latents <-> pixels, nearly; knows nothing of files.

For FLUX.1 it is TAEF1, whose latents are the normalised ones that the transformer sees, without scale and
shift. Layers bear the numbers that diffusers' AutoencoderTiny gives them, in which a ReLU and a doubling
count; convolutions are (out, kh, kw, in). Source: madebyollin/taesd `taesd.py`, MIT licence; letters of the
shapes: see `fluxnb.model`.
"""

import mlx.core as mx
import mlx.nn as nn

from fluxnb import backend
from fluxnb.model.config import TAESDConfig
from fluxnb.model.layers import chain
from fluxnb.model.vae import Conv


class ReLU(nn.Module):
    """What is below 0 becomes 0; a layer of its own since the names of parameters count it."""

    def __call__(self, x: mx.array) -> mx.array:
        """Maps x to max(x, 0)."""
        return mx.maximum(x, 0)


class Block(nn.Module):
    """Three convolutions, added to what came in."""

    def __init__(self, channels: int):
        super().__init__()
        conv = [Conv(channels, channels) for _ in range(3)]
        self.conv = [conv[0], ReLU(), conv[1], ReLU(), conv[2]]

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, C) to (B, H, W, C)."""
        return mx.maximum(chain(self.conv, x) + x, 0)


class Halve(nn.Module):
    """Halves both sides by a convolution without bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = mx.zeros((channels, 3, 3, channels))

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, C) to (B, H / 2, W / 2, C)."""
        return mx.conv2d(x, self.weight.astype(x.dtype), stride=2, padding=1)


class Double(nn.Module):
    """Doubles both sides, each cell four times, then a convolution without bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = mx.zeros((channels, 3, 3, channels))

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, C) to (B, 2 H, 2 W, C)."""
        return backend.upsample_conv(x, self.weight.astype(x.dtype), mx.zeros((len(self.weight),), x.dtype))


class Encoder(nn.Module):
    """Pixels to latents."""

    def __init__(self, config: TAESDConfig):
        super().__init__()
        channels = config.channels
        self.layers = [Conv(config.image_channels, channels), *_blocks(config.encoder_blocks[0], channels)]
        for count in config.encoder_blocks[1:]:
            self.layers += [Halve(channels), *_blocks(count, channels)]
        self.layers.append(Conv(channels, config.latent_channels))

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, 8 H, 8 W, 3) in -1..1 to (B, H, W, latent_channels)."""
        return chain(self.layers, (x + 1) / 2)


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, config: TAESDConfig):
        super().__init__()
        channels = config.channels
        self.layers = [Conv(config.latent_channels, channels), ReLU()]
        for count in config.decoder_blocks[:-1]:  # Double does what Identity is counted for
            self.layers += [*_blocks(count, channels), nn.Identity(), Double(channels)]
        self.layers += [*_blocks(config.decoder_blocks[-1], channels), Conv(channels, config.image_channels)]

    def __call__(self, z: mx.array) -> mx.array:
        """Maps (B, H, W, latent_channels) to (B, 8 H, 8 W, 3), about -1..1."""
        return 2 * chain(self.layers, 3 * mx.tanh(z / 3)) - 1


class TAESD(nn.Module):
    """The tiny autoencoder; computes in the dtype of what comes in."""

    def __init__(self, config: TAESDConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, x: mx.array) -> mx.array:
        """Maps pictures (B, 8 H, 8 W, 3) in -1..1 to normalised latents (B, H, W, latent_channels)."""
        return (self.encoder(x) - self.config.shift_factor) * self.config.scale_factor

    def decode(self, latents: mx.array) -> mx.array:
        """Maps normalised latents to pictures (B, 8 H, 8 W, 3), about -1..1, not clipped."""
        return self.decoder(latents / self.config.scale_factor + self.config.shift_factor)


def _blocks(count: int, channels: int) -> list[Block]:
    """Makes some blocks."""
    return [Block(channels) for _ in range(count)]
