"""What the networks are made of: linear layers, norms, RoPE, modulation, the two kinds of block, attention.

Knows nothing of whole networks, files or prompts. A layer computes in the dtype of what comes in; its weights
may be stored in another one. Letters of the shapes: see `fluxnb.model`.
"""

import math
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from fluxnb import backend

GROUP = 64  # numbers of a row that share a scale and a bias in a quantised matrix, the same everywhere
PIECE = 900_000  # numbers of a weight that are multiplied at a time on a CPU, see `_product`


class Attend(Protocol):
    """What a block asks for the result of its attention; a probe passes its own to look or to intervene."""

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, layer: int) -> mx.array:
        """Maps q, k, v, each (B, H, L, D), after norm and RoPE, to the mixed values (B, H, L, D)."""


def attention(q: mx.array, k: mx.array, v: mx.array, layer: int) -> mx.array:
    """Mixes the values by softmax(q k^T / sqrt(D)), whatever the layer.

    Args:
        q: queries (B, H, L, D).
        k: keys (B, H, L, D).
        v: values (B, H, L, D).
        layer: number of the block, 0 for the first; not used here, but it is what other functions go by.

    Returns:
        (B, H, L, D)
    """
    return backend.attention(q, k, v, q.shape[-1] ** -0.5)


def bits(weight: mx.array, scales: mx.array) -> int:
    """Tells from the shapes of a quantised matrix how many bits a number has in it."""
    return 32 * weight.shape[1] // (GROUP * scales.shape[1])


def linear(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    scales: mx.array | None = None,
    biases: mx.array | None = None,
) -> mx.array:
    """Computes x @ weight^T + bias; the one way by which all the networks multiply by weights.

    On a CPU the product is in float32 whatever the dtypes, since MLX's own products of 16 bits or quantised
    weights take 9 to 30 times as long there; see `_product`. Elsewhere it is in the dtype of `x`, or in the
    weight's if that is wider.

    Args:
        x: (..., in)
        weight: (out, in), any float dtype; quantised: uint32 (out, in * bits / 32).
        bias: (out,) or None.
        scales: (out, in / GROUP) of a quantised weight, which is scales * numbers + biases; else None.
        biases: likewise.

    Returns:
        (..., out), in the dtype of `x`.
    """
    dtype = x.dtype
    if mx.default_device().type == mx.cpu:
        return _product(x.astype(mx.float32), weight, bias, scales, biases).astype(dtype)
    if scales is not None:
        y = mx.quantized_matmul(x, weight, scales, biases, True, GROUP, bits(weight, scales))
        return (y if bias is None else y + bias).astype(dtype)
    y = x @ weight.T if bias is None else mx.addmm(bias.astype(x.dtype), x, weight.T)
    return y.astype(dtype)


def _product(x, weight, bias, scales, biases) -> mx.array:
    """Computes `linear` in float32 on a CPU, a weight of other form made float32 some rows at a time.

    MLX allocates the results of about ten operations before it computes them, so what one makes has to be
    small: with whole matrices of FLUX.1 that is a gigabyte. A float32 weight is multiplied as it is, but by a
    single vector also in pieces: up to a million products OpenBLAS reads the matrix where it lies, and else
    it copies it first, which takes three times as long (18432 x 3072: 45 ms, in pieces 13). Rows are
    independent, so that the pieces give what the whole would, but for the last bits of a float.
    """
    is_vector = x.size == x.shape[-1] and weight.size > PIECE
    if scales is None and weight.dtype == mx.float32 and not is_vector:
        return x @ weight.T if bias is None else mx.addmm(bias.astype(mx.float32), x, weight.T)
    rows = max(1, PIECE // x.shape[-1])
    parts = []
    for first in range(0, weight.shape[0], rows):
        piece = [None if a is None else a[first : first + rows] for a in (weight, scales, biases)]
        piece[0] = mx.depends(piece[0], parts[-1] if parts else x)  # one after the other, not all at first
        if scales is None:
            wide = piece[0].astype(mx.float32)
        else:
            packed, *affine = piece  # in 16 bits, every number would be rounded to them
            affine = [a.astype(mx.float32) for a in affine]
            wide = mx.dequantize(packed, *affine, GROUP, bits(weight, scales))
        parts.append(x @ wide.T)
    y = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)
    return y if bias is None else y + bias.astype(mx.float32)


class Linear(nn.Module):
    """A linear layer, by `linear`; if its weight is quantised, it also has `scales` and `biases`."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = mx.zeros((outputs, inputs))
        if bias:
            self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.get("bias"), self.get("scales"), self.get("biases"))


class Embedding(nn.Module):
    """A table of vectors, one a row."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.weight = mx.zeros((rows, width))

    def __call__(self, ids: mx.array) -> mx.array:
        """Maps ids (...) to their rows (..., width)."""
        return self.weight[ids]


class LayerNorm(nn.Module):
    """Layer norm with weight and bias."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = mx.zeros((width,))
        self.bias = mx.zeros((width,))
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Normalises over the last axis."""
        return backend.layer_norm(x, self.weight.astype(x.dtype), self.bias.astype(x.dtype), self._eps)


