"""Networks whose graph is built once and then repeated; knows nothing of what they compute."""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn


class Repeated:
    """Calls a network by a graph that is kept for the next call.

    To build the graph of the demo model takes Python a fifth of the time of a pass. The weights are arguments
    of the kept graph: they may change between calls, and so may the network, as long as equal names and
    shapes of weights mean the same arithmetic. Results are those of the network, bit for bit. A thread keeps
    graphs of its own, which stay on the stream that they were built on; two threads must not call at once.
    """

    def __init__(self) -> None:
        """Keeps nothing yet."""
        self._network: nn.Module | None = None
        self._kept = mx.compile(self._build)

    def __call__(self, network: nn.Module, *inputs: mx.array, **named: mx.array) -> mx.array:
        """Returns network(*inputs, **named)."""
        self._network = network
        return self._kept(network, *inputs, **named)

    def _build(self, weights: dict, *inputs: mx.array, **named: mx.array) -> mx.array:
        """Calls the network with the placeholders of weights, in a copy, so that errors leave it as it is."""
        network = _copy(self._network)
        network.update(weights)
        return network(*inputs, **named)


def _copy(node: object) -> object:
    """Copies modules and lists, and no arrays."""
    if isinstance(node, list):
        return [_copy(one) for one in node]
    if not isinstance(node, nn.Module):
        return node
    node = copy.copy(node)
    for name, one in node.items():
        node[name] = _copy(one)
    return node
