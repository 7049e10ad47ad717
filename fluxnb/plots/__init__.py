"""Figures of runs for notebooks and papers, by matplotlib; each function returns a Figure, saved nowhere.

    steps.py       schedule(), filmstrip(), trajectory(): how a picture came to be
    attention.py   maps(), ledger(), effect(), trust(): what looked at what, and how far to believe it
    branches.py    tree(): runs that branched off one another, with their pictures
    canvas.py      what they share: panels, colours, hatches

Grounds and letters are matplotlib's own, so a style sheet of the user's applies. Nothing is told by colour
alone: lines have markers, bars have hatches, and maps run from dark to light in every eye.
"""

from fluxnb.plots.attention import effect, ledger, maps, trust
from fluxnb.plots.branches import tree
from fluxnb.plots.steps import filmstrip, schedule, trajectory

__all__ = ["effect", "filmstrip", "ledger", "maps", "schedule", "trajectory", "tree", "trust"]
