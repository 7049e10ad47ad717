"""What a run can be asked about its way and its family; each answer is made in a module of its own.

Knows nothing of how steps are made.
"""

from __future__ import annotations

from fluxnb import bisection, family
from fluxnb.bisection import Bisection, Judge
from fluxnb.family import Tree


class Questions:
    """The base of `fluxnb.run.Run`, which asks itself."""

    def tree(self) -> Tree:
        """Returns the whole family of the run, from its root; `print` draws it."""
        return family.tree(self)

    def bisect(self, prompt_b: str, judge: Judge) -> Bisection:
        """Finds the step from which on swapping the prompt no longer changes what the judge says.

        See `fluxnb.bisection.bisect` for what that assumes; it makes about log2(steps) forks.

        Args:
            prompt_b: In place of the run's prompt.
            judge: Takes a picture, says what it sees, in anything that `==` compares.

        Raises:
            InputError: if the run is not finished, or the judge's answers cannot be compared.
        """
        return bisection.bisect(self, prompt_b, judge)
