"""The words and sizes that a model was taught, from a file in its folder, and what to say of others.

Knows nothing of networks or tokenizers. A model without such a file, as every FLUX.1, takes what it is given.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from fluxnb import checks
from fluxnb.checkpoints.files import read_json
from fluxnb.errors import CheckpointError, InputError

FILE = "vocabulary.json"
"""What it is called, in the folder above the transformer's."""

CLOSE = 0.75  # least likeness of two spellings, as difflib has it
LONG = 5  # letters of a word that is no noun or adjective, to be guessed from its spelling
TOLD = 5  # unknown words that are told of a prompt; suggestions of a word are at most three
EXAMPLES = 8  # objects that stand for all


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a model was taught.

    Attributes:
        objects: What it draws.
        plurals: What two of each are called, in the order of `objects`.
        colors: Of the ground.
        sizes: Words for the size of an object.
        places: Phrases for where an object stands.
        relations: Phrases between two objects.
        others: All other words of its captions.
        near: Words that it was not taught, and those nearest in meaning; () where spelling would mislead.
        most_objects: In one picture.
        sides: The shortest and the longest side of its pictures, pixels.
    """

    objects: tuple[str, ...]
    plurals: tuple[str, ...]
    colors: tuple[str, ...]
    sizes: tuple[str, ...]
    places: tuple[str, ...]
    relations: tuple[str, ...]
    others: tuple[str, ...]
    near: Mapping[str, tuple[str, ...]] = field(repr=False, hash=False)
    most_objects: int
    sides: tuple[int, int]

    @property
    def words(self) -> frozenset[str]:
        """Every single word, in small letters."""
        kinds = (
            self.objects,
            self.plurals,
            self.colors,
            self.sizes,
            self.places,
            self.relations,
            self.others,
        )
        return frozenset(word for kind in kinds for phrase in kind for word in phrase.split())

    def unknown(self, text: str) -> tuple[str, ...]:
        """Names the words of a text that it was not taught, in small letters, each once."""
        known = self.words
        return tuple(dict.fromkeys(word for word in split(text) if word not in known))

    def nearest(self, word: str) -> tuple[str, ...]:
        """Names up to three words that are near to one in meaning or, if none is known to be, in spelling."""
        if word in self.near:
            return self.near[word][:3]
        for ending, singular in (("ies", "y"), ("es", ""), ("s", "")):
            one = word.removesuffix(ending) + singular
            if word.endswith(ending) and one in self.near:
                many = dict(zip(self.objects, self.plurals, strict=True))
                return tuple(many.get(other, other) for other in self.near[one][:3])
        named = {*self.objects, *self.plurals, *self.colors, *self.sizes}
        likely = sorted(one for one in self.words if one in named or len(one) >= LONG)
        return tuple(difflib.get_close_matches(word, likely, 1, CLOSE))

    def notes_on_words(self, text: str) -> tuple[str, ...]:
        """Says which words of a text it was not taught and what is near to them, usually nothing."""
        unknown = self.unknown(text)
        if not unknown:
            return ()
        found = {word: self.nearest(word) for word in unknown[:TOLD]}
        told = [
            f"'{word[:30]}'" + (f" (try {' or '.join(near)})" if near else "") for word, near in found.items()
        ]
        if len(unknown) > TOLD:
            told.append(f"{len(unknown) - TOLD} more")
        draws = "" if all(found.values()) else f"; it draws {self._examples()}"
        return (f"this model was not taught {_listed(told)}{draws}; pipeline.vocabulary has all its words",)

    def notes(self, prompt: str) -> tuple[str, ...]:
        """Says what a prompt asks for that it was not taught, in sentences, usually none."""
        notes, words = self.notes_on_words(prompt), split(prompt)
        names, count = self._counted(words)
        if words and not notes and not names:
            notes = (f"the prompt names nothing that this model draws; it draws {self._examples()}",)
        if count > self.most_objects:
            notes += (
                f"the prompt names {count} objects ({', '.join(names)}), and this model was taught at most "
                f"{self.most_objects} in a picture: some may be missing or run into each other",
            )
        nouns = {*self.objects, *self.plurals}
        for before, word, noun in zip(["", *words], words, words[1:], strict=False):
            if word in self.colors and noun in nouns:
                notes += (
                    f"this model was taught colours of the ground only; for '{word} {noun}' try "
                    f"'{noun} on {word}'",
                )
            if word in self.sizes and self._is_two(before, noun):
                notes += (
                    f"this model was taught two of a kind without a size; for '{word} {noun}' try "
                    f"'two {noun}'",
                )
        return notes

    def notes_on_size(self, latent_size: tuple[int, int]) -> tuple[str, ...]:
        """Says that a picture of (H, W) latent cells of 8 pixels has sides that it was not taught, if so."""
        height, width = (8 * side for side in latent_size)
        shortest, longest = self.sides
        if shortest <= min(height, width) and max(height, width) <= longest:
            return ()
        return (
            f"this model was taught pictures of {shortest} to {longest} pixels a side; at {width} x {height} "
            "pixels objects may be misshapen or missing",
        )

    def _counted(self, words: list[str]) -> tuple[list[str], int]:
        """Names the objects of a prompt, and counts them; a plural is two."""
        names, count = [], 0
        for before, word in zip(["", *words], words, strict=False):
            is_two = self._is_two(before, word)
            if is_two or word in self.objects:
                names.append(word)
                count += 1 + is_two
        return names, count

    def _is_two(self, before: str, word: str) -> bool:
        """Tells whether a word, by the one before it, means two objects of a kind."""
        return word in self.plurals and (word not in self.objects or before == "two")

    def _examples(self) -> str:
        """Counts the objects and names some."""
        some = self.objects[:: max(1, len(self.objects) // EXAMPLES)][:EXAMPLES]
        more = ", ..." if len(some) < len(self.objects) else ""
        return f"{len(self.objects)} objects: {', '.join(some)}{more}"


def split(text: str) -> list[str]:
    """Splits a text into words in small letters and pictographs, each an emoji; punctuation is left out."""
    text = re.sub("['\u2019]s\\b", "", text.lower())
    parts = re.findall(r"[^\W_]+|[^\w\s]", text)
    return [one for one in parts if one[0].isalnum() or unicodedata.category(one) == "So"]


def read(transformer: Path) -> Vocabulary | None:
    """Reads the vocabulary in the folder of a model, None if there is none.

    Args:
        transformer: Folder of its transformer; a file has none.

    Raises:
        CheckpointError: It is there and is none.
    """
    path = transformer.parent / FILE
    if not transformer.is_dir() or not path.exists():
        return None
    try:
        return from_tree(read_json(path))
    except InputError as error:
        raise CheckpointError(f"{path}: {error}; delete it, or write it again") from error


def from_tree(tree: Mapping[str, object]) -> Vocabulary:
    """Makes a vocabulary of what JSON holds, `dataclasses.asdict` of one.

    Raises:
        InputError: A value is missing, unknown or of another kind.
    """
    names = {part.name for part in fields(Vocabulary)}
    if tree.keys() != names:
        raise InputError(
            f"a vocabulary has {', '.join(sorted(names))}, and this has {', '.join(sorted(tree))}"
        )
    values = dict(tree)
    near, most, sides = (values.pop(name) for name in ("near", "most_objects", "sides"))
    kinds = {name: _phrases(name, value) for name, value in values.items()}
    if len(kinds["plurals"]) != len(kinds["objects"]) or not kinds["objects"]:
        raise InputError(
            f"{len(kinds['objects'])} objects have {len(kinds['plurals'])} plurals; give one each"
        )
    if not isinstance(near, dict):
        raise InputError(f"near is {type(near).__name__}; give words and those near to them")
    if not isinstance(sides, (list, tuple)) or len(sides) != 2:
        raise InputError(f"sides is {sides!r}; give the shortest and the longest, in pixels")
    shortest = checks.whole("the shortest side", sides[0], 16)
    return Vocabulary(
        **kinds,
        near={checks.label("near", word): _phrases(word, words) for word, words in near.items()},
        most_objects=checks.whole("most_objects", most, 1),
        sides=(shortest, checks.whole("the longest side", sides[1], shortest)),
    )


def _phrases(name: str, value: object) -> tuple[str, ...]:
    """Checks a list of words or phrases."""
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} is a {type(value).__name__}; give a list of words")
    return tuple(checks.label(name, one) for one in value)


def _listed(parts: Iterable[str]) -> str:
    """Joins parts as a sentence does: "a, b and c"."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
