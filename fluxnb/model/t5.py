"""T5 v1.1's encoder: ids of a prompt to one vector a token; knows nothing of tokenizers or files.

Parameters bear the names of the Hugging Face file, all of them. Two things differ from most transformers:
the scores are not divided by sqrt(D), and positions enter as one table of biases by relative distance, held
by the first block and used by all. Padding is attended to like any token, as FLUX.1 was trained.
Source: arXiv 1910.10683, transformers `modeling_t5.py`; letters of the shapes: see `fluxnb.model`.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from fluxnb import backend
from fluxnb.model.config import T5Config
from fluxnb.model.layers import Embedding, Linear, heads_last


class T5Norm(nn.Module):
    """RMS norm, its weight named `weight`."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = mx.zeros((width,))
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """Normalises over the last axis."""
        return backend.rms_norm(x, self.weight.astype(x.dtype), self._eps)


def buckets(length: int, count: int, max_distance: int) -> np.ndarray:
    """Gives the row of the bias table for each pair of tokens.

    Half of the rows are for keys before the query or at it, half for keys after it. Of each half, the first
    half is one row a distance, the rest grows with the logarithm of the distance up to `max_distance`.

    Args:
        length: tokens, L.
        count: rows of the table.
        max_distance: tokens from which on all distances share the last row.

    Returns:
        (L, L), int32, 0..count - 1: row of the query, column of the key.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]  # key - query
    distance = np.abs(offset)
    half = count // 2
    exact = half // 2
    # float32, as in the reference: at a border of two rows, other rounding gives another row
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, far) + half * (offset > 0)).astype(np.int32)


class T5SelfAttention(nn.Module):
    """The weights of an attention; the first block's also hold the table of biases."""

    def __init__(self, config: T5Config, has_table: bool):
        super().__init__()
        inner = config.heads * config.head_dim
        self.q = Linear(config.width, inner, bias=False)
        self.k = Linear(config.width, inner, bias=False)
        self.v = Linear(config.width, inner, bias=False)
        self.o = Linear(inner, config.width, bias=False)
        if has_table:
            self.relative_attention_bias = Embedding(config.buckets, config.heads)
        self._heads = config.heads

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """Maps x (B, L, D) to (B, L, D), with bias (1, heads, L, L) added to the scores."""
        q, k, v = (
            part(x).reshape(*x.shape[:2], self._heads, -1).swapaxes(1, 2) for part in (self.q, self.k, self.v)
        )
        return self.o(heads_last(backend.attention(q, k, v, 1.0, bias)))


class T5Feed(nn.Module):
    """The gated MLP: GELU (tanh form) of one linear layer times another."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.wi_0 = Linear(config.width, config.mlp_width, bias=False)
        self.wi_1 = Linear(config.width, config.mlp_width, bias=False)
        self.wo = Linear(config.mlp_width, config.width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, L, D) to (B, L, D)."""
        return self.wo(backend.gelu(self.wi_0(x)) * self.wi_1(x))


class T5AttentionLayer(nn.Module):
    """Norm, then attention, added to the stream."""

    def __init__(self, config: T5Config, has_table: bool):
        super().__init__()
        self.SelfAttention = T5SelfAttention(config, has_table)
        self.layer_norm = T5Norm(config.width, config.eps)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """Maps (B, L, D) to (B, L, D), given bias (1, heads, L, L)."""
        return x + self.SelfAttention(self.layer_norm(x), bias)


class T5FeedLayer(nn.Module):
    """Norm, then gated MLP, added to the stream."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.DenseReluDense = T5Feed(config)
        self.layer_norm = T5Norm(config.width, config.eps)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, L, D) to (B, L, D)."""
        return x + self.DenseReluDense(self.layer_norm(x))


class T5Block(nn.Module):
    """One block: attention, then MLP."""

    def __init__(self, config: T5Config, has_table: bool):
        super().__init__()
        self.layer = [T5AttentionLayer(config, has_table), T5FeedLayer(config)]

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        """Maps (B, L, D) to (B, L, D), given bias (1, heads, L, L)."""
        attend, feed = self.layer
        return feed(attend(x, bias))


class T5Stack(nn.Module):
    """The blocks and the last norm."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.block = [T5Block(config, has_table=i == 0) for i in range(config.depth)]
        self.final_layer_norm = T5Norm(config.width, config.eps)


class T5Encoder(nn.Module):
    """FLUX.1's larger text encoder, at any size."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.width)
        self.encoder = T5Stack(config)

    def __call__(self, ids: mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
        """Encodes padded prompts.

        Args:
            ids: (B, L), integers.
            dtype: what the stream is computed in.

        Returns:
            txt (B, L, D)
        """
        x = self.shared(ids).astype(dtype)  # (B, L, D)
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        rows = mx.array(buckets(ids.shape[1], self.config.buckets, self.config.max_distance))
        bias = table(rows).astype(dtype).transpose(2, 0, 1)[None]  # (1, heads, L, L)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)
