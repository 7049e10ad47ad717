"""Shares of right pictures of prompts, as the judge sees them: by kind of prompt, and by way of drawing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fluxnb.checkpoints.catalog import Entry
from fluxnb.training import figures, judge, prompts
from fluxnb.training.drawn import Draw, Order
from fluxnb.training.figures import Figure
from fluxnb.training.scenes import CANVASES, SIZE, Scene
from fluxnb.training.verdicts import QUESTIONS, Verdict, answers, marks

CELL = 8  # pixels to a latent cell
OBJECTS = ("object", "both", "two")  # of `QUESTIONS`, those for the right objects; each scene has one
GOALS = {"object": 98, "both": 95, "ground": 99, "relation": 95, "size": 95, "place": 95}  # percent
JUDGE_GOAL = 99  # percent
HELD_OUT_GAP = 3  # points
SAID = {
    "left": "left of, right of", "above": "above, below", "beside": "next to", "and": "and",
}  # fmt: skip
"""How reports name the relations of two different objects."""
WAYS = (
    ("50 steps", {"num_steps": 50}, None, -1),
    ("8 steps", {"num_steps": 8}, 95, None),
    ("no CFG", {"cfg_weight": 0.0}, None, 0),
)
"""What is tried, its options, and two goals: percent of right objects, points that the usual way gains."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures of prompts, the seeds of their noise, and what the judge sees in them, in the same order."""

    scenes: tuple[Scene, ...]
    seeds: tuple[int, ...]
    pictures: np.ndarray
    verdicts: tuple[Verdict, ...]

    def first(self, count: int) -> Seen:
        """The first of them."""
        return Seen(self.scenes[:count], self.seeds[:count], self.pictures[:count], self.verdicts[:count])

    def and_then(self, other: Seen) -> Seen:
        """These and others of the same size."""
        pictures = np.concatenate([self.pictures, other.pictures])
        return Seen(
            self.scenes + other.scenes, self.seeds + other.seeds, pictures, self.verdicts + other.verdicts
        )

    def marks(self) -> list[dict[str, bool]]:
        """Whether each picture is right, by question."""
        return [marks(scene, one) for scene, one in zip(self.scenes, self.verdicts, strict=True)]

    def right(self, *questions: str) -> list[bool]:
        """Whether all that is asked of these questions is right, for each scene of which any is asked."""
        asked = [[one[name] for name in questions if name in one] for one in self.marks()]
        return [all(one) for one in asked if one]


