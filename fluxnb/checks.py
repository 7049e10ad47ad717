"""Arguments checked where they enter: what came, what was expected, what to do; knows nothing of the rest."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable

from fluxnb.errors import InputError

LARGEST = 1 << 20  # latent cells to a side, millions of pixels: far beyond what any memory holds


def whole(name: str, value: object, low: int | None = None, high: int | None = None, other: str = "") -> int:
    """Returns `value` as an int in low..high; `other` tells the message what else there is, "'mean' or ".

    Raises:
        InputError: if it is no integer (True and 2.0 are none) or lies outside.
    """
    try:
        number = operator.index(value)  # ints and numpy's integers, no floats
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; give {other}an integer{_between(low, high)}")
    if (low is not None and number < low) or (high is not None and number > high):
        raise InputError(f"{name} is {number}; give {other}an integer{_between(low, high)}")
    return number


def number(
    name: str,
    value: object,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
) -> float:
    """Returns `value` as a finite float that is at least `low`, greater than `above` and at most `high`.

    Raises:
        InputError: if it is no number, not finite, too small or too large.
    """
    bounds = (("of at least", low), ("above", above), ("at most", high))
    bound = " and".join(f" {words} {limit:g}" for words, limit in bounds if limit is not None)
    expected = f"{name} is {value!r}; give a finite number{bound}"
    if isinstance(value, (bool, str, bytes)):
        raise InputError(expected)
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(expected) from None
    if (
        not math.isfinite(result)
        or (low is not None and result < low)
        or (above is not None and result <= above)
        or (high is not None and result > high)
    ):
        raise InputError(expected)
    return result


def flag(name: str, value: object) -> bool:
    """Returns `value` if it is True or False.

    Raises:
        InputError: if it is anything else, be it true or false.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; give True or False")
    return value


def text(name: str, value: object) -> str:
    """Returns `value` if it is a string that can be written down.

    Raises:
        InputError: if it is none, or holds halves of characters, as JSON can spell them.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}; give a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} is {value!r}, which holds half a character; give whole ones") from None
    return value


def choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
        InputError: if it is not; the message lists them.
    """
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {value!r}; give one of {', '.join(map(repr, choices))}")
    return value


def several(name: str, value: object, kind: type) -> tuple:
    """Returns the items of `value` if all are of a kind.

    Raises:
        InputError: if they are not, or there are none to go through.
    """
    items = tuple(value) if isinstance(value, Iterable) else (value,)
    for item in items:
        if not isinstance(item, kind):
            raise InputError(f"{name} holds {item!r}; give a list of {kind.__name__}(...)")
    return items


def label(name: str, value: object, longest: int = 200) -> str:
    """Returns a text that may stand in a message: short, and without line breaks or control characters.

    Raises:
        InputError: if it is none.
    """
    if len(text(name, value)) > longest or not value.isprintable():
        raise InputError(f"{name} is {value[:longest]!r}, which is no name")
    return value


def digest(name: str, value: object) -> str:
    """Returns a SHA-256 as it is written in hexadecimal digits.

    Raises:
        InputError: if it is none.
    """
    if not re.fullmatch("[0-9a-f]{64}", text(name, value)):
        raise InputError(f"{name} is {value[:80]!r}, which is no SHA-256")
    return value


def optional(check: Callable, name: str, value: object, *bounds, **more) -> object:
    """Returns None, or what passes a check."""
    return None if value is None else check(name, value, *bounds, **more)


def latent_size(value: object) -> tuple[int, int]:
    """Returns `value` as (H, W) in latent cells, two positive even numbers up to `LARGEST`.

    Raises:
        InputError: if it is not; the message names the nearest size that works.
    """
    try:
        height, width = value
    except (TypeError, ValueError):
        raise InputError(
            f"latent_size is {value!r}; give (height, width) in latent cells of 8 pixels, e.g. (16, 16)"
        ) from None
    height = whole("the height in latent_size", height, 2, LARGEST)
    width = whole("the width in latent_size", width, 2, LARGEST)
    if height % 2 or width % 2:
        even = (height + height % 2, width + width % 2)
        raise InputError(
            f"latent_size ({height}, {width}) is odd, but an image token covers 2 x 2 cells; "
            f"try {even}, which is {8 * even[0]} x {8 * even[1]} pixels"
        )
    return height, width


def cells(name: str, value: object) -> int:
    """Returns a side in pixels, a multiple of 16, as latent cells of 8 pixels.

    Raises:
        InputError: if it is none; the message names the nearest that are.
    """
    pixels = whole(name, value, 16, 8 * LARGEST)
    if pixels % 16:
        below = pixels - pixels % 16
        raise InputError(f"{name} {pixels} is not a multiple of 16; try {below} or {below + 16}")
    return pixels // 8


def _between(low: int | None, high: int | None) -> str:
    """Spells a range for a message."""
    if low is None and high is None:
        return ""
    if high is None:
        return f" of at least {low}"
    return f" in {low}..{high}" if low is not None else f" of at most {high}"
