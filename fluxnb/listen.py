"""Attention functions that listen, and the formulas by which they read; knows nothing of words or runs.

A block hands its q, k, v to the function that it is given (`model.layers.Attend`). A listener stands around
that function: it reads what it is asked for from q and k, then calls it, so the picture stays the same bit
for bit. Every weight is of a softmax over all keys, text and image, as the network computes it, with what is
added to its scores; what is held in memory at once is bounded, or as large as the rows asked for. Letters:
see `fluxnb.model`; P positions of queries, G groups of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import mlx.core as mx
import numpy as np

from fluxnb import backend
from fluxnb.altered import Altered
from fluxnb.model.layers import Attend, attention

SCORES = 2**20
"""How many scores are computed at a time: 4 MB stay in a CPU's cache, and memory stays bounded."""

WAITING = 2**22
"""Bytes of q and k that may wait to be read together: a small network's blocks cost one call in all."""


class Reader:
    """Reads some blocks by one formula, and keeps what it read.

    Args:
        blocks: Numbers of the blocks to read.
        read: Maps q (B, H, P, D) and k (B, H, L, D), B blocks one after the other, and what is added to their
            scores (see `rows`), to an array (B, ...). With `groups` it maps what `columns` makes of these,
            (B, H, L, G).
        positions: Queries to read, rising; None for all.
        groups: (L, G), for a reader of columns.
        head: The one head to read; None for all.
        is_mean: Whether to keep the mean over the blocks, not each.
    """

    def __init__(
        self,
        blocks: Iterable[int],
        read: Callable[..., mx.array],
        positions: Sequence[int] | None = None,
        groups: mx.array | None = None,
        head: int | None = None,
        is_mean: bool = True,
    ):
        """Has read nothing yet."""
        self.blocks = frozenset(blocks)
        self.groups = groups
        self._read = read
        self._positions = positions
        self._heads = slice(None) if head is None else slice(head, head + 1)
        self._is_mean = is_mean
        self._waiting: list[tuple[mx.array, mx.array]] = []
        self._heard: list[mx.array] = []  # each (B, ...), lazy; one only if is_mean

    def hear(self, q: mx.array, k: mx.array, layer: int, added: mx.array | None = None) -> list[mx.array]:
        """Takes q and k (B, H, L, D) of a block, and what it adds to the scores, (L, L), (1, L) or None.

        Returns:
            What is to be computed before they can be let go.
        """
        q, k = pick(q[:1, self._heads], self._positions), k[:1, self._heads]
        if added is not None:  # of this block alone
            if added.shape[0] > 1:
                added = pick(added[None, None], self._positions)[0, 0]
            return [*self._read_waiting(), self._keep(self._reading(q, k, added))]
        self._waiting.append((q, k))
        is_enough = len(self._waiting) * (q.nbytes + k.nbytes) >= WAITING
        return self._read_waiting() if is_enough or layer == max(self.blocks) else []

    def _read_waiting(self) -> list[mx.array]:
        """Reads the blocks that wait, together."""
        if not self._waiting:
            return []
        q, k = self._waiting[0]
        if len(self._waiting) > 1:
            q, k = (mx.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
        self._waiting = []
        return [self._keep(self._reading(q, k))]

    def _reading(self, q: mx.array, k: mx.array, added: mx.array | None = None) -> mx.array:
        """Reads blocks by the formula."""
        if self.groups is None:
            return self._read(q, k, added)
        return self._read(columns(q, k, self.groups, added))

    def take(self, shares: mx.array) -> mx.array:
        """Takes the columns (B, H, L, G) of a block, which somebody read; returns what becomes of them."""
        return self._keep(self._read(shares[:1, self._heads]))

    def _keep(self, part: mx.array) -> mx.array:
        """Keeps what was read of some blocks, for the mean only the sum."""
        if self._is_mean:
            part = part.sum(axis=0, keepdims=True)
            part = part + self._heard.pop() if self._heard else part
        self._heard.append(part)
        return part

    def result(self) -> np.ndarray:
        """Evaluates and returns what was read, float32: (...) if the mean, else (blocks, ...)."""
        heard = np.concatenate([np.array(part) for part in self._heard])
        return heard[0] / np.float32(len(self.blocks)) if self._is_mean else heard


class Listener:
    """An attention function that lets readers hear what another one mixes.

    Args:
        readers: Each hears the blocks that it is to read.
        attend: What mixes.
        is_replay: Whether the pass is for them only. It is then ended, see `overhear`, where none needs more
            of it, and may differ from the plain one in its last bits.
    """

    def __init__(self, readers: Iterable[Reader], attend: Attend = attention, is_replay: bool = False):
        """Has heard nothing yet."""
        self._readers = tuple(readers)
        self._attend = attend
        self._last = max(max(reader.blocks) for reader in self._readers)
        self._is_replay = is_replay

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, layer: int) -> mx.array:
        """Lets the readers hear; returns the mixed values, after what they read."""
        readers = [reader for reader in self._readers if layer in reader.blocks]
        is_end = self._is_replay and layer == self._last
        mixed, heard = None, []
        if self._is_replay and not is_end and self._attend is attention and _on_cpu():
            mixed, heard, readers = _hear_mixing(q, k, v, readers)
        added = self._added(layer, k.shape[2]) if readers else None
        for reader in readers:
            heard += reader.hear(q, k, layer, added)
        if is_end:
            raise Enough
        mixed = self._attend(q, k, v, layer) if mixed is None else mixed
        return mx.depends(mixed, heard) if heard else mixed  # so that no block's q and k wait for the last's

    def _added(self, layer: int, length: int) -> mx.array | None:
        """Returns what is added to the scores of a block: (L, L), (1, L) for all queries alike, or None."""
        scores = self._attend.scores(layer, length) if isinstance(self._attend, Altered) else None
        if scores is None:
            return None
        if np.array_equal(*scores):
            return mx.array(scores[:1])
        return mx.array(scores)[mx.array(np.arange(length) >= self._attend.text_length).astype(mx.int32)]


