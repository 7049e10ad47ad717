"""What can be asked of a pass through the network, by its names; knows nothing of networks, runs or arrays.

Names become numbers here: a word, a patch or the padding becomes positions of tokens, "double" becomes the
numbers of blocks, "all" those of steps. Tokens stand text first: words, end, PAD, then the image row by row.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fluxnb import checks
from fluxnb.errors import InputError
from fluxnb.model.tokenizers import Word

DIRECTIONS = {"word_to_image": True, "image_to_word": False, "rows": True, "columns": False}
"""Whether what is asked for looks, or is looked at; "rows" and "columns" are of the attention's matrix."""

GROUPS = {"words": "all words", "end": "end token", "pad": "PAD tokens", "image": "image tokens"}
"""Kinds of tokens, in the order that they stand in: the short name and the one that no word can have."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A question to a pass; `Run.attention` and `FluxSession.start` take it apart or as it is.

    Args:
        word: Whose attention: a word of the prompt, by its text or as a `Word`, or several in a list; a patch
            (row, column), in image tokens of 16 x 16 pixels; a region, a mask (h, w) of booleans; the number
            of a token; "PAD", "end", "image" or "words". Where the prompt has a word "image", that is meant,
            and "image tokens" is the group: so for "PAD tokens", "end token" and "all words".
        blocks: "all", "double" or "single", the number of one block, or several: their mean.
        heads: "mean", "each", or the number of one head.
        direction: "word_to_image": what it looks at; "image_to_word": who looks at it. "rows" and "columns"
            are the same two for what is no word. None: image tokens look, as in most papers: who looks at
            text, and what a patch, a region or the image looks at.
    """

    word: object
    blocks: str | int | Iterable[int] = "double"
    heads: str | int = "mean"
    direction: str | None = None

    def __post_init__(self):
        if isinstance(self.blocks, Iterator):  # which can be gone through only once
            object.__setattr__(self, "blocks", tuple(self.blocks))


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one pass.

    Args:
        words: Those of the prompt.
        end: Position of the end token; words stand before it, padding after it.
        text: Text tokens, padding included.
        size: (h, w), image tokens.
    """

    words: tuple[Word, ...]
    end: int
    text: int
    size: tuple[int, int]

    @property
    def length(self) -> int:
        """All tokens, text and image."""
        return self.text + self.size[0] * self.size[1]

    @property
    def groups(self) -> tuple[range, range, range, range]:
        """Positions of each kind of token, in the order of `GROUPS`; padding may be none."""
        bounds = (0, self.end, self.end + 1, self.text, self.length)
        return tuple(range(*pair) for pair in pairwise(bounds))


@dataclass(frozen=True, slots=True)
class Question:
    """A `Probe` with its names found.

    Args:
        label: What is asked for, for people: the word itself, or a name with a space in it.
        positions: Its tokens, rising, at least one, all in one of `Tokens.groups`.
        blocks: Numbers, double blocks first.
        heads: "mean", "each" or a number.
        direction: One of `DIRECTIONS`, of the first two for words and of the others for the rest.
    """

    label: str
    positions: tuple[int, ...]
    blocks: tuple[int, ...]
    heads: str | int
    direction: str

    @property
    def is_row(self) -> bool:
        """Whether it is about what the tokens look at, not about who looks at them."""
        return DIRECTIONS[self.direction]


def resolve(probe: Probe, tokens: Tokens, depth: tuple[int, int], heads: int) -> Question:
    """Finds what a probe names.

    Args:
        probe: As the user gives it.
        tokens: Those of the pass.
        depth: Numbers of double and of single blocks.
        heads: How many there are.

    Raises:
        InputError: if there is no such word, patch, block, head or direction; it says what there is.
    """
    label, positions, is_word = find_subject(probe.word, tokens)
    if probe.direction is None:
        is_row = positions[0] >= tokens.text
    else:
        is_row = DIRECTIONS[checks.choice("direction", probe.direction, DIRECTIONS)]
    names = [name for name, row in DIRECTIONS.items() if row is is_row]
    blocks = find_blocks(probe.blocks, *depth)
    return Question(label, positions, blocks, find_heads(probe.heads, heads), names[0 if is_word else 1])


def find_subject(subject: object, tokens: Tokens) -> tuple[str, tuple[int, ...], bool]:
    """Finds what is asked for: its name for people, the positions of its tokens, whether it is of words.

    Args:
        subject: As in `Probe.word`.
        tokens: Those of the pass.

    Raises:
        InputError: if there is none; the message says what there is.
    """
    if isinstance(subject, (str, Word)):
        return _find_text(subject, tokens)
    if isinstance(subject, (list, tuple)) and subject and all(isinstance(x, (str, Word)) for x in subject):
        found = [find_word(word, tokens.words) for word in subject]
        positions = sorted({position for _, some in found for position in some})
        return ", ".join(dict.fromkeys(label for label, _ in found)), tuple(positions), True
    h, w = tokens.size
    if _is_whole(subject):
        position = checks.whole("the token", subject, 0, tokens.length - 1)
        return f"token {position}", (position,), position < tokens.end
    if isinstance(subject, tuple) and len(subject) == 2 and all(map(_is_whole, subject)):
        row = checks.whole("the patch's row", subject[0], 0, h - 1)
        column = checks.whole("the patch's column", subject[1], 0, w - 1)
        return f"patch ({row}, {column})", (tokens.text + row * w + column,), False
    if isinstance(subject, np.ndarray) and subject.ndim == 2:
        return _find_region(subject, tokens)
    raise InputError(
        f"there is no {reprlib.repr(subject)} to ask for; give a word of the prompt, 'PAD', 'end', 'image' "
        f"or 'words', a token's number in 0..{tokens.length - 1}, a patch (row, column) or a mask of shape "
        f"({h}, {w})"
    )


def _find_text(subject: str | Word, tokens: Tokens) -> tuple[str, tuple[int, ...], bool]:
    """Finds a word, else a group of tokens."""
    name = subject.strip().casefold() if isinstance(subject, str) else None
    is_word = any(_same(word.text, subject) for word in tokens.words)
    for (short, label), positions in zip(GROUPS.items(), tokens.groups, strict=True):
        if name == label.casefold() or (name == short and not is_word):
            if not positions:
                raise InputError(
                    f"there are no {label.removeprefix('all ')}: the prompt takes {tokens.end} of "
                    f"{tokens.text} text tokens, and one ends it"
                )
            return label, tuple(positions), False
    try:
        return (*find_word(subject, tokens.words), True)
    except InputError as error:
        raise InputError(
            f"{error}; instead of a word you can give 'PAD', 'end', 'image', 'words' or a token's number"
        ) from None


def _find_region(mask: np.ndarray, tokens: Tokens) -> tuple[str, tuple[int, ...], bool]:
    """Finds the image tokens of a mask."""
    if mask.dtype != bool or mask.shape != tokens.size or not mask.any():
        came = f"{np.count_nonzero(mask)} of them set" if mask.dtype == bool else f"type {mask.dtype}"
        raise InputError(
            f"the region has shape {mask.shape} and {came}; give booleans of shape {tokens.size}, one for "
            "each image token of 16 x 16 pixels, at least one of them True"
        )
    positions = tokens.text + np.flatnonzero(mask)
    return f"region of {len(positions)} patches", tuple(positions.tolist()), False


def _is_whole(value: object) -> bool:
    """Says whether a value is an integer."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


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
        there = ", ".join(repr(one.text) for one in words)
        told = f"its words are {there}" if words else "it has no words at all"
        raise InputError(f"the prompt has no word {getattr(word, 'text', word)!r}; {told}")
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
    """Returns "mean", "each" or the number of one of `count` heads.

    Raises:
        InputError: if it is none of these; the message says which there are.
    """
    if isinstance(heads, str) and heads in ("mean", "each"):
        return heads
    return checks.whole("heads", heads, 0, count - 1, other="'mean', 'each' or ")


def find_steps(steps: str | int | Iterable[int], count: int) -> tuple[int, ...]:
    """Returns the indices of the steps that are meant, in the order given.

    Args:
        steps: An index, -1 for the last one; several; or "all".
        count: How many have been made.

    Raises:
        InputError: if there is no such step; the message says which there are.
    """
    _some(count)
    if isinstance(steps, str):
        several = range(count) if steps == "all" else ()
    else:
        several = tuple(steps) if isinstance(steps, Iterable) else (steps,)
    if not several:
        raise InputError(f"step is {steps!r}, which is none; give an integer in 0..{count - 1} or 'all'")
    return tuple(find_step(step, count) for step in several)


def find_step(step: int, count: int) -> int:
    """Returns the index of a step; -1 is the last one.

    Raises:
        InputError: if there is no such step; the message says which there are.
    """
    _some(count)
    return checks.whole("step", step, -1, count - 1) % count


def _some(count: int) -> None:
    """Makes sure that there is a step."""
    if not count:
        raise InputError("the run has made no step yet; call advance() or finish()")
