"""Attention functions that listen, and what they heard as frozen records; knows nothing of runs or prompts.

A block hands its q, k, v to the function that it is given (`model.layers.Attend`). A listener computes what
it is asked for from q and k, then calls the default, so the picture stays the same bit for bit. It holds lazy
arrays: who evaluates only these pays for no block after the last one asked for, nor for the rest of that one.

Every weight is of a softmax over all keys, text and image, as the network computes it. Letters: see
`fluxnb.model`; tokens stand text first: words, end, PAD, then the image row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from fluxnb import backend, checks
from fluxnb.errors import InputError
from fluxnb.model.layers import attention
from fluxnb.model.tokenizers import Word

DIRECTIONS = ("word_to_image", "image_to_word")
KINDS = ("word", "other_words", "end", "pad", "image")
"""What a token can be, seen from one word, in the order of `Mass`."""

CHUNK = 64  # image queries whose rows are held at once: 28 MB a copy for FLUX.1 at 1024 pixels


@dataclass(frozen=True, slots=True)
class Mass:
    """Where attention goes, as shares that sum to 1.

    Args:
        word: To the tokens of the word itself.
        other_words: To the rest of the prompt.
        end: To the token that ends the prompt.
        pad: To the padding after it, which FLUX does not mask.
        image: To the image tokens.
    """

    word: float
    other_words: float
    end: float
    pad: float
    image: float


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMap:
    """What one word has to do with each place of the picture, in one step.

    Args:
        weights: (h, w), float32, one number per image token (16 x 16 pixels), shares of attention in 0..1.
            "word_to_image": how much of the word's attention goes there; they sum to `mass.image`.
            "image_to_word": how much of that place's attention goes to the word; their mean is `mass.word`.
        mass: Where all the attention of the queries went: of the word's tokens for "word_to_image", of the
            image tokens for "image_to_word"; each the mean over these tokens.
        word: As it stands in the prompt.
        step: Index of the step.
        blocks: Numbers of the blocks averaged over, double blocks first.
        heads: "mean" over all heads, or the number of one.
        direction: "word_to_image" or "image_to_word"; two different questions, two different pictures.
    """

    weights: np.ndarray
    mass: Mass
    word: str
    step: int
    blocks: tuple[int, ...]
    heads: str | int
    direction: str


class Listener:
    """An attention function that reads one word's attention in some blocks, and mixes as ever.

    Args:
        kinds: (L,), for each token of the sequence its place in `KINDS`.
        blocks: Numbers of the blocks to read.
        heads: "mean", or the number of one head.
        direction: One of `DIRECTIONS`.
    """

    def __init__(self, kinds: np.ndarray, blocks: tuple[int, ...], heads: str | int, direction: str):
        """Has heard nothing yet."""
        self.heard: list[tuple[mx.array, mx.array]] = []  # a block each: map (h*w,), mass (5,), both lazy
        self._kinds = kinds
        self._blocks = frozenset(blocks)
        self._heads = slice(None) if heads == "mean" else slice(heads, heads + 1)
        self._read = {"word_to_image": word_to_image, "image_to_word": image_to_word}[direction]

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, layer: int) -> mx.array:
        """Reads block `layer` if it is asked for; returns what `attention` returns."""
        if layer in self._blocks:
            self.heard.append(self._read(q[:1, self._heads], k[:1, self._heads], self._kinds))
        return attention(q, k, v, layer)

    def result(self) -> tuple[np.ndarray, Mass]:
        """Evaluates and returns the mean over the blocks heard: map (h*w,), float32, and mass."""
        weights, mass = (mx.stack(parts).mean(axis=0) for parts in zip(*self.heard, strict=True))
        mx.eval(weights, mass)
        picture = np.array(weights)
        picture.setflags(write=False)
        return picture, Mass(*mass.tolist())


def word_to_image(q: mx.array, k: mx.array, kinds: np.ndarray) -> tuple[mx.array, mx.array]:
    """Reads the rows of a word: what its tokens attend to.

    Args:
        q: (1, H, L, D), queries after norm and RoPE.
        k: (1, H, L, D), keys likewise.
        kinds: (L,), places in `KINDS`.

    Returns:
        Mean over heads and the word's tokens of the weight on each image token (h*w,), and the mass (5,).
    """
    word = mx.array(np.flatnonzero(kinds == KINDS.index("word")))
    rows = weights(q[:, :, word], k).mean(axis=(0, 1, 2))  # (L,)
    image = int(np.count_nonzero(kinds == KINDS.index("image")))
    return rows[-image:], rows @ indicator(kinds)


def image_to_word(q: mx.array, k: mx.array, kinds: np.ndarray) -> tuple[mx.array, mx.array]:
    """Reads the columns of a word: how much each image token attends to it, all its tokens together.

    Args:
        q: (1, H, L, D), queries after norm and RoPE.
        k: (1, H, L, D), keys likewise.
        kinds: (L,), places in `KINDS`.

    Returns:
        Mean over heads of each image token's weight on the word (h*w,), and the mean mass (5,).
    """
    image = int(np.count_nonzero(kinds == KINDS.index("image")))
    groups, queries = indicator(kinds), q[:, :, -image:]
    chunks: list[mx.array] = []  # each (CHUNK, 5)
    for i in range(0, image, CHUNK):
        chunk = queries[:, :, i : i + CHUNK]
        if chunks:  # after the one before, so that memory holds the rows of one
            chunk = mx.depends(chunk, chunks[-1])
        chunks.append((weights(chunk, k) @ groups).mean(axis=(0, 1)))
    shares = mx.concatenate(chunks)  # (h*w, 5)
    return shares[:, KINDS.index("word")], shares.mean(axis=0)


def weights(q: mx.array, k: mx.array) -> mx.array:
    """Returns softmax(q k^T / sqrt(D)) over all keys, float32.

    Args:
        q: (B, H, rows, D), some of the queries.
        k: (B, H, L, D), all keys.

    Returns:
        (B, H, rows, L); each row sums to 1.
    """
    q, k = q.astype(mx.float32), k.astype(mx.float32)
    return backend.softmax((q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2))


def indicator(kinds: np.ndarray) -> mx.array:
    """Returns (L, 5): a 1 in each token's row, in the column of its kind."""
    return mx.array(np.eye(len(KINDS), dtype=np.float32)[kinds])


