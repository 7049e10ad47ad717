"""The multimodal diffusion transformer: image tokens, text tokens, a vector and a time to a velocity.

Knows nothing of schedules, prompts or files. Its parameters bear the names of black-forest-labs' files.
Source: black-forest-labs/flux `model.py`, arXiv 2403.03206; letters of the shapes: see `fluxnb.model`.
"""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn

from fluxnb import backend
from fluxnb.errors import InputError
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import (
    Attend,
    DoubleBlock,
    Linear,
    SingleBlock,
    attention,
    chain,
    modulate,
    rope,
    sinusoid,
)

TIME_DIM = 256  # width of the sinusoid, the same in every FLUX.1 and SD3


class Embedder(nn.Module):
    """An MLP with SiLU that brings a time, a guidance strength or a text vector to width D."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.in_layer = Linear(inputs, width)
        self.out_layer = Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (B, inputs) to (B, D)."""
        return self.out_layer(backend.silu(self.in_layer(x)))


class FinalLayer(nn.Module):
    """The last modulation, and the way from the width of the stream back to that of an image token."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.linear = Linear(width, outputs)
        self.adaLN_modulation = [nn.Identity(), Linear(width, 2 * width)]  # the names count a SiLU

    def __call__(self, img: mx.array, vec: mx.array) -> mx.array:
        """Maps img (B, h*w, D), given vec (B, D), to (B, h*w, outputs)."""
        shift, scale = mx.split(chain(self.adaLN_modulation, vec)[:, None], 2, axis=-1)
        return self.linear(modulate(img, shift, scale))


class MMDiT(nn.Module):
    """FLUX.1's transformer at any size: double blocks, then single blocks, then one linear layer."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        width = config.width
        sizes = (width, config.head_dim, config.mlp_width)
        self.config = config
        self.img_in = Linear(config.in_channels, width)
        self.txt_in = Linear(config.txt_dim, width)
        self.time_in = Embedder(TIME_DIM, width)
        self.vector_in = Embedder(config.vec_dim, width)
        if config.guidance:
            self.guidance_in = Embedder(TIME_DIM, width)
        self.double_blocks = [DoubleBlock(*sizes) for _ in range(config.depth)]
        self.single_blocks = [SingleBlock(*sizes) for _ in range(config.depth_single)]
        self.final_layer = FinalLayer(width, config.out_channels)

    def __call__(
        self,
        img: mx.array,
        txt: mx.array,
        vec: mx.array,
        t: mx.array,
        guidance: mx.array | None = None,
        *,
        img_ids: mx.array,
        txt_ids: mx.array,
        attend: Attend = attention,
    ) -> mx.array:
        """Gives the velocity at noisy image tokens, computed in their dtype.

        Args:
            img: packed latents (B, h*w, in_channels); their dtype is that of the streams.
            txt: text tokens (B, L, txt_dim).
            vec: pooled text (B, vec_dim).
            t: (B,), sigma in 0..1; the time embedding is float32 whatever the dtype of `img`.
            guidance: (B,), guidance strength, for a network that takes one.
            img_ids: (h*w, 3), positions (0, row, column) of the image tokens.
            txt_ids: (L, 3), positions of the text tokens, all 0 in FLUX.1.
            attend: called once a block with q, k, v (B, heads, L + h*w, head_dim), text first, after norm and
                RoPE, and with the number of the block: double blocks from 0, then single blocks.

        Returns:
            velocity (B, h*w, out_channels)

        Raises:
            InputError: guidance for a network without, or none for a network with.
        """
        if (guidance is not None) != self.config.guidance:
            takes = (
                "takes a guidance strength: pass guidance (B,)"
                if self.config.guidance
                else "takes no guidance"
            )
            raise InputError(
                f"guidance {'given' if guidance is not None else 'missing'}, but this network {takes}"
            )
        dtype = img.dtype
        vec = self.condition(vec, t, guidance).astype(dtype)
        img, txt = self.img_in(img), self.txt_in(txt.astype(dtype))  # (B, h*w, D), (B, L, D)
        pe = None
        if self.config.axes_dim:
            pe = rope(mx.concatenate([txt_ids, img_ids]), self.config.axes_dim, self.config.theta)

        for layer, block in enumerate(self.double_blocks):
            img, txt = block(img, txt, vec, pe, attend, layer)
        x = mx.concatenate([txt, img], axis=1)  # (B, L + h*w, D)
        for layer, block in enumerate(self.single_blocks, start=len(self.double_blocks)):
            x = block(x, vec, pe, attend, layer)
        return self.final_layer(x[:, txt.shape[1] :], vec)

    def condition(self, vec: mx.array, t: mx.array, guidance: mx.array | None) -> mx.array:
        """Gives what all modulations hang on, (B, D), float32: text vector, time and guidance; after SiLU."""
        vec = self.time_in(sinusoid(t, TIME_DIM)) + self.vector_in(vec.astype(mx.float32))
        if guidance is not None:
            vec = vec + self.guidance_in(sinusoid(guidance, TIME_DIM))
        return backend.silu(vec)  # as every modulation begins with it


def without(network: MMDiT, blocks: frozenset[int]) -> MMDiT:
    """Returns the network without some blocks: the streams pass them as they came.

    The other blocks keep their numbers, and all parameters are those of `network`, not copies.

    Args:
        network: Left as it is, and returned itself if there is nothing to leave out.
        blocks: Numbers, double blocks from 0, then single blocks; each must exist.
    """
    if not blocks:
        return network
    assert blocks <= set(range(network.config.depth + network.config.depth_single)), blocks
    shorter = copy.copy(network)
    shorter.double_blocks = [
        _pass_both if layer in blocks else block for layer, block in enumerate(network.double_blocks)
    ]
    shorter.single_blocks = [
        _pass_one if layer in blocks else block
        for layer, block in enumerate(network.single_blocks, start=network.config.depth)
    ]
    return shorter


def _pass_both(img, txt, vec, pe, attend, layer):
    """Stands in the place of a double block."""
    return img, txt


def _pass_one(x, vec, pe, attend, layer):
    """Stands in the place of a single block."""
    return x
