"""Interventions: what is altered in the network, in which steps and blocks, as frozen records; knows no runs.

    cut("cat") + cut("PAD")                          nobody can read the word, nor the padding
    scale("dog", 2, steps=(0, 5), blocks="double")   twice the weight, before the weights are made to sum to 1
    swap("cat", "dog")                               who looks for the one is told the other
    cut_head(layer=3, head=1) + cut_block(layer=4)   a head, or a whole block, contributes nothing

They add up by `+`, can be compared, hashed and saved as JSON, and act through the attention function of the
blocks (`altered`), but for a block that is cut: the network goes on without it (`model.mmdit.without`). With
CFG they act on the pass with the prompt. One that changes nothing leaves the velocity the same bit for bit.

A word that is cut is not a word that was never written: T5 has mixed it into its neighbours before the
network begins, and CLIP's vector knows it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from fluxnb import checks
from fluxnb.altered import AddToScores, Altered, Edit, Silence, SwapValues
from fluxnb.errors import InputError
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import Attend, attention
from fluxnb.model.tokenizers import Word
from fluxnb.probe import Tokens, find_blocks, find_subject, find_word

QUERIES = ("all", "image")
"""Who reads a word: every token, or the image tokens alone."""

Steps = tuple[int, int] | None
Blocks = str | tuple[int, ...]
Subject = str | Word | int


@dataclass(frozen=True, slots=True)
class Scale:
    """Tokens whose weight is multiplied: see `scale`, and `cut` for factor 0."""

    word: Subject
    factor: float
    steps: Steps
    blocks: Blocks
    queries: str


@dataclass(frozen=True, slots=True)
class Swap:
    """Two words whose values change places: see `swap`."""

    word_a: str | Word
    word_b: str | Word
    steps: Steps
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class CutHead:
    """A head that contributes nothing: see `cut_head`."""

    layer: int
    head: int
    steps: Steps


@dataclass(frozen=True, slots=True)
class CutBlock:
    """A block that contributes nothing: see `cut_block`."""

    layer: int
    steps: Steps


Change = Scale | Swap | CutHead | CutBlock


@dataclass(frozen=True, slots=True, repr=False)
class Intervention:
    """Changes that act together; made by `cut`, `scale`, `swap`, `cut_head` and `cut_block`, joined by `+`.

    Args:
        changes: Swaps happen in their order; for the others it does not matter.
    """

    changes: tuple[Change, ...] = ()

    def __add__(self, other: Intervention) -> Intervention:
        """Returns both together."""
        return (
            Intervention(self.changes + other.changes) if isinstance(other, Intervention) else NotImplemented
        )

    def __repr__(self) -> str:
        """Spells the calls that make it."""
        return " + ".join(map(_spell, self.changes)) or "Intervention()"

    @property
    def words(self) -> tuple[Subject, ...]:
        """The words, groups and positions that it speaks of, in its order."""
        return tuple(
            argument
            for change in self.changes
            for name, argument in _call(change)[1].items()
            if name.startswith("word")
        )

    def to_json(self) -> str:
        """Writes it as JSON: a list with one object a change."""
        calls = map(_call, self.changes)
        return json.dumps([{"kind": name, **arguments} for name, arguments in calls], default=asdict)

    @classmethod
    def from_json(cls, text: str) -> Intervention:
        """Reads what `to_json` wrote.

        Raises:
            InputError: if it is no such text, or speaks of what cannot be.
        """
        made = cls()
        try:
            for saved in json.loads(text):
                arguments = {name: _read_word(value) for name, value in saved.items() if name != "kind"}
                made = made + MAKERS[saved["kind"]](**arguments)
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"this is no saved intervention ({error!r}); give the text that to_json() returned"
            ) from None
        return made

    def check(self, tokens: Tokens, config: MMDiTConfig, num_steps: int, first: int = 0) -> None:
        """Makes sure that everything it speaks of exists.

        Args:
            tokens: Those of a pass with the prompt.
            config: Sizes of the network.
            num_steps: Steps of the whole run.
            first: The first step that can still be changed.

        Raises:
            InputError: if there is no such word, block, head or step; the message says what there is.
        """
        if self.changes and first >= num_steps:
            raise InputError(f"no step is left for {self} after all {num_steps}; fork at an earlier step")
        for change in self.changes:
            _edit(change, tokens, config)
            start, stop = change.steps or (first, num_steps)
            if not first < stop <= num_steps:
                raise InputError(
                    f"{_spell(change)} is for steps {start} to {stop - 1}, but there are {first} to "
                    f"{num_steps - 1}; give steps=(a, b) with b in {first + 1}..{num_steps}"
                )

    def acts_on(self, step: int) -> bool:
        """Says whether any of it is meant for a step."""
        return any(_meant_for(change, step) for change in self.changes)

    def left_at(self, step: int) -> Intervention:
        """Returns what of it is meant for a step or a later one."""
        return Intervention(
            tuple(change for change in self.changes if change.steps is None or step < change.steps[1])
        )

    def at(self, step: int, tokens: Tokens, config: MMDiTConfig) -> tuple[Attend, frozenset[int]]:
        """Returns what it does in a step: the attention function, and the blocks to go without.

        Args:
            step: Index of the step.
            tokens: Those of a pass with the prompt.
            config: Sizes of the network.

        Returns:
            `model.layers.attention` itself where no attention is altered.

        Raises:
            InputError: if there is no such word, block or head.
        """
        here = [change for change in self.changes if _meant_for(change, step)]
        found = [_edit(change, tokens, config) for change in here]
        edits = tuple(edit for edit in found if edit is not None)
        without = frozenset(change.layer for change in here if isinstance(change, CutBlock))
        return (Altered(edits, tokens.text) if edits else attention), without


def cut(word: Subject, *, steps: Steps = None, blocks: object = "all", queries: str = "all") -> Intervention:
    """Makes a word unreadable: its keys get the score -inf, and the others share its weight in proportion.

    Args:
        word: A word of the prompt, all its tokens wherever it occurs; one of `run.words` for one place. Or
            a group of tokens, "PAD", "end", "image" or "words", named as for `run.attention`; or the number
            of a token, text first.
        steps: (a, b): from step a up to but without step b, as in `run.steps[a:b]`; None for all.
        blocks: "all", "double" or "single", the number of one block, or several.
        queries: "all": no token reads the word. "image": the image tokens do not, but the other text tokens
            do, and the image reads those.

    Raises:
        InputError: if an argument is none that could be meant.
    """
    return scale(word, 0.0, steps=steps, blocks=blocks, queries=queries)


def scale(
    word: Subject, factor: float, *, steps: Steps = None, blocks: object = "all", queries: str = "all"
) -> Intervention:
    """Multiplies the weight on a word by a factor, before the weights are made to sum to 1.

    It adds log(factor) to the scores of the word's keys: where they had the weight w, they get
    w factor / (1 - w + w factor).

    Args:
        word: As for `cut`, and so for the arguments after the factor.
        factor: At least 0; 0 cuts the word, 1 changes nothing.
        steps: (a, b) or None.
        blocks: A group, a number, or several.
        queries: "all" or "image".

    Raises:
        InputError: if an argument is none that could be meant.
    """
    factor = checks.number("factor", factor, low=0)
    checks.choice("queries", queries, QUERIES)
    return Intervention((Scale(_subject(word), factor, _steps(steps), _blocks(blocks), queries),))


def swap(
    word_a: str | Word, word_b: str | Word, *, steps: Steps = None, blocks: object = "all"
) -> Intervention:
    """Swaps the values of two words: who looks for the one finds it in its place, and is told the other.

    The keys stay. Were they swapped as well, nothing would change: attention does not know in which order
    its pairs of key and value come. Words with as many tokens swap them one by one; else each token gets the
    mean of the other word's values.

    Args:
        word_a: As for `cut`, and so for `steps` and `blocks`.
        word_b: Another word.
        steps: (a, b) or None.
        blocks: A group, a number, or several.

    Raises:
        InputError: if an argument is none that could be meant.
    """
    return Intervention((Swap(_word(word_a), _word(word_b), _steps(steps), _blocks(blocks)),))


def cut_head(layer: int, head: int, *, steps: Steps = None) -> Intervention:
    """Silences a head: what it mixed is 0 for every token.

    Args:
        layer: Number of the block, double blocks first.
        head: Number of the head.
        steps: As for `cut`.

    Raises:
        InputError: if an argument is none that could be meant.
    """
    layer, head = checks.whole("layer", layer, low=0), checks.whole("head", head, low=0)
    return Intervention((CutHead(layer, head, _steps(steps)),))


def cut_block(layer: int, *, steps: Steps = None) -> Intervention:
    """Goes without a block, attention and MLPs: the streams pass it as they came.

    Args:
        layer: Number of the block, double blocks first.
        steps: As for `cut`.

    Raises:
        InputError: if an argument is none that could be meant.
    """
    return Intervention((CutBlock(checks.whole("layer", layer, low=0), _steps(steps)),))


def expect(intervention: object) -> Intervention:
    """Returns an intervention as it is.

    Raises:
        InputError: if it is something else.
    """
    if not isinstance(intervention, Intervention):
        raise InputError(f"intervention is {intervention!r}; give one, e.g. fluxnb.interventions.cut('cat')")
    return intervention


MAKERS = {maker.__name__: maker for maker in (cut, cut_block, cut_head, scale, swap)}
NAMES = {Scale: "scale", Swap: "swap", CutHead: "cut_head", CutBlock: "cut_block"}
DEFAULTS = {"steps": None, "blocks": "all", "queries": "all"}


def _edit(change: Change, tokens: Tokens, config: MMDiTConfig) -> Edit | None:
    """Finds the blocks, heads and tokens of a change; None if it leaves all attention as it is.

    Raises:
        InputError: if there is no such thing; the message says what there is.
    """
    blocks = change.layer if isinstance(change, CutHead | CutBlock) else change.blocks
    layers = frozenset(find_blocks(blocks, config.depth, config.depth_single))
    if isinstance(change, CutBlock):
        return None
    if isinstance(change, CutHead):
        return Silence(layers, checks.whole("head", change.head, 0, config.heads - 1))
    if isinstance(change, Scale):
        keys = find_subject(change.word, tokens)[1]
        added = math.log(change.factor) if change.factor else -math.inf
        return AddToScores(layers, keys, added, change.queries == "image") if added else None
    a, b = (find_word(word, tokens.words)[1] for word in (change.word_a, change.word_b))
    if set(a) & set(b):
        raise InputError(f"{_spell(change)} names the same word twice; give two different words")
    return SwapValues(layers, a, b)


def _meant_for(change: Change, step: int) -> bool:
    """Says whether a change is meant for a step."""
    return change.steps is None or change.steps[0] <= step < change.steps[1]


def _word(word: object) -> str | Word:
    """Returns a word as it was given, if it is one."""
    return word if isinstance(word, Word) else checks.text("the word", word)


def _subject(word: object) -> Subject:
    """Returns a word, the name of a group or the number of a token as it was given, if it is one."""
    if isinstance(word, str | Word):
        return _word(word)
    return checks.whole("the word", word, low=0, other="a word of the prompt, 'PAD', 'end' or ")


def _read_word(value: object) -> object:
    """Returns the `Word` that JSON has as an object, and anything else as it is."""
    return Word(value["text"], tuple(value["tokens"])) if isinstance(value, dict) else value


def _steps(steps: object) -> Steps:
    """Returns (a, b) with 0 <= a < b, or None."""
    if steps is None:
        return None
    try:
        start, stop = steps
    except (TypeError, ValueError):
        raise InputError(
            f"steps is {steps!r}; give (a, b): from step a up to but without step b, or None for all"
        ) from None
    start = checks.whole("the first of steps", start, low=0)
    return start, checks.whole("the end of steps", stop, low=start + 1)


def _blocks(blocks: object) -> Blocks:
    """Returns the name of a group, or numbers that rise."""
    if isinstance(blocks, str):
        return checks.choice("blocks", blocks, ("all", "double", "single"))
    numbers = blocks if isinstance(blocks, Iterable) else (blocks,)
    return tuple(sorted({checks.whole("a block", block, low=0) for block in numbers}))


def _call(change: Change) -> tuple[str, dict]:
    """Returns the name of the function that makes a change, and its arguments."""
    arguments = {field.name: getattr(change, field.name) for field in fields(change)}
    if isinstance(change, Scale) and change.factor == 0:
        del arguments["factor"]
        return "cut", arguments
    return NAMES[type(change)], arguments


def _spell(change: Change) -> str:
    """Spells the call that makes a change; what is as by default is left out."""
    name, arguments = _call(change)
    given = [
        f"{key}={value!r}" if key in DEFAULTS else repr(value)
        for key, value in arguments.items()
        if key not in DEFAULTS or value != DEFAULTS[key]
    ]
    return f"{name}({', '.join(given)})"