def find_word(word: str | Word, words: tuple[Word, ...]) -> tuple[str, tuple[int, ...]]:
    """Finds a word of a prompt: its text and the positions of all its tokens.

    Args:
        word: One of `words`, or a text: then every word of that text, whatever its case.
        words: Those of the prompt.

    Raises:
        InputError: if it is none of them; the message lists them.
    """
    found = [one for one in words if one == word or _same(one.text, word)]
    if not found:
        there = ", ".join(repr(one.text) for one in words) or "none, it is empty"
        raise InputError(f"the prompt has no word {getattr(word, 'text', word)!r}; its words are {there}")
    return found[0].text, tuple(position for one in found for position in one.tokens)


def _same(text: str, word: object) -> bool:
    """Says whether a user's word is that text."""
    return isinstance(word, str) and text.casefold() == word.strip().casefold()


def find_blocks(blocks: str | int | Iterable[int], double: int, single: int) -> tuple[int, ...]:
    """Returns the numbers of the blocks that are meant, double blocks first.

    Args:
        blocks: "all", "double", "single", a number, or several.
        double: How many double blocks there are.
        single: How many single blocks there are.

    Raises:
        InputError: if there is no such block; the message says which there are.
    """
    groups = {
        "all": range(double + single),
        "double": range(double),
        "single": range(double, double + single),
    }
    if isinstance(blocks, str):
        numbers = groups[checks.choice("blocks", blocks, groups)]
    elif isinstance(blocks, Iterable):
        numbers = sorted({checks.whole("a block", block, 0, double + single - 1) for block in blocks})
    else:
        numbers = [checks.whole("the block", blocks, 0, double + single - 1)]
    if not numbers:
        raise InputError(
            f"blocks {blocks!r} are none: the model has {double} double and {single} single blocks"
        )
    return tuple(numbers)


def find_heads(heads: str | int, count: int) -> str | int:
    """Returns "mean" or the number of one of `count` heads.

    Raises:
        InputError: if it is neither; the message says which there are.
    """
    return "mean" if heads == "mean" else checks.whole("heads", heads, 0, count - 1, other="'mean' or ")


def token_kinds(word: tuple[int, ...], end: int, text_length: int, image_tokens: int) -> np.ndarray:
    """Returns for each token of the sequence its place in `KINDS`.

    Args:
        word: Positions of the word's tokens.
        end: Position of the end token; words stand before it, padding after it.
        text_length: Text tokens, padding included.
        image_tokens: h * w.

    Returns:
        (text_length + image_tokens,), int.
    """
    kinds = np.full(text_length + image_tokens, KINDS.index("image"))
    kinds[:text_length] = KINDS.index("pad")
    kinds[:end] = KINDS.index("other_words")
    kinds[end] = KINDS.index("end")
    kinds[list(word)] = KINDS.index("word")
    return kinds
