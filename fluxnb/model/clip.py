"""CLIP's text encoder: ids of a prompt to one vector a token and to one for all; knows nothing of tokenizers.

Parameters bear the names of the Hugging Face file without its first word, `text_model.`.
Source: arXiv 2103.00020, transformers `modeling_clip.py`; letters of the shapes: see `fluxnb.model`.
"""

import mlx.core as mx
import mlx.nn as nn

from fluxnb import backend
from fluxnb.errors import InputError
from fluxnb.model.config import CLIPConfig
from fluxnb.model.layers import Embedding, LayerNorm, Linear, heads_last


class CLIPEmbeddings(nn.Module):
    """Tokens and positions, each a table."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.position_embedding = Embedding(config.max_length, config.width)


class CLIPAttention(nn.Module):
    """Attention of each token to itself and to those before it."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.q_proj = Linear(config.width, config.width)
        self.k_proj = Linear(config.width, config.width)
        self.v_proj = Linear(config.width, config.width)
        self.out_proj = Linear(config.width, config.width)
        self._heads = config.heads

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """Maps x (B, L, D) to (B, L, D), with mask (L, L) added to the scores."""
        q, k, v = (
            part(x).reshape(*x.shape[:2], self._heads, -1).swapaxes(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(heads_last(backend.attention(q, k, v, q.shape[-1] ** -0.5, mask)))


class CLIPMLP(nn.Module):
    """Two linear layers with x * sigmoid(1.702 x) between."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, L, D) to (B, L, D)."""
        return self.fc2(backend.quick_gelu(self.fc1(x)))


class CLIPLayer(nn.Module):
    """One block: attention, then MLP, each after a norm and added to the stream."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.self_attn = CLIPAttention(config)
        self.layer_norm1 = LayerNorm(config.width, config.eps)
        self.mlp = CLIPMLP(config)
        self.layer_norm2 = LayerNorm(config.width, config.eps)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """Maps (B, L, D) to (B, L, D), given mask (L, L)."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class CLIPStack(nn.Module):
    """The blocks."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.layers = [CLIPLayer(config) for _ in range(config.depth)]


class CLIPText(nn.Module):
    """FLUX.1's smaller text encoder, at any size."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.config = config
        self.embeddings = CLIPEmbeddings(config)
        self.encoder = CLIPStack(config)
        self.final_layer_norm = LayerNorm(config.width, config.eps)

    def __call__(self, ids: mx.array, dtype: mx.Dtype = mx.float32) -> tuple[mx.array, mx.array]:
        """Encodes prompts, padded or not.

        Args:
            ids: (B, L), integers, L at most `max_length`.
            dtype: what the stream is computed in.

        Returns:
            hidden (B, L, D) after the last norm, and pooled (B, D): hidden at the first end token.

        Raises:
            InputError: more tokens than there are positions for.
        """
        length = ids.shape[1]
        if length > self.config.max_length:
            raise InputError(
                f"{length} tokens, but CLIP has {self.config.max_length} positions; cut the prompt"
            )
        x = self.embeddings.token_embedding(ids) + self.embeddings.position_embedding.weight[:length]
        x = x.astype(dtype)  # (B, L, D)
        mask = mx.where(mx.tri(length) > 0, 0.0, -1e4).astype(dtype)  # (L, L)
        for layer in self.encoder.layers:
            x = layer(x, mask)
        hidden = self.final_layer_norm(x)
        is_end = ids if self.config.eos_token is None else ids == self.config.eos_token
        end = mx.argmax(is_end, axis=1)  # (B,), the first of equals
        return hidden, hidden[mx.arange(len(ids)), end]