class RMSNorm(nn.Module):
    """RMS norm, its weight named `scale`."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.scale = mx.zeros((width,))
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Normalises over the last axis."""
        return backend.rms_norm(x, self.scale.astype(x.dtype), self._eps)


class GELU(nn.Module):
    """GELU in its tanh form, a layer of its own since the names of parameters count it."""

    def __call__(self, x: mx.array) -> mx.array:
        """Maps x to 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        return backend.gelu(x)


def chain(layers: list, x: mx.array) -> mx.array:
    """Applies layers one after the other; a list, so that parameters are named by their place in it."""
    for layer in layers:
        x = layer(x)
    return x


def sinusoid(t: mx.array, dim: int, theta: float = 10000.0) -> mx.array:
    """Gives the sinusoidal embedding of a time or of a guidance strength, in float32.

    Args:
        t: (B,), sigma in 0..1 or the guidance strength; multiplied by 1000 here, in float32, because in bf16
            750 becomes 752.
        dim: width of the embedding, even.
        theta: base of the frequencies, theta^(-2i / dim).

    Returns:
        (B, dim), cosines first, then sines. Source: diffusers `get_timestep_embedding`.
    """
    half = dim // 2
    # the reference rounds the exponent to float32, which shows: a guidance of 3.5 turns by 3500 rad
    exponent = np.float32(-math.log(theta)) * np.arange(half, dtype=np.float32) / np.float32(half)
    freqs = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = (1000.0 * t.astype(mx.float32))[:, None] * mx.array(freqs)  # (B, dim / 2)
    return mx.concatenate([mx.cos(angle), mx.sin(angle)], axis=-1)


def rope(ids: mx.array, axes_dim: tuple[int, ...], theta: float) -> mx.array:
    """Gives the rotations of every token: pairs of numbers of a head turn by position * frequency.

    Args:
        ids: (L, len(axes_dim)), a position per axis: for FLUX.1 (0, row, column), 0 for all text.
        axes_dim: how many numbers of a head each axis turns; they sum to D.
        theta: base of the frequencies, theta^(-2i / axis_dim).

    Returns:
        pe (L, D / 2, 2, 2), float32: one matrix [[cos, -sin], [sin, cos]] per pair. Source: arXiv 2104.09864.
    """
    ids = ids.astype(mx.float32)
    turns = []
    for axis, dim in enumerate(axes_dim):
        omega = theta ** (-np.arange(0, dim, 2) / dim)  # (dim / 2,), float64
        turns.append(ids[:, axis : axis + 1] * mx.array(omega.astype(np.float32)))
    angle = mx.concatenate(turns, axis=-1)  # (L, D / 2)
    cos, sin = mx.cos(angle), mx.sin(angle)
    return mx.stack([cos, -sin, sin, cos], axis=-1).reshape(*angle.shape, 2, 2)


def rotate(x: mx.array, pe: mx.array) -> mx.array:
    """Turns neighbouring pairs of the last axis of x (B, H, L, D) by pe (L, D / 2, 2, 2), in float32."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)  # (B, H, L, D / 2, 2)
    turned = pe[..., 0] * pairs[..., :1] + pe[..., 1] * pairs[..., 1:]
    return turned.reshape(x.shape).astype(x.dtype)


