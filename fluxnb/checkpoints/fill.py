"""Tensors of a component into its network, strictly, one after the other; knows nothing of files' layouts.

Memory holds the result and what one parameter is made of: a tensor is read, brought to its form and dropped
before the next is read.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from fluxnb.checkpoints import layouts, quantised
from fluxnb.checkpoints.files import Tensors
from fluxnb.checkpoints.layouts import Part
from fluxnb.checkpoints.quantised import Packed, Source
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.layers import GROUP, Linear


def fill(
    network: nn.Module, table: layouts.Table, tensors: Tensors, dtype: mx.Dtype, bits: int | None = None
) -> nn.Module:
    """Puts the tensors of a component into a network and returns it, evaluated.

    All names and shapes are compared before the first tensor is read. A matrix that is quantised in the files
    stays so in a linear layer, and becomes floats elsewhere.

    Args:
        network: whose parameters say what is expected.
        table: rules of the layout.
        tensors: used up: each is gone once it is read.
        dtype: what floats become, whatever the files hold; scales and biases of 16 bits stay as they are.
        bits: quantise the matrices of the blocks (`quantised.BLOCKS`) to so many; None leaves all as it is.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape, or there twice and not equal.
        InputError: the files are quantised to other bits, or nothing in them can be quantised.
    """
    parts, sources = match(network, table, tensors, bits)
    modules = dict(network.named_modules())
    for part in parts:
        taken = [sources.pop(name) for name in part.sources]
        for name, source in zip(part.copies, taken, strict=False):
            if not mx.array_equal(quantised.dense(sources.pop(name)), quantised.dense(source)):
                raise CheckpointError(
                    f"{tensors.files[name]}: {name} and {part.sources[0]} should be the same and are not; "
                    "save the weights again with transformers"
                )
        path, _, leaf = part.target.rpartition(".")
        module = modules[path]
        is_matrix = isinstance(module, Linear) and leaf == "weight"
        made = _made(part, taken, is_matrix, bits)
        if isinstance(made, Packed):
            made = made.cast(dtype)
            module.scales, module.biases = made.scales, made.biases
            mx.eval(made.weight, made.scales, made.biases)
            module.weight = made.weight
        else:
            array = made.astype(dtype)
            mx.eval(array)
            setattr(module, leaf, array)
    return network


def match(
    network: nn.Module, table: layouts.Table, tensors: Tensors, bits: int | None = None
) -> tuple[tuple[Part, ...], dict[str, Source]]:
    """Compares names and shapes of a component with its network; reads no tensor.

    Args:
        network: as in `fill`, like the others; it raises what that does.
        table: likewise.
        tensors: likewise.
        bits: likewise.

    Returns:
        What each parameter is made of, and what there is to make it of.
    """
    shapes = {name: array.shape for name, array in tree_flatten(network.parameters())}
    sources = quantised.gather(tensors)
    parts = layouts.plan(table, shapes, sources, str(tensors.origin))
    _check_shapes(parts, shapes, sources, tensors)
    _check_bits(parts, shapes, sources, bits, tensors)
    return parts, sources


def _made(part: Part, taken: list[Source], is_matrix: bool, bits: int | None) -> Source:
    """Makes a parameter; empties `taken`, so that each source is gone before the next is quantised."""
    alike = is_matrix and part.transform in quantised.ALIKE
    fits = all(source.shape[-1] % GROUP == 0 for source in taken)
    if alike and fits and bits is not None and part.target.startswith(quantised.BLOCKS):
        packed = []
        while taken:
            packed.append(quantised.pack(taken.pop(0), bits))
        return quantised.apply(part.transform, packed)
    held = {source.bits if isinstance(source, Packed) else None for source in taken}
    if alike and len(held) == 1 and None not in held:
        return quantised.apply(part.transform, taken)
    return part.transform(*map(quantised.dense, taken))


def _check_shapes(parts, shapes, sources: dict[str, Source], tensors: Tensors) -> None:
    """Refuses parameters whose sources do not give their shape."""
    arrays = {name: quantised.dense(source) for name, source in sources.items()}
    misshapen = []
    for part in parts:
        shape = layouts.shape(part, arrays)
        if shape != shapes[part.target]:
            misshapen.append((part, shape))
    if misshapen:
        part, shape = misshapen[0]
        held = " + ".join(f"{name} {arrays[name].shape}" for name in part.sources)
        raise CheckpointError(
            f"{tensors.files[part.sources[0]]}: {len(misshapen)} of {len(parts)} parameters have other "
            f"shapes than the network: {held} cannot become {part.target} {shapes[part.target]}; take the "
            "config.json that belongs to the weights, or a whole file if there is none"
        )


def _check_bits(parts, shapes, sources: dict[str, Source], bits: int | None, tensors: Tensors) -> None:
    """Refuses to quantise nothing, or what is quantised otherwise: the error of both would add up."""
    if bits is None:
        return
    if not any(
        part.target.startswith(quantised.BLOCKS) and shape[1:] and shape[-1] % GROUP == 0
        for part in parts
        for shape in [shapes[part.target]]
    ):
        raise InputError(
            f"quantize is {bits}, but no matrix in {tensors.origin} has rows of a multiple of {GROUP} "
            "numbers; leave quantize out"
        )
    held = sorted({source.bits for source in sources.values() if isinstance(source, Packed)})
    if held and held != [bits]:
        raise InputError(
            f"quantize is {bits}, but {tensors.origin} is quantised to {' and '.join(map(str, held))} bits "
            f"already; leave quantize out, give {held[0]}, or take the float weights"
        )
