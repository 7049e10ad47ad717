"""Probes of one pass, from names to readers and from what these read to maps; knows nothing of runs.

Questions on the same blocks and heads in the same direction share a reader, and so most of the cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import mlx.core as mx
import numpy as np

from fluxnb.errors import InputError
from fluxnb.listen import Listener, Reader, rows
from fluxnb.maps import AttentionMap, Mass
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import Attend, attention
from fluxnb.probe import GROUPS, Probe, Question, Tokens, resolve
from fluxnb.texts import TextEmbedding
from fluxnb.trust import Trust, lookup

Answer = tuple[np.ndarray, np.ndarray, Mass]
"""Weights (..., h*w), those of the words (..., words), and mass."""


class Asked:
    """Probes with all their names found, once for all steps with one text.

    Args:
        probes: At least one.
        text: That of the pass.
        latent_size: (H, W) in latent cells.
        config: Sizes of the network.

    Raises:
        InputError: if there is nothing of a name in a probe; it says what there is.
    """

    def __init__(
        self,
        probes: Iterable[Probe],
        text: TextEmbedding,
        latent_size: tuple[int, int],
        config: MMDiTConfig,
    ):
        """Finds what the probes name."""
        found = tokens(text, latent_size)
        depth = config.depth, config.depth_single
        self._questions = tuple(resolve(probe, found, depth, config.heads) for probe in probes)
        shared: dict[tuple, list[Question]] = {}
        for question in self._questions:
            key = question.blocks, question.heads, question.is_row
            shared.setdefault(key, []).append(question)
        self._parts = tuple(
            (_Rows if part[0].is_row else _Columns)(part, found, depth) for part in shared.values()
        )

    def hearing(self, step: int, sigma: float, without: frozenset[int] | None = None) -> Hearing:
        """Prepares to hear one pass.

        Args:
            step: Index of the step that it belongs to.
            sigma: Its noise level.
            without: Where an intervention acts on the pass, the numbers of the blocks that it leaves out:
                maps are then the mean over the others, and carry no figure of trust. None for the network as
                it is.

        Raises:
            InputError: if that leaves no block to read.
        """
        readers = [(part, part.reader(present(part.questions[0].blocks, without))) for part in self._parts]
        return Hearing(self._questions, readers, step, sigma, is_plain=without is None)


class _Part:
    """Questions that share a reader: the same blocks and heads, the same direction.

    Args:
        questions: At least one.
        tokens: Those of the pass.
        depth: Numbers of double and of single blocks.
    """

    def __init__(self, questions: list[Question], tokens: Tokens, depth: tuple[int, int]):
        self.depth = depth
        self.questions = questions
        self.tokens = tokens
        self.words = tuple(word.text for word in tokens.words)
        self._spans = [word.tokens for word in tokens.words]
        self._sets = [question.positions for question in questions]
        kinds = [[question.positions[0] in group for group in tokens.groups] for question in questions]
        self._kinds = [kind.index(True) for kind in kinds]
        heads = questions[0].heads
        self._head = heads if isinstance(heads, int) else None
        self._is_mean = heads != "each"

    def _mass(self, i: int, own: float, groups: list[float]) -> Mass:
        """Takes subject `i` out of the group that it is part of."""
        shares = list(groups)
        shares[self._kinds[i]] = max(0.0, shares[self._kinds[i]] - own)
        return Mass(own, *shares)


class _Rows(_Part):
    """Questions about what is looked at."""

    def __init__(self, questions: list[Question], tokens: Tokens, depth: tuple[int, int]):
        super().__init__(questions, tokens, depth)
        self._positions = sorted(set().union(*self._sets))
        share = averages(self._sets, tokens.length)[:, self._positions]  # (G, P)
        self._read = partial(rows, average=mx.array(share), is_mean=self._is_mean)
        self._sums = indicators([*self._spans, *tokens.groups, *self._sets], tokens.length)

    def reader(self, blocks: tuple[int, ...]) -> Reader:
        """Makes a reader of rows."""
        return Reader(blocks, self._read, self._positions, head=self._head)

    def answers(self, heard: np.ndarray) -> Iterator[Answer]:
        """Takes rows (..., G, L) apart: image part, share per word, mass."""
        words, sums = len(self._spans), heard @ self._sums  # (..., G, words + groups + subjects)
        means = sums.reshape(-1, *sums.shape[-2:]).mean(axis=0).tolist()  # over the heads
        for i, mean in enumerate(means):
            mass = self._mass(i, mean[words + len(GROUPS) + i], mean[words : words + len(GROUPS)])
            yield heard[..., i, self.tokens.text :], sums[..., i, :words], mass


class _Columns(_Part):
    """Questions about who looks."""

    def __init__(self, questions: list[Question], tokens: Tokens, depth: tuple[int, int]):
        super().__init__(questions, tokens, depth)
        self._groups = mx.array(indicators([*self._sets, *tokens.groups], tokens.length))
        self._words = averages(self._spans, tokens.length)

    def reader(self, blocks: tuple[int, ...]) -> Reader:
        """Makes a reader of columns."""
        return Reader(blocks, self._read, groups=self._groups, head=self._head)

    def _read(self, shares: mx.array) -> mx.array:
        """Keeps (B, L, G) of (B, H, L, G), or all of it for each head."""
        return shares.mean(axis=1) if self._is_mean else shares

    def answers(self, heard: np.ndarray) -> Iterator[Answer]:
        """Takes columns (..., L, G) apart likewise."""
        text = self._words @ heard
        image = heard[..., self.tokens.text :, :]
        means = image.reshape(-1, image.shape[-1]).mean(axis=0).tolist()  # over image tokens and heads
        for i in range(len(self.questions)):
            yield image[..., i], text[..., i], self._mass(i, means[i], means[-len(GROUPS) :])


class Hearing:
    """One pass that is heard.

    Args:
        questions: In the order of the probes.
        readers: For each part of them its reader.
        step: Index of the step that the pass belongs to.
        sigma: Its noise level.
        is_plain: Whether the network is as it is, without an intervention.
    """

    def __init__(
        self,
        questions: tuple[Question, ...],
        readers: list[tuple[_Part, Reader]],
        step: int,
        sigma: float,
        is_plain: bool,
    ):
        """Has heard nothing yet."""
        self._questions = questions
        self._readers = readers
        self._step = step
        self._sigma = sigma
        self._is_plain = is_plain
        self._maps: tuple[AttentionMap, ...] | None = None

    def around(self, attend: Attend = attention, is_replay: bool = False) -> Listener:
        """Puts the ears around an attention function; `is_replay`: the pass is made only for them."""
        return Listener([reader for _, reader in self._readers], attend, is_replay)

    @property
    def maps(self) -> tuple[AttentionMap, ...]:
        """The answers, in the order of the probes, made when they are first asked for."""
        if self._maps is None:
            self._maps = self._make()
        return self._maps

    def _make(self) -> tuple[AttentionMap, ...]:
        """Makes maps of what was read."""
        made = {}
        for part, reader in self._readers:
            blocks, size = tuple(sorted(reader.blocks)), part.tokens.size
            for question, (weights, text, mass) in zip(
                part.questions, part.answers(reader.result()), strict=True
            ):
                made[id(question)] = AttentionMap(
                    weights=frozen(weights.reshape(*weights.shape[:-1], *size)),
                    mass=mass,
                    word=question.label,
                    step=self._step,
                    blocks=blocks,
                    heads=question.heads,
                    direction=question.direction,
                    sigma=self._sigma,
                    words=part.words,
                    text=frozen(text),
                    trust=self._trust(part, question, blocks),
                )
        return tuple(made[id(question)] for question in self._questions)

    def _trust(self, part: _Part, question: Question, blocks: tuple[int, ...]) -> Trust | None:
        """Finds the figure of such maps: measured were single words, whole, in the network as it is."""
        if not self._is_plain or question.heads != "mean" or question.label not in part.words:
            return None
        return lookup(question.direction, blocks, self._sigma, part.depth)


def present(blocks: tuple[int, ...], without: frozenset[int] | None) -> tuple[int, ...]:
    """Returns the blocks that a pass does not leave out; None if it leaves out none.

    Raises:
        InputError: if it leaves out all of them.
    """
    left = tuple(block for block in blocks if block not in (without or ()))
    if not left:
        cut = ", ".join(map(str, blocks))
        raise InputError(f"of blocks {cut} none is left in this step, an intervention cuts them; ask others")
    return left


def tokens(text: TextEmbedding, latent_size: tuple[int, int]) -> Tokens:
    """Returns what tokens a pass with that text has; an image token covers 2 x 2 latent cells."""
    h, w = (side // 2 for side in latent_size)
    return Tokens(text.words, text.end, text.txt.shape[1], (h, w))


def indicators(sets: Iterable[Iterable[int]], length: int) -> np.ndarray:
    """Returns (length, sets), float32: a 1 in each row of a set's tokens, in its column."""
    sets = list(sets)
    made = np.zeros((length, len(sets)), np.float32)
    for i, positions in enumerate(sets):
        made[list(positions), i] = 1
    return made


def averages(sets: Iterable[Iterable[int]], length: int) -> np.ndarray:
    """Returns (sets, length), float32: rows that take the mean over a set; NaN if it is empty."""
    made = indicators(sets, length).T
    with np.errstate(invalid="ignore"):
        return made / made.sum(axis=1, keepdims=True)


def frozen(array: np.ndarray) -> np.ndarray:
    """Returns an array of its own that cannot be written to."""
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