def modulate(x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
    """Normalises x (B, L, D) without weights, then scales and shifts it by (B, 1, D) each."""
    return backend.layer_norm(x) * (1 + scale) + shift


class Modulation(nn.Module):
    """Shifts, scales and gates of a block from the vector (adaLN-Zero, arXiv 2212.09748).

    The vector has been through SiLU, which begins every modulation and so is computed once for all.
    """

    def __init__(self, width: int, chunks: int):
        super().__init__()
        self.lin = Linear(width, chunks * width)
        self._chunks = chunks

    def __call__(self, vec: mx.array) -> list[mx.array]:
        """Maps vec (B, D) to `chunks` arrays (B, 1, D): shift, scale, gate, for one or two branches."""
        return mx.split(self.lin(vec)[:, None], self._chunks, axis=-1)


class QKNorm(nn.Module):
    """RMS norms of queries and keys over the width of a head."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.query_norm = RMSNorm(head_dim)
        self.key_norm = RMSNorm(head_dim)


def heads_first(qkv: mx.array, norm: QKNorm, head_dim: int) -> tuple[mx.array, mx.array, mx.array]:
    """Splits (B, L, 3 * heads * D) into q, k, v, each (B, heads, L, D), and norms q and k."""
    q, k, v = qkv.reshape(*qkv.shape[:2], 3, -1, head_dim).transpose(2, 0, 3, 1, 4)
    return norm.query_norm(q), norm.key_norm(k), v


def heads_last(x: mx.array) -> mx.array:
    """Joins the heads: (B, heads, L, D) to (B, L, heads * D)."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


class SelfAttention(nn.Module):
    """The weights of one stream's part in a joint attention."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.qkv = Linear(width, 3 * width)
        self.norm = QKNorm(head_dim)
        self.proj = Linear(width, width)


class DoubleBlock(nn.Module):
    """A block with a stream for the image and one for the text, which meet in one attention."""

    def __init__(self, width: int, head_dim: int, mlp_width: int):
        super().__init__()
        self.img_mod = Modulation(width, 6)
        self.img_attn = SelfAttention(width, head_dim)
        self.img_mlp = [Linear(width, mlp_width), GELU(), Linear(mlp_width, width)]
        self.txt_mod = Modulation(width, 6)
        self.txt_attn = SelfAttention(width, head_dim)
        self.txt_mlp = [Linear(width, mlp_width), GELU(), Linear(mlp_width, width)]
        self._head_dim = head_dim

    def __call__(self, img, txt, vec, pe, attend: Attend, layer: int) -> tuple[mx.array, mx.array]:
        """Maps img (B, h*w, D) and txt (B, L, D) to new ones, given vec (B, D) and pe or None."""
        img_mod, txt_mod = self.img_mod(vec), self.txt_mod(vec)
        txt_heads = self.read_text(txt, txt_mod)
        img_heads = enter(img, self.img_attn, img_mod, self._head_dim)
        q, k, v = (mx.concatenate(pair, axis=2) for pair in zip(txt_heads, img_heads, strict=True))
        if pe is not None:
            q, k = rotate(q, pe), rotate(k, pe)
        txt_mixed, img_mixed = mx.split(heads_last(attend(q, k, v, layer)), [txt.shape[1]], axis=1)
        img = leave(img, img_mixed, self.img_attn, self.img_mlp, img_mod)
        return img, self.write_text(txt, txt_mixed, txt_mod)

    def read_text(self, txt: mx.array, mod: list[mx.array]) -> tuple[mx.array, mx.array, mx.array]:
        """Gives q, k, v of tokens of the text stream, as `enter` does; `mod` comes from `txt_mod`."""
        return enter(txt, self.txt_attn, mod, self._head_dim)

    def write_text(self, txt: mx.array, mixed: mx.array, mod: list[mx.array]) -> mx.array:
        """Takes tokens of the text stream from their attention through the rest of the block."""
        return leave(txt, mixed, self.txt_attn, self.txt_mlp, mod)


def enter(x: mx.array, attn: SelfAttention, mod: list[mx.array], head_dim: int) -> tuple[mx.array, ...]:
    """Takes a stream into attention: x (B, L, D) to q, k, v, each (B, heads, L, D), before RoPE."""
    shift, scale = mod[:2]
    return heads_first(attn.qkv(modulate(x, shift, scale)), attn.norm, head_dim)


def leave(x: mx.array, mixed: mx.array, attn: SelfAttention, mlp: list, mod: list[mx.array]) -> mx.array:
    """Takes a stream (B, L, D) on from its attention, `mixed`, of the same shape, and through its MLP."""
    _, _, gate, shift2, scale2, gate2 = mod
    x = x + gate * attn.proj(mixed)
    return x + gate2 * chain(mlp, modulate(x, shift2, scale2))


class SingleBlock(nn.Module):
    """A block with one stream for text and image, its attention and MLP side by side (arXiv 2302.05442)."""

    def __init__(self, width: int, head_dim: int, mlp_width: int):
        super().__init__()
        self.linear1 = Linear(width, 3 * width + mlp_width)
        self.linear2 = Linear(width + mlp_width, width)
        self.norm = QKNorm(head_dim)
        self.modulation = Modulation(width, 3)
        self._head_dim = head_dim

    def __call__(self, x, vec, pe, attend: Attend, layer: int) -> mx.array:
        """Maps x (B, L, D), text first, to a new one, given vec (B, D) and pe or None."""
        shift, scale, gate = self.modulation(vec)
        qkv, mlp = mx.split(self.linear1(modulate(x, shift, scale)), [3 * x.shape[-1]], axis=-1)
        q, k, v = heads_first(qkv, self.norm, self._head_dim)
        if pe is not None:
            q, k = rotate(q, pe), rotate(k, pe)
        mixed = heads_last(attend(q, k, v, layer))
        return x + gate * self.linear2(mx.concatenate([mixed, backend.gelu(mlp)], axis=-1))


def random_weights(network: nn.Module, seed: int) -> nn.Module:
    """Fills a network with random weights under which every part matters, and returns it.

    Matrices and kernels are normal with variance 1 / inputs; biases are 0.1 * normal; norms are
    1 + 0.1 * normal. For tests and for measuring speed, not for training.
    """
    leaves = sorted(tree_flatten(network.parameters()))
    keys = mx.random.split(mx.random.key(seed), len(leaves))
    filled = []
    for (name, old), key in zip(leaves, keys, strict=True):
        noise = mx.random.normal(old.shape, old.dtype, key=key)
        if old.ndim > 1:
            noise = noise * math.prod(old.shape[1:]) ** -0.5
        elif name.endswith("bias"):
            noise = noise * 0.1
        else:
            noise = 1 + 0.1 * noise
        filled.append((name, noise))
    network.update(tree_unflatten(filled))
    return network