def _on_cpu() -> bool:
    """Says whether MLX computes on the CPU."""
    return mx.default_device().type == mx.cpu


def _hear_mixing(q: mx.array, k: mx.array, v: mx.array, readers: list[Reader]):
    """Reads columns from the very scores that mix the values, which costs next to nothing.

    Returns:
        The mixed values, None if no reader is one of columns; what was read; the other readers.
    """
    of_columns = [reader for reader in readers if reader.groups is not None]
    if not of_columns:
        return None, [], readers
    groups = mx.concatenate([reader.groups for reader in of_columns], axis=1)
    groups = mx.broadcast_to(groups, (*v.shape[:2], *groups.shape))
    q, k = q.astype(mx.float32), k.astype(mx.float32)  # shares are float32 whatever the network computes in
    wide = mx.concatenate([v.astype(mx.float32), groups], axis=-1)
    wide = backend.attention(q, k, wide, q.shape[-1] ** -0.5)  # (B, H, L, D + G)
    ends = np.cumsum([v.shape[-1], *(reader.groups.shape[1] for reader in of_columns)])
    mixed, *shares, _ = mx.split(wide, ends.tolist(), axis=-1)
    heard = [reader.take(part) for reader, part in zip(of_columns, shares, strict=True)]
    return mixed.astype(v.dtype), heard, [reader for reader in readers if reader.groups is None]


class Enough(Exception):
    """Ends a pass from inside its attention; caught by `overhear`."""


def overhear(forward: Callable[[], object]) -> None:
    """Runs a pass for what its attention function hears, which may end it early by raising `Enough`."""
    with suppress(Enough):
        forward()


