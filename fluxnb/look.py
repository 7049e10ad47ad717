"""Looks into steps of a run: repeats a step from its record, listens, makes records of what was heard.

Euler's method is deterministic, so any map of any step can be had after the run, by a pass that ends after
the last block asked for. The functions take a run (`fluxnb.run.Run`) and leave it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from fluxnb import listen
from fluxnb.errors import InputError
from fluxnb.maps import AttentionMap, Ledger, Mass
from fluxnb.model.tokenizers import Word
from fluxnb.pipeline import FluxPipeline, TextEmbedding
from fluxnb.probe import (
    GROUPS,
    Probe,
    Question,
    Tokens,
    find_blocks,
    find_heads,
    find_steps,
    find_word,
    resolve,
)

if TYPE_CHECKING:
    from fluxnb.run import Run


def attention(
    run: Run, step: str | int | Iterable[int], probe: Probe
) -> AttentionMap | tuple[AttentionMap, ...]:
    """Repeats steps and returns what one subject looked at in each, or who looked at it.

    Args:
        run: At least one of its steps must be made.
        step: An index, for one map; several or "all", for a tuple of them.
        probe: What is asked.

    Raises:
        InputError: if there is no such step, or nothing of that name in it; it says what there is.
    """
    steps = find_steps(step, len(run.steps))
    asked = [Asked(run.session.pipeline, run.owner(i).text, run.latent_size, (probe,)) for i in steps]
    maps = tuple(_hear(run, i, one)[0] for i, one in zip(steps, asked, strict=True))
    return maps if isinstance(step, Iterable) else maps[0]


def _hear(run: Run, step: int, asked: Asked) -> tuple[AttentionMap, ...]:
    """Repeats a step as far as is needed to answer."""
    replay(run, step, asked.listener(is_replay=True))
    return asked.maps(step, run.steps[step].sigma)


def replay(run: Run, step: int, listener: listen.Listener) -> None:
    """Repeats the pass of a step with its prompt, for what is heard; the velocity is not computed."""
    record, owner = run.steps[step], run.owner(step)
    listen.overhear(
        lambda attend: run.session.pipeline.velocity(
            record.latents, record.sigma, owner.text, owner.guidance, attend=attend
        ),
        listener,
    )


class Asked:
    """Probes of one pass: the readers that answer them, and the answers.

    Questions on the same blocks and heads in the same direction share a reader, and so most of the cost.

    Args:
        pipeline: What makes the pass.
        text: That of the pass.
        latent_size: (H, W) in latent cells.
        probes: At least one.

    Raises:
        InputError: if there is nothing of a name in a probe; it says what there is.
    """

    def __init__(
        self,
        pipeline: FluxPipeline,
        text: TextEmbedding,
        latent_size: tuple[int, int],
        probes: Iterable[Probe],
    ):
        """Finds what the probes name."""
        self._tokens = tokens(text, latent_size)
        heads = pipeline.networks.mmdit.config.heads
        self.questions = tuple(resolve(probe, self._tokens, pipeline.blocks, heads) for probe in probes)
        self._shared: dict[tuple, list[Question]] = {}
        for question in self.questions:
            key = question.blocks, question.heads, question.is_row
            self._shared.setdefault(key, []).append(question)
        self._readers: dict[tuple, listen.Reader] = {}

    def listener(self, is_replay: bool = False) -> listen.Listener:
        """Returns an attention function that hears one pass; `is_replay`: made for that only."""
        self._readers = {key: self._reader(*key, of) for key, of in self._shared.items()}
        return listen.Listener(self._readers.values(), is_replay)

    def _reader(self, blocks, heads, is_row, questions) -> listen.Reader:
        """Makes the reader of questions that share one."""
        head, is_mean = (heads, True) if isinstance(heads, int) else (None, heads == "mean")
        sets = [question.positions for question in questions]
        if is_row:
            positions = sorted(set().union(*sets))
            share = averages(sets, self._tokens.length)[:, positions]  # (G, P)
            read = partial(listen.rows, average=mx.array(share), is_mean=is_mean)
            return listen.Reader(blocks, read, positions, head=head)
        groups = mx.array(indicators([*sets, *self._tokens.groups], self._tokens.length))

        def read(shares: mx.array) -> mx.array:  # (B, L, G), or (B, H, L, G) for each head
            return shares.mean(axis=1) if is_mean else shares

        return listen.Reader(blocks, read, groups=groups, head=head)

    def maps(self, step: int, sigma: float) -> tuple[AttentionMap, ...]:
        """Returns the answers of the last listener, in the order of the probes.

        Args:
            step: Index that they are to carry.
            sigma: Noise level likewise.
        """
        made = {}
        for key, questions in self._shared.items():
            heard = self._readers[key].result()
            answer = self._rows if key[-1] else self._columns
            words = tuple(word.text for word in self._tokens.words)
            for question, (weights, text, mass) in zip(questions, answer(heard, questions), strict=True):
                made[id(question)] = AttentionMap(
                    frozen(weights.reshape(*weights.shape[:-1], *self._tokens.size)),
                    mass,
                    question.label,
                    step,
                    question.blocks,
                    question.heads,
                    question.direction,
                    sigma,
                    words,
                    frozen(text),
                )
        return tuple(made[id(question)] for question in self.questions)

    def _rows(self, heard: np.ndarray, questions: list[Question]):
        """Takes rows (..., G, L) apart: image part, share per word, mass."""
        words = [word.tokens for word in self._tokens.words]
        sets = [*words, *self._tokens.groups, *(question.positions for question in questions)]
        sums = heard @ indicators(sets, self._tokens.length)  # (..., G, sets)
        groups = slice(len(words), len(words) + len(GROUPS))
        for i, question in enumerate(questions):
            mine = sums[..., i, :].reshape(-1, len(sets)).mean(axis=0)
            mass = self._mass(question, mine[groups.stop + i], mine[groups])
            yield heard[..., i, self._tokens.text :], sums[..., i, : len(words)], mass

    def _columns(self, heard: np.ndarray, questions: list[Question]):
        """Takes columns (..., L, G) apart likewise."""
        words = averages([word.tokens for word in self._tokens.words], self._tokens.length)
        image = heard[..., self._tokens.text :, :]
        means = image.reshape(-1, *image.shape[-2:]).mean(axis=(0, 1))  # (G,)
        text = words @ heard  # (..., words, G)
        for i, question in enumerate(questions):
            mass = self._mass(question, means[i], means[-len(GROUPS) :])
            yield image[..., i], text[..., i], mass

    def _mass(self, question: Question, own: float, groups: np.ndarray) -> Mass:
        """Takes the subject out of the group that it is part of."""
        shares = [float(share) for share in groups]
        for i, group in enumerate(self._tokens.groups):
            if question.positions[0] in group:
                shares[i] = max(0.0, shares[i] - float(own))
        return Mass(float(own), *shares)


def ledger(
    run: Run,
    words: str | Word | Iterable[str | Word] | None,
    step: str | int | Iterable[int],
    blocks: str | int | Iterable[int],
    heads: str | int,
) -> Ledger:
    """Repeats steps, each once, and accounts for all attention in them; see `Run.ledger`."""
    steps = find_steps(step, len(run.steps))
    pipeline = run.session.pipeline
    numbers = find_blocks(blocks, *pipeline.blocks)
    heads = find_heads(heads, pipeline.networks.mmdit.config.heads)
    if words is None:
        words = dict.fromkeys(word.text.casefold() for word in run.owner(steps[0]).words)
    words = (words,) if isinstance(words, (str, Word)) else tuple(words)
    parted = [_part(words, tokens(run.owner(i).text, run.latent_size)) for i in steps]
    labels = [find_word(word, run.owner(steps[0]).words)[0] for word in words]
    labels += ["other words", *list(GROUPS.values())[1:]]
    kept = [i for i in range(len(labels)) if any(parts[i] for parts in parted)]
    keys = tuple(labels[i] for i in kept)
    shares = [
        _account(run, step, [parts[i] for i in kept], numbers, heads)
        for step, parts in zip(steps, parted, strict=True)
    ]
    return Ledger(
        frozen(np.stack(shares)),
        steps,
        tuple(run.steps[i].sigma for i in steps),
        numbers,
        tuple(range(shares[0].shape[1])) if heads == "each" else (heads,),
        (*keys, "all text tokens"),
        keys,
    )


def _part(words: tuple[str | Word, ...], tokens: Tokens) -> list[Iterable[int]]:
    """Parts the tokens of a pass: each word, the other words, end, PAD, image; each token is in one part."""
    named = [find_word(word, tokens.words)[1] for word in words]
    taken = [position for positions in named for position in positions]
    if len(set(taken)) < len(taken):
        given = ", ".join(repr(getattr(word, "text", word)) for word in words)
        raise InputError(f"the words {given} share tokens; give each once")
    prompt, *others = tokens.groups
    return [*named, sorted(set(prompt) - set(taken)), *others]


def _account(run: Run, step: int, parts: list, blocks: tuple[int, ...], heads: str | int) -> np.ndarray:
    """Returns the shares of one step: (blocks, heads, queries, keys), float32."""
    there = tokens(run.owner(step).text, run.latent_size)
    groups = mx.array(indicators(parts, there.length))
    average = mx.array(averages([*parts, range(there.text)], there.length))
    is_mean = heads == "mean"

    def read(shares: mx.array) -> mx.array:  # (B, H, queries, keys)
        shares = average @ shares
        return shares.mean(axis=1, keepdims=True) if is_mean else shares

    head = heads if isinstance(heads, int) else None
    reader = listen.Reader(blocks, read, groups=groups, head=head, is_mean=False)
    replay(run, step, listen.Listener([reader], is_replay=True))
    return reader.result()


def tokens(text: TextEmbedding, latent_size: tuple[int, int]) -> Tokens:
    """Returns what tokens a pass with that text has; an image token covers 2 x 2 latent cells."""
    return Tokens(text.words, text.end, text.txt.shape[1], tuple(side // 2 for side in latent_size))


def indicators(sets: Iterable[Iterable[int]], length: int) -> np.ndarray:
    """Returns (length, sets), float32: a 1 in each row of a set's tokens, in its column."""
    made = np.zeros((length, len(sets)), np.float32)
    for i, positions in enumerate(sets):
        made[list(positions), i] = 1
    return made


def averages(sets: Iterable[Iterable[int]], length: int) -> np.ndarray:
    """Returns (sets, length), float32: rows that take the mean over a set; NaN if there is none."""
    made = indicators(sets, length).T
    with np.errstate(invalid="ignore"):
        return made / made.sum(axis=1, keepdims=True)


def frozen(array: np.ndarray) -> np.ndarray:
    """Returns an array of its own that cannot be written to."""
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
