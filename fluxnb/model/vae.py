"""The autoencoder between pixels and latents, 8 pixels to a cell; knows nothing of files or image formats.

Parameters bear the names of black-forest-labs' ae.safetensors, convolutions as (out, kh, kw, in). The
decoder's levels are numbered from pixels on, as the encoder's are, and walked from the last to the first.
Source: black-forest-labs/flux `autoencoder.py`, arXiv 2112.10752; letters of the shapes: see `fluxnb.model`.
"""

import mlx.core as mx
import mlx.nn as nn

from fluxnb import backend
from fluxnb.model.config import VAEConfig
from fluxnb.model.layers import linear


class Conv(nn.Module):
    """A convolution on NHWC, computed as a product where its kernel is a single cell."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1):
        super().__init__()
        self.weight = mx.zeros((outputs, kernel, kernel, inputs))
        self.bias = mx.zeros((outputs,))
        self._stride, self._padding = stride, padding

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, inputs) to (B, H / stride, W / stride, outputs)."""
        weight, bias = self.weight.astype(x.dtype), self.bias.astype(x.dtype)
        if weight.shape[1] == 1:
            return linear(x, weight[:, 0, 0], bias)
        if (self._stride, self._padding) == (1, 1):
            return backend.conv(x, weight, bias)
        return mx.conv2d(x, weight, self._stride, self._padding) + bias


class GroupNorm(nn.Module):
    """Group norm with weight and bias."""

    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.weight = mx.zeros((channels,))
        self.bias = mx.zeros((channels,))
        self.groups, self.eps = config.groups, config.eps

    def __call__(self, x: mx.array) -> mx.array:
        """Normalises (B, H, W, C) over cells and the channels of a group."""
        return backend.group_norm(
            x, self.groups, self.weight.astype(x.dtype), self.bias.astype(x.dtype), self.eps
        )


class ResBlock(nn.Module):
    """Two times norm, SiLU, convolution, added to what came in."""

    def __init__(self, inputs: int, outputs: int, config: VAEConfig):
        super().__init__()
        self.norm1 = GroupNorm(inputs, config)
        self.conv1 = Conv(inputs, outputs)
        self.norm2 = GroupNorm(outputs, config)
        self.conv2 = Conv(outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = Conv(inputs, outputs, kernel=1, padding=0)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, inputs) to (B, H, W, outputs)."""
        y = self.conv1(backend.silu(self.norm1(x)))
        y = self.conv2(backend.silu(self.norm2(y)))
        return y + (self.nin_shortcut(x) if "nin_shortcut" in self else x)


class AttnBlock(nn.Module):
    """Attention of all cells to all, one head as wide as the channels."""

    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.norm = GroupNorm(channels, config)
        self.q = Conv(channels, channels, kernel=1, padding=0)
        self.k = Conv(channels, channels, kernel=1, padding=0)
        self.v = Conv(channels, channels, kernel=1, padding=0)
        self.proj_out = Conv(channels, channels, kernel=1, padding=0)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, C) to (B, H, W, C)."""
        batch, *_, channels = x.shape
        y = self.norm(x)
        q, k, v = (part(y).reshape(batch, 1, -1, channels) for part in (self.q, self.k, self.v))
        mixed = backend.attention(q, k, v, channels**-0.5)  # (B, 1, H*W, C)
        return x + self.proj_out(mixed.reshape(x.shape))


class Middle(nn.Module):
    """The innermost level: a residual block, attention, a residual block."""

    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, config)
        self.attn_1 = AttnBlock(channels, config)
        self.block_2 = ResBlock(channels, channels, config)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, C) to (B, H, W, C)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halves both sides by a convolution that sees one row and one column of zeros, at the far ends only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, stride=2, padding=0)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, C) to (B, H / 2, W / 2, C)."""
        return self.conv(mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]))


class Upsample(nn.Module):
    """Doubles both sides: each cell four times, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, C) to (B, 2 H, 2 W, C)."""
        return backend.upsample_conv(x, self.conv.weight.astype(x.dtype), self.conv.bias.astype(x.dtype))


class Level(nn.Module):
    """The residual blocks of one resolution, and the step to the next."""

    def __init__(self, inputs: int, outputs: int, layers: int, config: VAEConfig):
        super().__init__()
        self.block = [ResBlock(inputs if i == 0 else outputs, outputs, config) for i in range(layers)]

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, H, W, inputs) to (B, H', W', outputs)."""
        for block in self.block:
            x = block(x)
        if "downsample" in self:
            x = self.downsample(x)
        if "upsample" in self:
            x = self.upsample(x)
        return x


class Encoder(nn.Module):
    """Pixels to mean and log-variance of the latents."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        channels = config.channels
        self.conv_in = Conv(config.image_channels, channels[0])
        self.down = []
        for i, outputs in enumerate(channels):
            level = Level(channels[max(i - 1, 0)], outputs, config.layers, config)
            if i < len(channels) - 1:
                level.downsample = Downsample(outputs)
            self.down.append(level)
        self.mid = Middle(channels[-1], config)
        self.norm_out = GroupNorm(channels[-1], config)
        self.conv_out = Conv(channels[-1], 2 * config.latent_channels)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, 8 H, 8 W, 3) to (B, H, W, 2 * latent_channels)."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(backend.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        channels = config.channels
        self.conv_in = Conv(config.latent_channels, channels[-1])
        self.mid = Middle(channels[-1], config)
        self.up = []
        for i, outputs in enumerate(channels):
            inputs = channels[min(i + 1, len(channels) - 1)]
            level = Level(inputs, outputs, config.layers + 1, config)
            if i > 0:
                level.upsample = Upsample(outputs)
            self.up.append(level)
        self.norm_out = GroupNorm(channels[0], config)
        self.conv_out = Conv(channels[0], config.image_channels)

    def __call__(self, z: mx.array) -> mx.array:
        """Maps (B, H, W, latent_channels) to (B, 8 H, 8 W, 3)."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(backend.silu(self.norm_out(x)))


def gaussian(moments: mx.array) -> tuple[mx.array, mx.array]:
    """Splits what the encoder gives, (B, H, W, 2 C), into mean and standard deviation of the latents."""
    mean, logarithm = mx.split(moments, 2, axis=-1)
    return mean, mx.exp(mx.clip(logarithm, -30, 20) / 2)  # the bounds are diffusers'


class VAE(nn.Module):
    """FLUX.1's autoencoder at any size; computes in the dtype of what comes in.

    Its latents are raw: those of the transformer are (z - shift_factor) * scale_factor, see `VAEConfig`.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, x: mx.array) -> mx.array:
        """Maps pictures (B, 8 H, 8 W, 3) in -1..1 to the mean of their latents (B, H, W, latent_channels)."""
        return self.distribution(x)[0]

    def distribution(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Maps pictures like `encode` to mean and standard deviation of their latents."""
        return gaussian(self.encoder(x))

    def decode(self, z: mx.array) -> mx.array:
        """Maps latents (B, H, W, latent_channels) to pictures (B, 8 H, 8 W, 3), about -1..1, not clipped."""
        return self.decoder(z)