def rows(
    q: mx.array, k: mx.array, added: mx.array | None = None, *, average: mx.array, is_mean: bool
) -> mx.array:
    """Reads what groups of tokens attend to.

    Args:
        q: (B, H, P, D), some of the queries, after norm and RoPE.
        k: (B, H, L, D), all keys, likewise.
        added: What is added to the scores: (P, L), (1, L) for all queries alike, or None.
        average: (G, P), for each group its share of each query.
        is_mean: Whether to take the mean over heads.

    Returns:
        (B, H, G, L), or (B, G, L) if the mean; the sum over L is that of `average` over P.
    """
    many = max(1, SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    total = None
    for i in range(0, q.shape[2], many):
        chunk = q[:, :, i : i + many]
        if total is not None:  # after the one before, so that memory holds the scores of one
            chunk = mx.depends(chunk, total)
        part = weights(chunk, k, _part(added, i, many))
        part = average[:, i : i + many] @ (part.mean(axis=1) if is_mean else part)
        total = part if total is None else total + part
    return total


def columns(q: mx.array, k: mx.array, groups: mx.array, added: mx.array | None = None) -> mx.array:
    """Reads how much of each query's attention goes to groups of tokens: softmax(q k^T / sqrt(D)) groups.

    Args:
        q: (B, H, P, D), queries after norm and RoPE.
        k: (B, H, L, D), keys likewise.
        groups: (L, G), for each group a 1 at its tokens.
        added: What is added to the scores: (P, L), (1, L) for all queries alike, or None.

    Returns:
        (B, H, P, G), float32.
    """
    return (columns_by_chunks if _on_cpu() else columns_by_kernel)(q, k, groups, added)


def columns_by_kernel(q: mx.array, k: mx.array, groups: mx.array, added: mx.array | None = None) -> mx.array:
    """Does what `columns` does, by attention with the groups as values, as wide as the kernel takes them."""
    q, k = q.astype(mx.float32), k.astype(mx.float32)
    width, count = q.shape[-1], groups.shape[1]
    values = mx.pad(groups, [(0, 0), (0, -count % width)])  # (L, a multiple of D)
    shape = (*k.shape[:3], width)
    parts = [
        backend.attention(q, k, mx.broadcast_to(values[:, i : i + width], shape), width**-0.5, added)
        for i in range(0, count, width)
    ]
    return mx.concatenate(parts, axis=-1)[..., :count]


def columns_by_chunks(q: mx.array, k: mx.array, groups: mx.array, added: mx.array | None = None) -> mx.array:
    """Does what `columns` does, some queries of one head at a time."""
    batch, heads, length, width = q.shape
    q, k = q.astype(mx.float32), k.astype(mx.float32)
    if batch * heads * length * k.shape[2] <= SCORES:
        return weights(q, k, added) @ groups
    many = max(1, SCORES // (batch * k.shape[2]))
    shape = (batch, 1, *groups.shape)
    outputs, last = [], None
    for head in (slice(i, i + 1) for i in range(heads)):
        chunks = []
        for i in range(0, length, many):
            chunk = q[:, head, i : i + many]
            if last is not None:  # after the one before, so that memory holds the scores of one
                chunk = mx.depends(chunk, last)
            values, mask = mx.broadcast_to(groups, shape), _part(added, i, many)
            last = backend.attention(chunk, k[:, head], values, width**-0.5, mask)
            chunks.append(last)
        outputs.append(mx.concatenate(chunks, axis=2))
    return mx.concatenate(outputs, axis=1)


def _part(added: mx.array | None, first: int, many: int) -> mx.array | None:
    """Returns what is added to the scores of `many` queries."""
    return added if added is None or added.shape[0] == 1 else added[first : first + many]


def weights(q: mx.array, k: mx.array, added: mx.array | None = None) -> mx.array:
    """Returns softmax(q k^T / sqrt(D) + added) over all keys, float32.

    Args:
        q: (B, H, P, D), some of the queries.
        k: (B, H, L, D), all keys.
        added: (P, L), (1, L) or None.

    Returns:
        (B, H, P, L); each row sums to 1.
    """
    q, k = q.astype(mx.float32), k.astype(mx.float32)
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)
    return backend.softmax(scores if added is None else scores + added)


def pick(x: mx.array, positions: Sequence[int] | None) -> mx.array:
    """Returns x (B, H, P, D) at some of the tokens of (B, H, L, D); None for all."""
    if positions is None:
        return x
    first, last = positions[0], positions[-1]
    if last - first == len(positions) - 1:
        return x[:, :, first : last + 1]
    return mx.take(x, mx.array(positions), axis=2)
