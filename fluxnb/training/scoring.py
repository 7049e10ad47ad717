"""How well a map finds what it should: scores of a map against a mask, and intervals; numpy alone.

A map has one number per image token, and a mask one share per image token: how much of its 16 x 16 pixels the
object covers. A token is inside if that is at least half of them. All scores but the lift look only at the
order of the numbers or at their mean, so a map's unit does not matter; the lift needs numbers of at least 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

TOKEN = 16  # pixels to an image token
INSIDE = 0.5  # share from which a token is inside


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one map, each the better the higher.

    Args:
        average_precision: Area under precision over recall as the threshold falls, 0..1; a map of noise gets
            about the share of tokens that are inside.
        iou_best: Intersection over union with the mask at the threshold where it is highest, 0..1.
        iou_mean: The same at the map's own mean: what is above it.
        pointing: Whether the highest number is inside, 0 or 1; a share where several are the highest.
        lift: Share of the map's mass in the mask over the mask's share of the picture; 1 for a flat map.
    """

    average_precision: float
    iou_best: float
    iou_mean: float
    pointing: float
    lift: float


NAMES = tuple(field.name for field in fields(Scores))


def token_shares(mask: np.ndarray) -> np.ndarray:
    """Returns the share of each image token that a mask covers: bool (H, W) to float (H/16, W/16), 0..1."""
    height, width = mask.shape
    return mask.reshape(height // TOKEN, TOKEN, width // TOKEN, TOKEN).mean(axis=(1, 3))


def score(picture: np.ndarray, shares: np.ndarray) -> Scores | None:
    """Scores a map by a mask.

    Args:
        picture: Map (h, w).
        shares: Mask (h, w), 0..1, see `token_shares`.

    Returns:
        None if no token is inside, or all are: then nothing can be found.
    """
    values, shares = np.ravel(picture).astype(np.float64), np.ravel(shares)
    inside = shares >= INSIDE
    if inside.all() or not inside.any():
        return None
    found, taken = _by_threshold(values, inside)
    total, highest = values.sum(), values == values.max()
    return Scores(
        average_precision=average_precision(values, inside),
        iou_best=float((found / (taken + inside.sum() - found)).max()),
        iou_mean=iou(values > values.mean(), inside),
        pointing=float(inside[highest].mean()),
        lift=float(values @ shares / total / shares.mean()) if total > 0 else 1.0,
    )


def average_precision(values: np.ndarray, inside: np.ndarray) -> float:
    """Returns the average precision: the sum over thresholds of precision times the recall that it adds.

    Equal numbers fall under one threshold together, so their order does not matter.

    Args:
        values: (n,), higher means more inside.
        inside: (n,), bool, at least one of them True.
    """
    found, taken = _by_threshold(values, inside)
    return float(np.diff(found, prepend=0) @ (found / taken) / found[-1])


def _by_threshold(values: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each threshold, falling, how many numbers from it on are inside, and how many there are."""
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # the last of equal numbers
    return np.cumsum(inside[order])[ends], ends + 1


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the intersection over union of two sets, bool (n,), not both empty."""
    return float((a & b).sum() / (a | b).sum())


def bootstrap(scenes: np.ndarray, values: np.ndarray, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Returns the mean of values and its 95 % interval, from drawing whole scenes anew with replacement.

    Scenes are drawn, not objects: the two objects of a scene are not independent. The interval is that of
    percentiles (Efron and Tibshirani 1993, chapter 13).

    Args:
        scenes: (n,), the number of the scene that each value is from.
        values: (n, k), or (n,) for k = 1.
        draws: How often.
        seed: Of the draws.

    Returns:
        (k, 3): mean, low end, high end.
    """
    values = np.reshape(values, (len(scenes), -1))
    _, place = np.unique(scenes, return_inverse=True)
    count = np.bincount(place)  # (scenes,)
    sums = np.stack([np.bincount(place, column) for column in values.T], axis=1)  # (scenes, k)
    drawn = np.random.default_rng(seed).multinomial(len(count), np.full(len(count), 1 / len(count)), draws)
    means = (drawn @ sums) / (drawn @ count)[:, None]  # (draws, k)
    return np.stack([values.mean(axis=0), *np.percentile(means, [2.5, 97.5], axis=0)], axis=1)
