"""When was it decided: the first step at which another prompt comes too late; knows nothing of networks.

It is sought by halves, so a judge that changes its mind more than once between the first step and the last
is answered with one of these changes, not with all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from fluxnb import advice
from fluxnb.errors import InputError, PromptWarning

if TYPE_CHECKING:
    from fluxnb.run import Run

Judge = Callable[[Image.Image], object]
"""Looks at a picture and says what it sees in it, in anything that `==` compares."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One fork that was judged.

    Args:
        at: Steps before the swap of the prompt.
        verdict: What the judge said of its picture.
        changed: Whether that is other than what it says of the run's own picture.
        run: The fork, finished.
    """

    at: int
    verdict: object
    changed: bool
    run: Run


@dataclass(frozen=True, slots=True, eq=False)
class Bisection:
    """The step at which the picture is decided, as far as the judge can tell.

    Args:
        step: The first at which the swap changes nothing any more: 0 if it never does, the number of steps if
            even the last step alone is enough.
        sigma: Noise level at it.
        verdict: What the judge said of the run's own picture.
        trials: The forks, in the order in which they were made.
    """

    step: int
    sigma: float
    verdict: object
    trials: tuple[Trial, ...]


def bisect(run: Run, prompt: str, judge: Judge) -> Bisection:
    """Finds the first step from which on swapping the prompt no longer changes what the judge says.

    It assumes what holds for most questions: that a swap which comes too late at one step does so at each
    later one. It takes log2(steps) + 1 forks at most, rounded up, each from its step to the end.

    Args:
        run: Finished; of a fork only the steps that are its own are tried.
        prompt: In place of the run's.
        judge: Called with each picture; what it raises goes through.

    Raises:
        InputError: if the run is not finished, or the judge's answers cannot be compared.
    """
    if not run.done:
        raise InputError(
            f"{len(run.steps)} of {run.num_steps} steps are made, so there is no picture to judge; "
            "call finish() first"
        )
    if not callable(judge):
        raise InputError(f"judge is {judge!r}; give a function that takes a picture")
    verdict = judge(run.image())
    trials: list[Trial] = []

    def too_late(at: int) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptWarning)  # of all forks it is said once, at the end
            fork = run.fork(at, prompt=prompt)
        said = judge(fork.finish().image())
        trials.append(Trial(at, said, not _same(said, verdict), fork))
        return not trials[-1].changed

    low, high = run.at, run.num_steps  # the answer lies in low..high: after the last step nothing changes
    if low < high and too_late(low):
        high = low
    low += 1
    while low < high:
        middle = (low + high) // 2
        if too_late(middle):
            high = middle
        else:
            low = middle + 1
    if trials:
        advice.warn((note for note in trials[0].run.notes if note not in run.notes), depth=4)
    return Bisection(high, run.sigmas[high], verdict, tuple(trials))


def _same(a: object, b: object) -> bool:
    """Compares two verdicts."""
    try:
        return bool(a == b)
    except ValueError:  # of arrays, which numpy compares number by number
        raise InputError(
            f"the judge answers by a {type(a).__name__}, which == does not compare to one answer; "
            "return a number or a text"
        ) from None
