"""What the browser is told of a run beside its film: how far it is, what went wrong, in plain JSON.

Knows nothing of widgets, sessions or films.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

from fluxnb.errors import FluxnbError


@dataclass(frozen=True, slots=True)
class Status:
    """How far the newest run is.

    Args:
        state: "loading" the model, "drawing", "done", "stopped" or "failed"; on a page, "saved".
        run: Number of the run.
        step: Steps made.
        total: Steps of the whole run; 0 until it has begun.
        seconds: Time spent in the steps made.
        error: Why it, or a picture of it, failed, in one sentence.
        note: What is asked for in vain, in sentences.
    """

    state: str
    run: int
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    error: str = ""
    note: str = ""


def sentence(error: Exception, hint: str = "") -> str:
    """Says in one sentence what went wrong: our own errors do, others get their kind and the hint."""
    said = " ".join(str(error).split())
    if isinstance(error, FluxnbError):
        return said
    return f"{type(error).__name__}: {textwrap.shorten(said, 300) or 'no message'}{hint}"


def plain(value: Any) -> str | float | None:
    """Returns a setting as JSON can hold it: anything but text and finite numbers as Python spells it."""
    if value is None or isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value)):
        return value
    return repr(value)
