"""The autoencoder in strips of rows: the same picture in a part of the memory; knows nothing of files.

Cutting a picture into tiles and decoding each by itself shows seams, since group norms and the attention look
at the whole picture. Here every layer goes over the whole picture before the next begins, a strip at a time:
a convolution takes one row from each neighbour, a norm first gathers the mean and variance of all strips. The
result is the same up to rounding. What is kept in full is the stream and one inner state of a block; the
unfolded neighbourhoods of a convolution, three times its input on a CPU, exist for one strip only.

Measured on a Linux CPU with FLUX.1's widths and random weights, decoding to 512 x 512 pixels: peak memory
0.6 GiB instead of 3.8, CPU time 0.7 of the whole's, largest difference 5e-6 of a range of 2; to 1024 x 1024
pixels 1.8 GiB.

Strips are arrays (B, r, W, C), from top to bottom, all with the same even number of rows but the last. They
are evaluated as they are made: memory is what this is for.
"""

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx

from fluxnb import backend
from fluxnb.model.vae import VAE, AttnBlock, Conv, GroupNorm, Level, Middle, ResBlock

CELLS = 2048  # cells of the innermost level in a strip, about; its rows are the same in all levels

Strips = list[mx.array]


def decode(vae: VAE, z: mx.array, rows: int | None = None) -> mx.array:
    """Maps latents (B, H, W, latent_channels) to pictures (B, 8 H, 8 W, 3), as `VAE.decode` does.

    Args:
        vae: any size.
        z: latents.
        rows: of a strip, even; None for a number that goes with the width.
    """
    decoder = vae.decoder
    x = _held(_convolved(decoder.conv_in, _cut(z, rows or _rows(z.shape[2]))))
    x = _middle(decoder.mid, x)
    for level in reversed(decoder.up):
        x = _level(level, x)
    return _joined(_convolved(decoder.conv_out, _activated(decoder.norm_out, x, _drained(x))))


