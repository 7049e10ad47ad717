"""Figures with goals, intervals and counts, as lines and as tables; knows nothing of what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from fluxnb import disk
from fluxnb.training.scoring import bootstrap


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured.

    Args:
        part: Heading that it stands under.
        what: What it is.
        value: In `unit`.
        unit: "%", "points", "dB", "MB", "ms", or "" for a number.
        interval: Where it lies in 95 of 100 such measurements, (low, high); None if that is not known.
        count: How many pictures, scenes or passes it rests on; None for a fact.
        least: Goal, at least.
        most: Goal, at most.
    """

    part: str
    what: str
    value: float
    unit: str = "%"
    interval: tuple[float, float] | None = None
    count: int | None = None
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    def cells(self) -> tuple[str, str, str, str, str]:
        """What, goal, measured, interval and count, as text."""
        goals = [
            f"at {word} {self._spell(goal)}"
            for word, goal in (("least", self.least), ("most", self.most))
            if goal is not None
        ]
        between = ""
        if self.interval:
            low, high = self.interval
            between = f"{self._spell(low).removesuffix(self.unit).rstrip()} to {self._spell(high)}"
        count = "" if self.count is None else f"{self.count:,}"
        missed = " (missed)" if self.met is False else ""
        return self.what, ", ".join(goals), self._spell(self.value) + missed, between, count

    def _spell(self, value: float) -> str:
        """A value with its unit."""
        if not self.unit:
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
        return f"{value:.1f} {self.unit}"


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share, 0..1."""
    z, p = 1.96, right / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (p * (1 - p) / count + z**2 / (4 * count**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def share(part: str, what: str, right: Sequence[bool], least: float | None = None) -> Figure:
    """The share of answers that are right, of one at least, with its Wilson interval."""
    low, high = (100 * end for end in wilson(sum(right), len(right)))
    return Figure(part, what, 100 * float(np.mean(right)), "%", (low, high), len(right), least)


def average(part: str, what: str, values: Sequence[float], unit: str, **goal: float | None) -> Figure:
    """The mean of measurements that are independent of one another, with its bootstrap interval."""
    mean, low, high = map(float, bootstrap(np.arange(len(values)), np.array(values, float))[0])
    return Figure(part, what, mean, unit, (low, high), len(values), **goal)


def paired(part: str, what: str, one: Sequence[bool], other: Sequence[bool], **goal: float | None) -> Figure:
    """By how many points more of `one` is right than of `other`, answers to the same prompts in order."""
    gains = [100 * (a - b) for a, b in zip(map(int, one), map(int, other), strict=True)]
    return average(part, what, gains, "points", **goal)


def gap(part: str, what: str, one: Sequence[bool], other: Sequence[bool], **goal: float | None) -> Figure:
    """By how many points more of `one` is right than of `other`, on other prompts.

    The interval is Newcombe's from two Wilson intervals (1998, method 10).
    """
    p, q = float(np.mean(one)), float(np.mean(other))
    (p_low, p_high), (q_low, q_high) = (wilson(sum(right), len(right)) for right in (one, other))
    low = p - q - ((p - p_low) ** 2 + (q_high - q) ** 2) ** 0.5
    high = p - q + ((p_high - p) ** 2 + (q - q_low) ** 2) ** 0.5
    count = min(len(one), len(other))
    return Figure(part, what, 100 * (p - q), "points", (100 * low, 100 * high), count, **goal)


def line(figure: Figure) -> str:
    """A figure for the screen."""
    what, goal, measured, between, count = figure.cells()
    return f"{what:<58} {measured:>20}   {between:<22} {'n = ' + count if count else '':<10} {goal}".rstrip()


def markdown(figures: Sequence[Figure]) -> str:
    """Figures as tables in Markdown, one a part."""
    head = ["| what | goal | measured | 95 % interval | n |", "| --- | --- | --- | --- | --- |"]
    parts = []
    for part, group in groupby(figures, key=lambda figure: figure.part):
        parts.append("\n".join([f"{part}:\n", *head, *(f"| {' | '.join(one.cells())} |" for one in group)]))
    return "\n\n".join(parts)


def write(path: Path, figures: Sequence[Figure], notes: Sequence[str]) -> None:
    """Write figures and notes to a file: as JSON if its name ends so, else as Markdown."""
    if path.suffix == ".json":
        records = [asdict(figure) | {"met": figure.met} for figure in figures]
        text = json.dumps({"figures": records, "notes": list(notes)}, indent=1)
    else:
        text = "\n\n".join([markdown(figures), *notes])
    disk.write(path, text.encode() + b"\n")
