"""An attention function that alters scores, values or heads; knows nothing of words, steps or runs.

    edits = (AddToScores(frozenset({0, 1}), tokens=(3, 4), added=-math.inf), Silence(frozenset({2}), head=1))
    velocity = mmdit(..., attend=Altered(edits, text_length=512))

Whatever is altered, the softmax is over all keys. A block without an edit is computed as ever, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from fluxnb import backend
from fluxnb.errors import InputError


@dataclass(frozen=True, slots=True)
class AddToScores:
    """Adds to the scores of some keys.

    Args:
        layers: Numbers of the blocks.
        tokens: Positions of the keys.
        added: log(f) multiplies their weights by f before these are made to sum to 1; -inf forbids them.
        image_only: Whether only for image queries, or for those of the text too.
    """

    layers: frozenset[int]
    tokens: tuple[int, ...]
    added: float
    image_only: bool = False


@dataclass(frozen=True, slots=True)
class SwapValues:
    """Swaps the values of two groups of tokens: one by one, or, if they are not as many, each gets the mean.

    Args:
        layers: Numbers of the blocks.
        a: Positions of the one group.
        b: Positions of the other, none of them in `a`.
    """

    layers: frozenset[int]
    a: tuple[int, ...]
    b: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Silence:
    """Makes the result of a head 0 for every token.

    Args:
        layers: Numbers of the blocks.
        head: Number of the head.
    """

    layers: frozenset[int]
    head: int


Edit = AddToScores | SwapValues | Silence


class Altered:
    """Attention with edits (`model.layers.Attend`).

    Args:
        edits: Swaps happen in their order; for the others it does not matter.
        text_length: Text tokens, padding included; those of the image come after them.
    """

    def __init__(self, edits: tuple[Edit, ...], text_length: int):
        """Only keeps what it is given."""
        self._edits = edits
        self.text_length = text_length

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, layer: int) -> mx.array:
        """Mixes the values (B, H, L, D) as block `layer` is told to."""
        for edit in self._here(SwapValues, layer):
            v = swap_values(v, edit.a, edit.b)
        mixed = self._mix(q, k, v, self.scores(layer, k.shape[2]))
        silent = [edit.head for edit in self._here(Silence, layer)]
        if silent:
            kept = ~np.isin(np.arange(q.shape[1]), silent)
            mixed = mixed * mx.array(kept)[:, None, None].astype(mixed.dtype)
        return mixed

    def scores(self, layer: int, length: int) -> np.ndarray | None:
        """Returns what a block adds to the scores of `length` keys, None for nothing.

        Returns:
            (2, length), float32: for text queries, and for image queries.

        Raises:
            InputError: if the edits leave no key at all.
        """
        edits = self._here(AddToScores, layer)
        if not edits:
            return None
        added = np.zeros((2, length), np.float32)
        for edit in edits:
            added[int(edit.image_only) :, list(edit.tokens)] += edit.added
        if np.isneginf(added).all(axis=1).any():
            raise InputError(
                f"in block {layer} all {length} tokens are cut, and nothing is left to look at; cut fewer"
            )
        return added

    def _here(self, kind: type, layer: int) -> list[Edit]:
        """Returns the edits of a kind for a block."""
        return [edit for edit in self._edits if isinstance(edit, kind) and layer in edit.layers]

    def _mix(self, q: mx.array, k: mx.array, v: mx.array, added: np.ndarray | None) -> mx.array:
        """Returns the attention with `added` on the scores; its mask is one row for all queries of a kind."""
        scale = q.shape[-1] ** -0.5
        if added is None:
            return backend.attention(q, k, v, scale)
        by_text, by_image = (mx.array(row)[None, None, None].astype(q.dtype) for row in added)  # (1, 1, 1, L)
        if np.array_equal(*added):
            return backend.attention(q, k, v, scale, by_image)
        text, image = mx.split(q, [self.text_length], axis=2)
        text = backend.attention(text, k, v, scale, by_text)
        image = mx.depends(image, text)  # one after the other, so that memory holds the scores of one
        return mx.concatenate([text, backend.attention(image, k, v, scale, by_image)], axis=2)


def swap_values(v: mx.array, a: tuple[int, ...], b: tuple[int, ...]) -> mx.array:
    """Returns v (B, H, L, D) with the tokens at `a` and at `b` swapped; see `SwapValues`."""
    order = np.arange(v.shape[2])
    if len(a) == len(b):
        order[[*a, *b]] = [*b, *a]
        return v[:, :, mx.array(order)]
    means = [v[:, :, mx.array(tokens)].mean(axis=2, keepdims=True) for tokens in (a, b)]
    order[list(b)], order[list(a)] = v.shape[2], v.shape[2] + 1
    return mx.concatenate([v, *means], axis=2)[:, :, mx.array(order)]
