"""What is seen in a picture, and whether it is what a scene's caption says; knows nothing of networks.

The same rules mark real scenes, which tells how far the judge is right, and generated pictures.
Lengths are in image tokens (16 px) from the upper left corner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fluxnb.training.scenes import TOKEN, Scene

SMALL, BIG = 3.5, 5.0  # tokens: below one, and from the other on, a sprite alone is small, big
APART = 0.75  # tokens: how far off the middle a place begins
BEYOND = 1.0  # tokens: how far one object's centre is beyond the other's, at least
BIGGER = 0.5  # tokens: how much longer the side of the bigger of two is, at least

QUESTIONS = {
    "object": "right object, one object",
    "both": "both objects right, two objects",
    "two": "two of a kind where two are asked for",
    "exact": "all that is asked for and nothing else",
    "ground": "right ground, where named",
    "relation": "right relation, where named",
    "size": "right size, one object, where named",
    "normal": "middle size, one object, where none is named",
    "bigger": "the right one of two is bigger",
    "place": "right place, where named",
}
"""What a picture is asked, with its line in reports."""


@dataclass(frozen=True, slots=True)
class Found:
    """One object in a picture.

    Args:
        name: Its word.
        x: Centre of its box from the left, tokens.
        y: Centre of its box from the top, tokens.
        side: Of its box, tokens.
        chance: Of the cell that shows it best, 0..1.
    """

    name: str
    x: float
    y: float
    side: float
    chance: float

    def covers(self, x: float, y: float) -> bool:
        """Whether a point, in tokens, lies in its box."""
        return max(abs(x - self.x), abs(y - self.y)) < self.side / 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge sees in one picture.

    Args:
        found: What stands there, by falling chance.
        ground: Colour of the ground.
    """

    found: tuple[Found, ...]
    ground: str

    def first(self, name: str) -> Found | None:
        """The most certain object of a word."""
        return next((one for one in self.found if one.name == name), None)

    def names(self, count: int) -> set[str]:
        """The words of the most certain objects, at most `count`."""
        return set(list(dict.fromkeys(one.name for one in self.found))[:count])


def marks(scene: Scene, verdict: Verdict) -> dict[str, bool]:
    """Whether a picture is right, by those of `QUESTIONS` that the scene's caption answers.

    Relation, size and place are asked whatever else is right: an object that is not there has none.
    """
    names = [sprite.name for sprite in scene.sprites]
    asked, found = Counter(names), Counter(one.name for one in verdict.found)
    there = [verdict.first(name) for name in names]
    made = {"exact": found == asked}
    if scene.says_color:
        made["ground"] = verdict.ground == scene.color
    if scene.relation == "two":
        return made | {"two": found[names[0]] == 2}
    if scene.relation:
        made["both"] = verdict.names(2) == set(names)
    else:
        made["object"] = verdict.names(1) == set(names)
        size = scene.sprites[0].size
        made["size" if size else "normal"] = there[0] is not None and size_word(there[0].side) == size
        if scene.place:
            made["place"] = there[0] is not None and stands(scene, there[0])
    if scene.relation in ("left", "above"):
        made["relation"] = None not in there and goes_before(scene.relation, *there)
    if len({sprite.size for sprite in scene.sprites}) == 2:
        # Which of two is to be bigger: "small" before none before "big".
        first, second = (["small", "", "big"].index(sprite.size) for sprite in scene.sprites)
        made["bigger"] = None not in there and is_bigger(*(there if first > second else there[::-1]))
    return made


def answers(made: Sequence[Scene], verdicts: Sequence[Verdict]) -> dict[str, list[bool]]:
    """Whether pictures are right, by question, of those scenes whose captions answer it."""
    given = [marks(scene, one) for scene, one in zip(made, verdicts, strict=True)]
    found = {name: [one[name] for one in given if name in one] for name in QUESTIONS}
    return {name: right for name, right in found.items() if right}


def size_word(side: float) -> str:
    """The size word of one object alone by the side of its box in tokens, "" for the middle size."""
    return "small" if side < SMALL else "big" if side >= BIG else ""


def stands(scene: Scene, one: Found) -> bool:
    """Whether an object is at the scene's place."""
    across, down = one.x - scene.width / TOKEN / 2, one.y - scene.height / TOKEN / 2
    if scene.place == "middle":
        return max(abs(across), abs(down)) < APART
    return {"left": -across, "right": across, "top": -down, "bottom": down}[scene.place] >= APART


def goes_before(relation: str, first: Found, second: Found) -> bool:
    """Whether `first` is to the "left" of `second`, or "above" it."""
    return (second.x - first.x if relation == "left" else second.y - first.y) >= BEYOND


def is_bigger(first: Found, second: Found) -> bool:
    """Whether `first` is bigger than `second`."""
    return first.side - second.side >= BIGGER
