"""MLX's own ops under the names that the networks use: right on every device, fast on Metal and CUDA.

Knows nothing of devices: the package chooses between this file and `linux_cpu`, which has the same functions.

    x          any shape, the last axis is the one that is worked on
    q, k, v    (B, H, L, D): batch, heads, tokens, width of a head
    images     (B, H, W, C): channels last

Every function returns the type of its first argument.
"""

import mlx.core as mx
import mlx.nn as nn


def gelu(x: mx.array) -> mx.array:
    """Returns the tanh form of GELU (Hendrycks and Gimpel 2016, section 2), as FLUX and T5 v1.1 use it."""
    return nn.gelu_approx(x)


def silu(x: mx.array) -> mx.array:
    """Returns x * sigmoid(x)."""
    return nn.silu(x)


def quick_gelu(x: mx.array) -> mx.array:
    """Returns x * sigmoid(1.702 x), CLIP's GELU."""
    return nn.gelu_fast_approx(x)


def softmax(x: mx.array) -> mx.array:
    """Returns the softmax over the last axis, summed in float32 whatever the type."""
    return mx.softmax(x, axis=-1, precise=True)


def layer_norm(
    x: mx.array, weight: mx.array | None = None, bias: mx.array | None = None, eps: float = 1e-6
) -> mx.array:
    """Returns x with mean 0 and variance 1 over the last axis, then times weight plus bias, each (D,)."""
    return mx.fast.layer_norm(x, weight, bias, eps).astype(x.dtype)


def rms_norm(x: mx.array, weight: mx.array, eps: float = 1e-6) -> mx.array:
    """Returns x over its root mean square along the last axis, times weight (D,)."""
    return mx.fast.rms_norm(x, weight, eps).astype(x.dtype)


def group_norm(x: mx.array, groups: int, weight: mx.array, bias: mx.array, eps: float = 1e-6) -> mx.array:
    """Normalises an image over its pixels and each group of neighbouring channels, as torch's GroupNorm does.

    Args:
        x: (B, H, W, C).
        groups: how many groups; divides C.
        weight: (C,), multiplies the normalised channels.
        bias: (C,), is added to them.
        eps: added to each variance.
    """
    batch, *pixels, channels = x.shape
    grouped = x.reshape(batch, -1, groups, channels // groups).swapaxes(1, 2)  # (B, G, HW, C/G)
    flat = mx.fast.layer_norm(grouped.reshape(batch, groups, -1), None, None, eps)
    back = flat.reshape(batch, groups, -1, channels // groups).swapaxes(1, 2)
    return (back.reshape(batch, *pixels, channels) * weight + bias).astype(x.dtype)


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None = None) -> mx.array:
    """Returns softmax(scale q k^T + mask) v.

    Args:
        q: (B, H, L, D).
        k: (B, H, M, D).
        v: (B, H, M, D).
        scale: usually D ** -0.5.
        mask: added to the scores, broadcast to (B, H, L, M); -inf forbids an edge.
    """
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


def conv(x: mx.array, weight: mx.array, bias: mx.array, edge: int = 1) -> mx.array:
    """Convolves an image with a 3x3 kernel and zeros around it.

    Args:
        x: (B, H, W, C).
        weight: (O, 3, 3, C).
        bias: (O,).
        edge: rows of zeros above and below; 0 where the rows there belong to the image.

    Returns:
        (B, H, W, O), or two rows less without an edge.
    """
    return (mx.conv2d(x, weight, padding=(edge, 1)) + bias).astype(x.dtype)


def upsample_conv(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Doubles an image by nearest neighbour, then convolves it with a 3x3 kernel and zero padding.

    Args:
        x: (B, H, W, C).
        weight: (O, 3, 3, C).
        bias: (O,).

    Returns:
        (B, 2H, 2W, O).
    """
    batch, height, width, channels = x.shape
    doubled = mx.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    doubled = doubled.reshape(batch, 2 * height, 2 * width, channels)
    return (mx.conv2d(doubled, weight, padding=1) + bias).astype(x.dtype)
