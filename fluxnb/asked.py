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
        self.tokens = tokens(text, latent_size)
        depth = config.depth, config.depth_single
        self.questions = tuple(resolve(probe, self.tokens, depth, config.heads) for probe in probes)
        self._shared: dict[tuple, list[Question]] = {}
        for question in self.questions:
            key = question.blocks, question.heads, question.is_row
            self._shared.setdefault(key, []).append(question)

    def hearing(self, without: frozenset[int] = frozenset()) -> Hearing:
        """Prepares to hear one pass.

        Args:
            without: Numbers of blocks that the pass leaves out; maps are then the mean over the others.

        Raises:
            InputError: if that leaves no block to read.
        """
        return Hearing(self, {key: self._reader(key, without) for key in self._shared})

    def _reader(self, key: tuple, without: frozenset[int]) -> Reader:
        """Makes the reader of the questions that share one."""
        blocks, heads, is_row = key
        blocks = present(blocks, without)
        head, is_mean = (heads, True) if isinstance(heads, int) else (None, heads == "mean")
        sets = [question.positions for question in self._shared[key]]
        if is_row:
            positions = sorted(set().union(*sets))
            share = averages(sets, self.tokens.length)[:, positions]  # (G, P)
            read = partial(rows, average=mx.array(share), is_mean=is_mean)
            return Reader(blocks, read, positions, head=head)
        groups = mx.array(indicators([*sets, *self.tokens.groups], self.tokens.length))

        def read(shares: mx.array) -> mx.array:  # (B, L, G), or (B, H, L, G) for each head
            return shares.mean(axis=1) if is_mean else shares

        return Reader(blocks, read, groups=groups, head=head)

    def maps(self, readers: dict[tuple, Reader], step: int, sigma: float) -> tuple[AttentionMap, ...]:
        """Makes maps of what was read, in the order of the probes."""
        made, words = {}, tuple(word.text for word in self.tokens.words)
        for key, reader in readers.items():
            answer = self._rows if key[-1] else self._columns
            answers = answer(reader.result(), self._shared[key])
            for question, (weights, text, mass) in zip(self._shared[key], answers, strict=True):
                made[id(question)] = AttentionMap(
                    weights=frozen(weights.reshape(*weights.shape[:-1], *self.tokens.size)),
                    mass=mass,
                    word=question.label,
                    step=step,
                    blocks=tuple(sorted(reader.blocks)),
                    heads=question.heads,
                    direction=question.direction,
                    sigma=sigma,
                    words=words,
                    text=frozen(text),
                )
        return tuple(made[id(question)] for question in self.questions)

    def _rows(self, heard: np.ndarray, questions: list[Question]) -> Iterator[Answer]:
        """Takes rows (..., G, L) apart: image part, share per word, mass."""
        words = [word.tokens for word in self.tokens.words]
        sets = [*words, *self.tokens.groups, *(question.positions for question in questions)]
        sums = heard @ indicators(sets, self.tokens.length)  # (..., G, sets)
        means = sums.reshape(-1, *sums.shape[-2:]).mean(axis=0)  # over the heads
        groups = slice(len(words), len(words) + len(GROUPS))
        for i, question in enumerate(questions):
            mass = self._mass(question, means[i, groups.stop + i], means[i, groups])
            yield heard[..., i, self.tokens.text :], sums[..., i, : len(words)], mass

    def _columns(self, heard: np.ndarray, questions: list[Question]) -> Iterator[Answer]:
        """Takes columns (..., L, G) apart likewise."""
        text = averages([word.tokens for word in self.tokens.words], self.tokens.length) @ heard
        image = heard[..., self.tokens.text :, :]
        means = image.reshape(-1, image.shape[-1]).mean(axis=0)  # over the image tokens, and over the heads
        for i, question in enumerate(questions):
            mass = self._mass(question, means[i], means[-len(GROUPS) :])
            yield image[..., i], text[..., i], mass

    def _mass(self, question: Question, own: float, groups: np.ndarray) -> Mass:
        """Takes the subject out of the group that it is part of."""
        own, shares = float(own), groups.tolist()
        for i, group in enumerate(self.tokens.groups):
            if question.positions[0] in group:
                shares[i] = max(0.0, shares[i] - own)
        return Mass(own, *shares)


class Hearing:
    """One pass that is heard.

    Args:
        asked: What is asked.
        readers: One for each group of questions.
    """

    def __init__(self, asked: Asked, readers: dict[tuple, Reader]):
        """Has heard nothing yet."""
        self._asked = asked
        self._readers = readers

    def around(self, attend: Attend = attention, is_replay: bool = False) -> Listener:
        """Puts the ears around an attention function; `is_replay`: the pass is made only for them."""
        return Listener(self._readers.values(), attend, is_replay)

    def maps(self, step: int, sigma: float) -> tuple[AttentionMap, ...]:
        """Returns the answers, in the order of the probes.

        Args:
            step: Index that they are to carry.
            sigma: Noise level likewise.
        """
        return self._asked.maps(self._readers, step, sigma)


def present(blocks: tuple[int, ...], without: frozenset[int]) -> tuple[int, ...]:
    """Returns the blocks that a pass does not leave out.

    Raises:
        InputError: if it leaves out all of them.
    """
    left = tuple(block for block in blocks if block not in without)
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
