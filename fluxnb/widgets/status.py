"""What the browser is told of a run beside its film: how far it is, what went wrong, in plain JSON.

Knows nothing of widgets, sessions or films.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from fluxnb.errors import FluxnbError

EXACT = 2**53 - 1


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
    """Returns a setting as JSON and a browser can hold it, and anything else as Python spells it.

    Numbers of NumPy become Python's. A browser's whole numbers are exact up to `EXACT` only.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value) if abs(int(value)) <= EXACT else repr(int(value))
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return repr(value)
