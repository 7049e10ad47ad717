"""The ops in the forms that are fast on MLX's Linux CPU build; the arguments are those of `stock`.

That build has no wider SIMD than SSE2: exp and tanh are one library call per element, and sums run one after
the other in float32. Plain + * / on whole arrays is vectorised by the compiler, and products go to BLAS. So
exponentials are written here as polynomials, and sums as products with a constant vector, which is also the
more exact way: over a group of four million elements, as in a large picture, MLX's own norm is off by 0.2 %.

Everything is computed in float32, and the result has the type of the first argument. Nothing is compiled
(mx.compile): that costs a second per kernel at first use, and needs g++ on the user's machine.
"""

import math

import mlx.core as mx

LOG2_E = 1 / math.log(2)

# 2^f = 1 + f (c1 + f (c2 + ...)) for |f| <= 1/2, with the least relative error, 9.1e-8; highest power first.
POWERS = (0.0013264724226, 0.0096715132440, 0.0555073375685, 0.2402224207462, 0.6931469775880)

# Adding this to |t| < 2^22 rounds t to an integer and leaves it in the low bits, plus an exponent's bias.
ROUNDER = 1.5 * 2**23 + 127

# Attention computes at most so many scores at a time: 4 MiB stay in the cache, and memory stays bounded.
MANY_SCORES = 2**20


def _exp2(t: mx.array) -> mx.array:
    """Returns 2^t for t <= 127 with a relative error of 2e-7, and exactly 0 for t <= -127 and for -inf.

    The power of the nearest integer goes into the bits of the exponent. Gradients take that integer for a
    constant, as it is, and pass through the power of the rest.
    """
    t = mx.maximum(t, -127.0)
    rounded = mx.stop_gradient(t + ROUNDER)
    f = t - (rounded - ROUNDER)  # -0.5..0.5
    series = f * POWERS[0] + POWERS[1]
    for power in POWERS[2:]:
        series = series * f + power
    exponent = mx.view(rounded, mx.int32) << 23
    return (series * f + 1.0) * mx.view(exponent, mx.float32)


def _gate(x: mx.array, t: mx.array) -> mx.array:
    """Returns x / (1 + 2^t): the sigmoid of y = -t log(2), times x."""
    return x / (_exp2(mx.minimum(t, 126.0)) + 1.0)


def gelu(x: mx.array) -> mx.array:
    """Returns the tanh form of GELU; (1 + tanh(y)) / 2 is the sigmoid of 2 y."""
    wide = x.astype(mx.float32)
    outer = -2 * math.sqrt(2 / math.pi) * LOG2_E
    return _gate(wide, wide * (wide * wide * (outer * 0.044715) + outer)).astype(x.dtype)


def silu(x: mx.array) -> mx.array:
    """Returns x * sigmoid(x)."""
    wide = x.astype(mx.float32)
    return _gate(wide, wide * -LOG2_E).astype(x.dtype)


def quick_gelu(x: mx.array) -> mx.array:
    """Returns x * sigmoid(1.702 x), CLIP's GELU."""
    wide = x.astype(mx.float32)
    return _gate(wide, wide * (-1.702 * LOG2_E)).astype(x.dtype)


def softmax(x: mx.array) -> mx.array:
    """Returns the softmax over the last axis; a score of -inf gets weight 0."""
    wide = x.astype(mx.float32)
    weights = _exp2((wide - _highest(wide)) * LOG2_E)
    return (weights / _last_axis(weights, 1.0)).astype(x.dtype)


def layer_norm(
    x: mx.array, weight: mx.array | None = None, bias: mx.array | None = None, eps: float = 1e-6
) -> mx.array:
    """Returns x with mean 0 and variance 1 over the last axis, then times weight plus bias."""
    wide = x.astype(mx.float32)
    share = 1 / x.shape[-1]
    centred = wide - _last_axis(wide, share)
    result = centred * mx.rsqrt(_last_axis(centred * centred, share) + eps)
    if weight is not None:
        result = result * weight
    if bias is not None:
        result = result + bias
    return result.astype(x.dtype)


def rms_norm(x: mx.array, weight: mx.array, eps: float = 1e-6) -> mx.array:
    """Returns x over its root mean square along the last axis, times weight."""
    wide = x.astype(mx.float32)
    square = _last_axis(wide * wide, 1 / x.shape[-1])
    return (wide * weight * mx.rsqrt(square + eps)).astype(x.dtype)


