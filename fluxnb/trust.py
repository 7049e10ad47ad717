"""How far a map can be trusted: what `training.trust` measured on the demo model; knows nothing of networks.

    trust.lookup("image_to_word", "double", sigma=0.5)

The figures are read from `demo/trust.json` when they are first asked for. `demo/RECIPE.md` says how they were
measured and what else was found.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

RESULTS = Path(__file__).with_name("demo") / "trust.json"

NAMES = {"image_to_word": "columns", "word_to_image": "rows", "concepts": "concept maps"}
"""Every method that was measured, and what its maps are called."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How well maps of one kind find the objects of their words, measured on the demo model.

    The network was as it is, without an intervention, and concepts were the scene's objects and "background".
    A map says where, not whether: see `absent_word`.

    Args:
        method: "image_to_word", "word_to_image" or "concepts"; the mean over all heads.
        blocks: "double", "single", "all"; "later", the later half of the double blocks, as concept maps take
            it; or the number of one block of the demo model, as text.
        sigma: Noise level of the measurement.
        average_precision: 0..1, the mean over objects, with a map for each object's word and its exact mask.
        interval: Where it lies in 95 of 100 such measurements, (low, high).
        untrained: The same figure for networks with random weights.
        absent_word: The same for the word of an object that is not in the picture, put into the caption in
            place of the one that is: how well its map finds that one.
        other_word: The same for the map of the other object's word, in scenes of two.
        text_only: The same for columns from a softmax over the text tokens alone; None for other methods.
        noise: The same for random numbers.
        scenes: How many.
        model: Name of the model that was measured.
    """

    method: str
    blocks: str
    sigma: float
    average_precision: float
    interval: tuple[float, float]
    untrained: float
    absent_word: float
    other_word: float
    text_only: float | None
    noise: float
    scenes: int
    model: str

    def __str__(self) -> str:
        """Says it in a sentence, and on which model it was measured."""
        where = f"block {self.blocks}" if self.blocks.isdigit() else f"{self.blocks} blocks"
        where = "the later double blocks" if self.blocks == "later" else where
        low, high = self.interval
        of_text = "" if self.text_only is None else f"a softmax over the text alone {self.text_only:.2f}, "
        return (
            f"On {self.scenes} scenes with exact masks, {NAMES[self.method]} of {where} at sigma "
            f"{self.sigma:g} found the word's object with an average precision of "
            f"{self.average_precision:.2f} ({low:.2f} to {high:.2f}). Controls: the word of an absent object "
            f"got {self.absent_word:.2f} for the one in its place, the other object's word "
            f"{self.other_word:.2f}, {of_text}an untrained network {self.untrained:.2f}, noise "
            f"{self.noise:.2f}. Measured on {self.model} and no other model."
        )


def lookup(
    method: str, blocks: str | tuple[int, ...], sigma: float, depth: tuple[int, int] | None = None
) -> Trust | None:
    """Returns what was measured for maps of one kind, at the nearest sigma; None if nothing was.

    Args:
        method: See `Trust`.
        blocks: A group's name as in `Trust`, or the numbers of the blocks that a map is the mean of.
        sigma: Noise level of the step, 0..1.
        depth: Numbers of double and of single blocks of the network that `blocks` are from; None for the demo
            model. A single block of another network has no figure: it has no counterpart here.
    """
    known, own_depth = _read()
    groups = (blocks,) if isinstance(blocks, str) else _groups(tuple(blocks), depth or own_depth, own_depth)
    found = [one for one in known if one.method == method and one.blocks in groups]
    return min(found, key=lambda one: (abs(one.sigma - sigma), groups.index(one.blocks)), default=None)


def measured() -> tuple[Trust, ...]:
    """Returns every figure there is."""
    return _read()[0]


@lru_cache(maxsize=1)
def _read() -> tuple[tuple[Trust, ...], tuple[int, int]]:
    """Reads the results: every figure, and the numbers of the demo model's double and single blocks."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    known = tuple(
        Trust(
            one["method"],
            one["blocks"],
            one["sigma"],
            one["average_precision"][0],
            tuple(one["average_precision"][1:]),
            *(
                one["controls"][name][0] if name in one["controls"] else None
                for name in ("untrained", "absent_word", "other_word", "text_only")
            ),
            results["noise"][0],
            results["scenes"],
            results["model"],
        )
        for one in results["maps"]
    )
    return known, tuple(results["depth"])


def _groups(blocks: tuple[int, ...], depth: tuple[int, int], own_depth: tuple[int, int]) -> tuple[str, ...]:
    """Returns the names that some blocks have, or none."""
    double, both = depth[0], sum(depth)
    named = {
        "double": range(double),
        "single": range(double, both),
        "all": range(both),
        "later": range(double // 2, double),
    }
    names = [name for name, group in named.items() if blocks and blocks == tuple(group)]
    if len(blocks) == 1 and depth == own_depth:
        names.append(str(blocks[0]))
    return tuple(names)
