"""Low-rank changes to matrices of a network, W + up @ down, of which W is left as it is.

So weights of few bits or of 16 can be changed without rounding, and taking a change out restores every bit.
Knows nothing of files, of names other than our parameters', or of training. Source: LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from fluxnb.model.layers import linear


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to a matrix (out, in), as two.

    Attributes:
        down: (rank, in)
        up: (out, rank), any strength included.
    """

    down: mx.array
    up: mx.array


Change = LowRank | mx.array
"""What is added to a matrix, or the matrix that takes its place."""


class Changed(nn.Module):
    """A linear layer with a low-rank change beside it."""

    def __init__(self, layer: nn.Module, change: LowRank):
        super().__init__()
        self.layer = layer
        self.down, self.up = change.down, change.up

    def __call__(self, x: mx.array) -> mx.array:
        """Maps (..., in) to (..., out)."""
        return self.layer(x) + linear(linear(x, self.down), self.up)


def merged(network: nn.Module, changes: Mapping[str, LowRank]) -> dict[str, Change]:
    """Makes whole matrices of changes to float32 weights, for speed; others stay beside theirs.

    Rounded to 16 bits or fewer, a matrix would lose much of a change, and it would not be smaller.
    """
    layers = dict(network.named_modules())
    return {
        name: layers[name].weight + change.up @ change.down
        if layers[name].weight.dtype == mx.float32
        else change
        for name, change in changes.items()
    }


def changed(network: nn.Module, changes: Mapping[str, Change]) -> nn.Module:
    """Returns the network with changes to some linear layers; all other weights are those of `network`.

    Args:
        network: Left as it is, and returned itself if there is nothing to change.
        changes: By the names of the layers, such as "double_blocks.0.img_attn.qkv".
    """
    return _changed(network, {tuple(name.split(".")): change for name, change in changes.items()})


def _changed(node: nn.Module | list, changes: Mapping[tuple[str, ...], Change]) -> nn.Module | list:
    """Copies what lies on the way to a change, and nothing else."""
    if not changes:
        return node
    whole = changes.get(())
    if isinstance(whole, LowRank):
        return Changed(node, whole)
    node = copy.copy(node)
    if whole is not None:
        node.weight = whole
        return node
    for first in dict.fromkeys(name[0] for name in changes):
        key = int(first) if isinstance(node, list) else first
        node[key] = _changed(node[key], {name[1:]: one for name, one in changes.items() if name[0] == first})
    return node