def group_norm(x: mx.array, groups: int, weight: mx.array, bias: mx.array, eps: float = 1e-6) -> mx.array:
    """Normalises an image over its pixels and each group of neighbouring channels."""
    batch, *_, channels = x.shape
    wide = x.astype(mx.float32).reshape(batch, -1, channels)
    pixels = wide.shape[1]
    share = mx.full((1, pixels), 1 / pixels)

    def group_mean(image: mx.array) -> mx.array:  # (B, HW, C) -> (B, 1, C)
        means = (share @ image).reshape(batch, 1, groups, -1).mean(axis=-1, keepdims=True)
        return mx.broadcast_to(means, (batch, 1, groups, channels // groups)).reshape(batch, 1, channels)

    centred = wide - group_mean(wide)
    result = centred * (mx.rsqrt(group_mean(centred * centred) + eps) * weight) + bias
    return result.reshape(x.shape).astype(x.dtype)


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None = None) -> mx.array:
    """Returns softmax(scale q k^T + mask) v, from a bounded number of scores at a time."""
    dtype = q.dtype
    q, k, v = (array.astype(mx.float32) for array in (q, k, v))
    batch, heads, length, _ = q.shape
    if mask is not None:
        mask = mx.broadcast_to(mask * LOG2_E, (batch, heads, length, k.shape[2]))
    if batch * heads * length * k.shape[2] <= MANY_SCORES:
        return _attend(q, k, v, scale, mask).astype(dtype)
    rows = max(1, MANY_SCORES // (batch * k.shape[2]))  # of one head
    outputs, last = [], None
    for head in (slice(i, i + 1) for i in range(heads)):
        blocks = []
        for block in (slice(i, i + rows) for i in range(0, length, rows)):
            query = q[:, head, block]
            if last is not None:  # wait for the block before, so that the scores of one exist at a time
                query = mx.depends(query, last)
            part = None if mask is None else mask[:, head, block]
            last = _attend(query, k[:, head], v[:, head], scale, part)
            blocks.append(last)
        outputs.append(mx.concatenate(blocks, axis=2))
    return mx.concatenate(outputs, axis=1).astype(dtype)


def _attend(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """Returns attention from scores in base 2; the mask comes in base 2 too."""
    scores = (q * (scale * LOG2_E)) @ k.swapaxes(-1, -2)  # (B, H, L, M)
    if mask is not None:
        scores = scores + mask
    weights = _exp2(scores - _highest(scores))
    return (weights @ v) / _last_axis(weights, 1.0)


def _highest(scores: mx.array) -> mx.array:
    """Returns the largest of the last axis; for gradients a constant, as a softmax does not depend on it."""
    return mx.stop_gradient(mx.max(scores, axis=-1, keepdims=True))


def _last_axis(x: mx.array, factor: float) -> mx.array:
    """Returns the sum over the last axis times factor, the axis kept, by a product that BLAS does."""
    return x @ mx.full((x.shape[-1], 1), factor)


def conv(x: mx.array, weight: mx.array, bias: mx.array, edge: int = 1) -> mx.array:
    """Convolves an image with 3x3 as three products, one for each row of the kernel, summed by BLAS.

    Three neighbours in a row lie side by side for that, which is a third of the copy that MLX's convolution
    makes of all nine. Images of few channels take half the time.
    """
    batch, _, width, channels = x.shape
    weight = weight.astype(mx.float32).reshape(weight.shape[0], 3, 3 * channels)
    padded = mx.pad(x.astype(mx.float32), [(0, 0), (edge, edge), (1, 1), (0, 0)])
    triples = mx.concatenate([padded[:, :, i : i + width] for i in range(3)], axis=-1)
    height = triples.shape[1] - 2
    triples = triples.reshape(batch, -1, 3 * channels)  # (B, (H + 2) W, 3 C)
    y = bias.astype(mx.float32)
    for i in range(3):
        y = mx.addmm(y, triples[:, i * width : (i + height) * width], weight[:, i].T)
    return y.reshape(batch, height, width, -1).astype(x.dtype)


def upsample_conv(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Doubles an image by nearest neighbour and convolves it with 3x3, as four convolutions with 2x2.

    The nine pixels under the kernel are four before the doubling; taps that fall on the same one are summed
    beforehand. Which taps those are depends on the parity of the row and of the column.
    """
    batch, height, width, _ = x.shape
    weight = weight.astype(mx.float32)
    padded = mx.pad(x.astype(mx.float32), [(0, 0), (1, 1), (1, 1), (0, 0)])
    rows = []
    for i in (0, 1):
        row = []
        for j in (0, 1):
            part = padded[:, i : i + height + 1, j : j + width + 1]
            row.append(mx.conv2d(part, _merge_taps(_merge_taps(weight, 1, i), 2, j)))  # (B, H, W, O)
        rows.append(mx.stack(row, axis=3))  # (B, H, W, 2, O)
    doubled = mx.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)
    return (doubled + bias).astype(x.dtype)


def _merge_taps(weight: mx.array, axis: int, parity: int) -> mx.array:
    """Sums the two of three taps that see the same pixel: the last two in even rows, else the first two."""
    first, middle, last = mx.split(weight, 3, axis=axis)
    pair = (first, middle + last) if parity == 0 else (first + middle, last)
    return mx.concatenate(pair, axis=axis)