@dataclass(frozen=True, slots=True)
class Examiner:
    """Has scenes' captions drawn and judges the pictures."""

    draw: Draw
    model: judge.Judge

    def ask(self, made: Sequence[Scene], seeds: Sequence[int] | None = None, **options: object) -> Seen:
        """What comes of scenes of one size, the n-th with seed n if no others are given.

        `options` are those of `Order`.
        """
        seeds = tuple(range(len(made)) if seeds is None else seeds)
        width, height = made[0].width, made[0].height
        if (width, height) != (SIZE, SIZE):
            options |= {"latent_size": (height // CELL, width // CELL)}
        orders = [Order(scene.caption, seed, **options) for scene, seed in zip(made, seeds, strict=True)]
        pictures = self.draw(orders)
        return Seen(tuple(made), seeds, pictures, tuple(judge.judge_pictures(self.model, pictures)))


def judged(model: judge.Judge, count: int) -> list[Figure]:
    """How far the judge itself is right, on real scenes."""
    return [
        figures.share("The judge on real scenes", QUESTIONS[name], right, JUDGE_GOAL)
        for name, right in judge.accuracy(model, count).items()
    ]


def pictures_of(usual: Seen, twins: Seen) -> list[Figure]:
    """Shares of right pictures; those of `twins` count only where two of a kind are asked for."""
    asked = answers(usual.scenes, usual.verdicts)
    asked["two"] = usual.right("two") + twins.right("two")
    return [
        figures.share("Pictures", words, asked[name], GOALS.get(name))
        for name, words in QUESTIONS.items()
        if name in asked
    ]


def by_relation(pairs: Seen) -> list[Figure]:
    """Shares of pictures with both objects, in the relation if one is named, by what is said of them."""
    asked = [(scene.relation, one) for scene, one in zip(pairs.scenes, pairs.marks(), strict=True)]
    return [
        figures.share("Two objects, by what is said of them", words, told)
        for name, words in SAID.items()
        if (told := [one["both"] and one.get("relation", True) for said, one in asked if said == name])
    ]


def held_out(singles: Seen, pairs: Seen, held_grounds: Seen, held_pairs: Seen) -> list[Figure]:
    """Shares of right pictures of pairs that training never shows, beside those that it shows."""
    part, made = "Held-out pairs", []
    both = singles.right("object", "ground")
    grounds = [right for scene, right in zip(singles.scenes, both, strict=True) if scene.says_color]
    for what, shown, hidden in (
        ("object and ground", grounds, held_grounds.right("object", "ground")),
        ("both objects", pairs.right("both"), held_pairs.right("both")),
    ):
        made += [
            figures.share(part, f"{what} right, pairs that training shows", shown),
            figures.share(part, f"{what} right, held-out pairs", hidden),
            figures.gap(part, f"{what}: shown less held-out", shown, hidden, most=HELD_OUT_GAP),
        ]
    return made


def ways(examiner: Examiner, usual: Seen, entry: Entry) -> list[Figure]:
    """What other numbers of steps, and no CFG, make of the same prompts with the same noise.

    Args:
        examiner: Draws.
        usual: Pictures drawn as the model has it.
        entry: How that is.
    """
    part = "Steps and CFG, the same prompts with the same noise"
    named, as_usual = f"{entry.num_steps} steps, CFG {entry.cfg_weight:g}", usual.right(*OBJECTS)
    made = [figures.share(part, f"right objects, {named}", as_usual)]
    for what, options, goal, least in WAYS:
        if options == {"cfg_weight": entry.cfg_weight}:
            continue
        other = examiner.ask(usual.scenes, usual.seeds, **options)
        right = other.right(*OBJECTS)
        pairs = zip(usual.pictures, other.pictures, strict=True)
        made += [
            figures.share(part, f"right objects, {what}", right, goal),
            figures.paired(part, f"right objects, {named} less {what}", as_usual, right, least=least),
            figures.average(part, f"{what} against {named}, PSNR", [decibels(*pair) for pair in pairs], "dB"),
        ]
    return made


def sizes(examiner: Examiner, count: int, reference: int) -> list[Figure]:
    """Shares of right objects on other canvases, and of the judge on real scenes of them."""
    part, made = "Other sizes", []
    for i, (width, height) in enumerate(CANVASES):
        name = f"{width} x {height} px"
        seen = examiner.ask(prompts.seen(count, 0.5, 10 + i, (width, height)))
        real = judge.accuracy(examiner.model, reference, (width, height))
        told = [right for question in OBJECTS for right in real.get(question, [])]
        made += [
            figures.share(part, f"right objects, {name}", seen.right(*OBJECTS)),
            figures.share(part, f"the judge on real scenes, {name}", told, JUDGE_GOAL),
        ]
    return made


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """The PSNR of two pictures, uint8; 100 for the same."""
    error = np.square(one.astype(np.float64) - other).mean()
    return float(10 * np.log10(255**2 / error)) if error else 100.0


def most_missed(seen: Seen, most: int = 12) -> str:
    """The objects missed in the largest shares of the prompts for them, and what was drawn in their place."""
    asked, missed, taken = Counter(), Counter(), defaultdict(Counter)
    for scene, verdict in zip(seen.scenes, seen.verdicts, strict=True):
        names = {sprite.name for sprite in scene.sprites}
        drawn = verdict.names(len(names))
        asked.update(names)
        missed.update(names - drawn)
        for name in names - drawn:
            taken[name].update(sorted(drawn - names))
    told = []
    for name in sorted(missed, key=lambda name: (-missed[name] / asked[name], name))[:most]:
        others = ", ".join(other for other, _ in taken[name].most_common(3)) or "nothing"
        told.append(f"{name} {missed[name]} of {asked[name]} ({others})")
    return f"Most missed, with what was seen in their place: {'; '.join(told) or 'none'}."
