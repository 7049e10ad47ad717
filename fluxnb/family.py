"""The runs of a family: which branched off from which, where, and what changed; knows nothing of networks."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fluxnb.settings import Settings

if TYPE_CHECKING:
    from fluxnb.run import Run

LONGEST = 60  # characters of a prompt


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One run in its family.

    Args:
        run: The run.
        parent: Place of its parent in `Tree.branches`, None for the root.
        depth: Forks between it and the root.
        at: Steps shared with the parent.
        changes: What is other than in the parent, each in words, e.g. "prompt 'a dog'".
    """

    run: Run
    parent: int | None
    depth: int
    at: int
    changes: tuple[str, ...]

    @property
    def label(self) -> str:
        """One line: where it branched off, what changed, how far it is."""
        done = f"{len(self.run.steps)} of {self.run.num_steps} steps"
        if self.parent is None:
            start = "own latents" if self.run.seed is None else f"seed {self.run.seed}"
            return f"{_short(self.run.prompt)}, {start}: {done}"
        return f"at {self.at}: {', '.join(self.changes) or 'no change'}: {done}"


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A family as it was when it was asked for; `print` draws it, and it holds its runs in memory.

    Args:
        branches: The root first, then each run before its forks, these in the order in which they were made.
        here: Place of the run that was asked.
    """

    branches: tuple[Branch, ...]
    here: int

    def __str__(self) -> str:
        """Draws the family, a line a run."""
        lines: list[str] = []
        stems: list[str] = []  # by depth, what stands before a run for its ancestor there
        later = self._has_later_sibling()
        for i, branch in enumerate(self.branches):
            del stems[max(branch.depth - 1, 0) :]
            twig = ("├─ " if later[i] else "└─ ") if branch.depth else ""
            lines.append("".join(stems) + twig + branch.label + ("  <- this run" if i == self.here else ""))
            if branch.depth:
                stems.append("│  " if later[i] else "   ")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Says how many there are."""
        return f"<Tree of {len(self.branches)} runs; print it>"

    def _has_later_sibling(self) -> list[bool]:
        """Says for each run whether its parent was forked again."""
        seen, later = set(), []
        for branch in reversed(self.branches):
            later.append(branch.parent in seen)
            seen.add(branch.parent)
        return later[::-1]


def tree(run: Run) -> Tree:
    """Returns the family of a run, all forks of its root that are still in use."""
    root = run
    while root.parent is not None:
        root = root.parent
    branches: list[Branch] = []
    waiting: list[tuple[Run, int | None, int]] = [(root, None, 0)]
    while waiting:
        here, parent, depth = waiting.pop()
        changed = () if parent is None else changes(here.parent.settings, here.settings, here.at)
        waiting += [(child, len(branches), depth + 1) for child in reversed(here.children)]
        branches.append(Branch(here, parent, depth, here.at, changed))
    return Tree(tuple(branches), next(i for i, branch in enumerate(branches) if branch.run is run))


def changes(old: Settings, new: Settings, at: int) -> tuple[str, ...]:
    """Says in words what is other in `new`, settings of a fork after `at` steps."""
    told = []
    if (old.prompt, old.embedding) != (new.prompt, new.embedding):
        told.append(f"prompt {_short(new.prompt)}")
    if old.negative_text != new.negative_text:
        told.append(f"negative text {_short(new.negative_text)}")
    if old.seed != new.seed:
        told.append(f"seed {new.seed}")
    if old.sigmas[at:] != new.sigmas[at:]:
        told += _schedule(old, new, at)
    if old.guidance != new.guidance:
        told.append(f"guidance {new.guidance:g}")
    if old.cfg_weight != new.cfg_weight:
        told.append(f"CFG {new.cfg_weight:g}")
    if old.intervention != new.intervention:
        told.append(str(new.intervention))
    return tuple(told)


def _short(text: str) -> str:
    """Quotes a text, the end of a long one left out."""
    return repr(textwrap.shorten(text, LONGEST, placeholder="..."))


def _schedule(old: Settings, new: Settings, at: int) -> list[str]:
    """Says what is other in the rest of a schedule."""
    if new.shift is None:
        return ["sigmas " + ", ".join(f"{sigma:.3g}" for sigma in new.sigmas[at:])]
    steps = [] if new.num_steps == old.num_steps else [f"{new.num_steps} steps"]
    if steps and new.shift == old.shift:
        return steps
    return [f"shift {new.shift:.3g}", *steps]  # perhaps the same as before, from another step on
