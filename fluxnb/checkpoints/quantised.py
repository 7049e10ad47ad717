"""Matrices of few bits on their way from files to a network: told from floats, stacked, made, undone.

The form is MLX's affine one, in groups of `layers.GROUP` along the input: `X.weight` in uint32 beside
`X.scales` and `X.biases`, in files and in the tree. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from fluxnb.checkpoints import layouts
from fluxnb.checkpoints.files import Tensors
from fluxnb.errors import CheckpointError
from fluxnb.model import layers

BITS = (3, 4, 6, 8)
"""What a matrix can be quantised to here."""

MLX_BITS = (2, 3, 4, 5, 6, 8)
"""What a file may hold."""

BLOCKS = ("double_blocks.", "single_blocks.", "encoder.block.")
"""How the names of what is quantised begin: the blocks of MMDiT and T5, which hold nearly all their numbers.

What lies outside stays in floats: the ways in and out, through which everything goes and which are half a
percent of FLUX.1's transformer, and T5's embedding, of which only rows are taken.
"""

ALIKE = (layouts.same, layouts.stack, layouts.abreast, layouts.swap_halves, layouts.first)
"""Transforms that do to weight, scales and biases what they do to the matrix: rows and groups stay whole."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised matrix (out, in).

    Attributes:
        weight: uint32 (out, in * bits / 32).
        scales: (out, in / 64).
        biases: (out, in / 64).
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return layers.bits(self.weight, self.scales)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.weight.shape[0], self.scales.shape[1] * layers.GROUP

    def cast(self, dtype: mx.Dtype) -> Packed:
        """Casts float32 scales and biases; those of 16 bits stay, as no other type would add to them.

        In bfloat16 they take half a bit less for each number, and the error of 8 bits grows from 0.54 to
        0.68..0.85 % of normal weights; that of 6 bits and fewer by a twenty-fifth at most.
        """
        scales, biases = (a if a.dtype.size == 2 else a.astype(dtype) for a in (self.scales, self.biases))
        return Packed(self.weight, scales, biases)


Source = mx.array | Packed


def gather(tensors: Tensors) -> dict[str, Source]:
    """Joins the three tensors of each quantised matrix under the name of its weight.

    Args:
        tensors: used up: the arrays are taken out.

    Raises:
        CheckpointError: a matrix lacks scales or biases, or they do not fit it.
    """
    arrays, packed = tensors.arrays, {}
    for name in [name for name, array in arrays.items() if array.dtype == mx.uint32]:
        stem = name.removesuffix("weight")
        parts = {part: arrays.get(stem + part) for part in ("weight", "scales", "biases")}
        lacking = [stem + part for part, array in parts.items() if array is None]
        if lacking:
            raise CheckpointError(
                f"{tensors.files[name]}: {name} is quantised, but {' and '.join(lacking)} are missing; "
                "download it again"
            )
        packed[name] = Packed(*(arrays.pop(stem + part) for part in parts))
        if not _fits(packed[name]):
            shapes = ", ".join(f"{part} {array.shape}" for part, array in parts.items())
            raise CheckpointError(
                f"{tensors.files[name]}: {name} has {shapes}, which is no affine quantisation in groups of "
                f"{layers.GROUP}; take the float weights and quantize="
            )
    gathered = arrays | packed
    arrays.clear()
    return gathered


def dense(source: Source) -> mx.array:
    """Gives a matrix in floats, not evaluated."""
    if isinstance(source, mx.array):
        return source
    return mx.dequantize(source.weight, source.scales, source.biases, layers.GROUP, source.bits)


def pack(source: Source, bits: int) -> Packed:
    """Quantises a matrix, evaluated, by way of float32; one that is quantised already stays."""
    if isinstance(source, Packed):
        return source
    packed = Packed(*mx.quantize(source.astype(mx.float32), layers.GROUP, bits))
    mx.eval(packed.weight, packed.scales, packed.biases)
    return packed


def apply(transform: Callable[..., mx.array], sources: list[Packed]) -> Packed:
    """Applies one of `ALIKE` to matrices of equal bits."""
    return Packed(
        *(
            transform(*(getattr(source, part) for source in sources))
            for part in ("weight", "scales", "biases")
        )
    )


def _fits(packed: Packed) -> bool:
    """Tells whether the shapes are those of an affine quantisation."""
    weight, scales, biases = packed.weight.shape, packed.scales.shape, packed.biases.shape
    return (
        len(weight) == 2
        and scales == biases
        and scales[:1] == weight[:1]
        and scales[1] > 0
        and packed.bits in MLX_BITS
        and weight[1] * 32 == packed.bits * layers.GROUP * scales[1]
    )