def encode(vae: VAE, x: mx.array, rows: int | None = None) -> mx.array:
    """Maps pictures (B, 8 H, 8 W, 3) to what `VAE.encoder` gives (B, H, W, 2 * latent_channels).

    Args:
        vae: any size.
        x: pictures.
        rows: of a strip, even; None for a number that goes with the width.
    """
    encoder = vae.encoder
    factor = 2 ** (len(encoder.down) - 1)
    strips = _held(_convolved(encoder.conv_in, _cut(x, rows or _rows(x.shape[2] // factor))))
    for level in encoder.down:
        strips = _level(level, strips)
    strips = _middle(encoder.mid, strips)
    return _joined(_convolved(encoder.conv_out, _activated(encoder.norm_out, strips, _drained(strips))))


def _rows(width: int) -> int:
    """Chooses how many rows a strip has, from the cells of a row in the innermost level."""
    return max(2, CELLS // width // 2 * 2)


def _cut(x: mx.array, rows: int) -> Iterator[mx.array]:
    """Cuts an array into strips."""
    yield from (x[:, i : i + rows] for i in range(0, x.shape[1], rows))


def _held(strips: Iterable[mx.array]) -> Strips:
    """Evaluates strips one after the other and keeps them."""
    held = []
    for strip in strips:
        mx.eval(strip)
        held.append(strip)
    return held


def _drained(strips: Strips) -> Iterator[mx.array]:
    """Gives strips that are not needed afterwards, and lets go of each."""
    while strips:
        yield strips.pop(0)


def _joined(strips: Iterable[mx.array]) -> mx.array:
    """Puts strips together, evaluated."""
    return mx.concatenate(_held(strips), axis=1)


def _with_neighbours(strips: Iterable[mx.array]) -> Iterator[mx.array]:
    """Gives each strip with the row above it and the row below it, zeros at the picture's edges."""
    strips = iter(strips)
    current = next(strips)
    above = mx.zeros_like(current[:, :1])
    for below in strips:
        yield mx.concatenate([above, current, below[:, :1]], axis=1)
        above, current = current[:, -1:], below
    yield mx.concatenate([above, current, mx.zeros_like(above)], axis=1)


def _convolved(conv: Conv, strips: Iterable[mx.array]) -> Iterator[mx.array]:
    """Convolves by 3x3."""
    for strip in _with_neighbours(strips):
        weight, bias = conv.weight.astype(strip.dtype), conv.bias.astype(strip.dtype)
        yield backend.conv(strip, weight, bias, edge=0)


def _activated(norm: GroupNorm, whole: Strips, strips: Iterable[mx.array]) -> Iterator[mx.array]:
    """Norms by what is gathered from the whole, then SiLU."""
    normed = _normed(norm, whole)
    return (backend.silu(normed(strip)) for strip in strips)


def _normed(norm: GroupNorm, whole: Strips) -> Callable[[mx.array], mx.array]:
    """Gathers mean and variance of each group over all strips; returns what norms a strip by them.

    Of each strip its own mean and variance are taken, so that no sum is longer than a strip.
    """
    groups, eps = norm.groups, norm.eps
    channels = whole[0].shape[-1]
    means, variances, shares = [], [], []
    for strip in whole:
        wide = strip.astype(mx.float32).reshape(len(strip), -1, channels)  # (B, r*W, C)
        mean = _mean(wide, groups)
        centred = wide - mx.repeat(mean, channels // groups, axis=-1)
        means.append(mean)
        variances.append(_mean(centred * centred, groups))
        shares.append(wide.shape[1])
        mx.eval(means[-1], variances[-1])
    share = mx.array(shares)[:, None, None, None] / sum(shares)  # (strips, 1, 1, 1)
    means, variances = mx.stack(means), mx.stack(variances)  # (strips, B, 1, groups)
    mean = (share * means).sum(axis=0)
    variance = (share * (variances + (means - mean) * (means - mean))).sum(axis=0)
    factor = mx.repeat(mx.rsqrt(variance + eps), channels // groups, axis=-1) * norm.weight
    offset = norm.bias - mx.repeat(mean, channels // groups, axis=-1) * factor
    factor, offset = factor[:, None], offset[:, None]  # (B, 1, 1, C)
    mx.eval(factor, offset)
    return lambda strip: (strip.astype(mx.float32) * factor + offset).astype(strip.dtype)


def _mean(wide: mx.array, groups: int) -> mx.array:
    """Gives the mean of each group, (B, n, C) to (B, 1, groups), by a product, see `backend.linux_cpu`."""
    share = mx.full((1, wide.shape[1]), 1 / wide.shape[1])
    return (share @ wide).reshape(len(wide), 1, groups, -1).mean(axis=-1)


def _block(block: ResBlock, x: Strips) -> Strips:
    """Does what ResBlock does."""
    y = _held(_convolved(block.conv1, _activated(block.norm1, x, x)))
    y = _convolved(block.conv2, _activated(block.norm2, y, _drained(y)))
    shortcut = block.nin_shortcut if "nin_shortcut" in block else lambda strip: strip
    return _held(after + shortcut(before) for after, before in zip(y, _drained(x), strict=True))


def _level(level: Level, x: Strips) -> Strips:
    """Does what Level does."""
    for block in level.block:
        x = _block(block, x)
    if "downsample" in level:
        x = _held(_paired(_halved(level.downsample.conv, _drained(x))))
    if "upsample" in level:
        x = _held(_doubled(level.upsample, _drained(x)))
    return x


def _middle(middle: Middle, x: Strips) -> Strips:
    """Does what Middle does; its attention takes the queries of one strip at a time."""
    x = _block(middle.block_1, x)
    x = _attention(middle.attn_1, x)
    return _block(middle.block_2, x)


def _attention(block: AttnBlock, x: Strips) -> Strips:
    """Does what AttnBlock does."""
    normed = _normed(block.norm, x)
    batch, *_, channels = x[0].shape

    def tokens(y: mx.array) -> mx.array:  # (B, r, W, C) -> (B, 1, r*W, C)
        return y.reshape(batch, 1, -1, channels)

    k, v = (mx.concatenate(_held(tokens(part(normed(s))) for s in x), axis=2) for part in (block.k, block.v))
    mx.eval(k, v)

    def mixed(strip: mx.array) -> mx.array:
        q = tokens(block.q(normed(strip)))
        return block.proj_out(backend.attention(q, k, v, channels**-0.5).reshape(strip.shape))

    return _held(strip + mixed(strip) for strip in _drained(x))


def _doubled(upsample: Callable[[mx.array], mx.array], strips: Iterable[mx.array]) -> Iterator[mx.array]:
    """Doubles both sides as Upsample does; each strip becomes two of as many rows."""
    for strip in _with_neighbours(strips):
        rows = strip.shape[1] - 2
        doubled = upsample(strip)
        yield doubled[:, 2 : 2 + rows]
        yield doubled[:, 2 + rows : 2 + 2 * rows]


def _halved(conv: Conv, strips: Iterable[mx.array]) -> Iterator[mx.array]:
    """Halves both sides as Downsample does; each strip has half as many rows then."""
    for strip in _with_neighbours(strips):
        seen = mx.pad(strip[:, 1:], [(0, 0), (0, 0), (0, 1), (0, 0)])
        yield conv(seen)


def _paired(strips: Iterable[mx.array]) -> Iterator[mx.array]:
    """Joins two strips each; one may be left over."""
    strips = iter(strips)
    for strip in strips:
        yield mx.concatenate([strip, *(second for second in [next(strips, None)] if second is not None)], 1)
