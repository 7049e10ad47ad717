"""The way of a run through the space of latents: how straight, how fast, how exact, where guidance pulls.

Pure functions of steps and of velocity fields; knows nothing of networks, texts or runs. A length is a root
mean square over all numbers of the latents, so it does not grow with the picture. Latents: (1, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import numpy as np

from fluxnb import flow
from fluxnb.brief import Brief
from fluxnb.flow import Step

Field = Callable[[mx.array, float], mx.array]
"""Velocity at latents and a noise level."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trajectory(Brief):
    """The way of a run of N steps; all arrays float64.

    The plane is that of the first two principal components of all states and all estimates together, from
    their mean. Its axes point so that the run ends to the right of its start, the estimates above theirs.

    Args:
        sigmas: (N + 1,), noise level before each step and after the last.
        speeds: (N,), RMS length of each step's velocity, in latent units per unit of sigma.
        angles: (N - 1,), turn from the velocity of each step to that of the next, in degrees, 0..180; 0 all
            the way for a straight line. NaN where a velocity is 0.
        path: (N + 1, 2), latents before each step and after the last, in the plane, in RMS latent units.
        clean: (N, 2), each step's estimate of the clean picture (x0) likewise.
        explained: (2,), share of the variance of all these points along each axis, 0..1.
    """

    sigmas: np.ndarray
    speeds: np.ndarray
    angles: np.ndarray
    path: np.ndarray
    clean: np.ndarray
    explained: np.ndarray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LocalErrors(Brief):
    """What each step of a run got wrong, had it started right.

    Args:
        sigmas: (N,), noise level before each step.
        errors: (N,), RMS length of each step's error, in latent units, see `local_error`.
        evaluations: Passes through the network that it took.
    """

    sigmas: np.ndarray
    errors: np.ndarray
    evaluations: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class GuidanceLens(Brief):
    """Which way two kinds of guidance pull in each step; None for what the model does not have.

    Args:
        sigmas: (N,), noise level of each step.
        cfg: (N,), RMS length of v(prompt) - v(negative text), which CFG adds w times to v(negative text).
        guidance: (N,), RMS length of dv/dg, the change of velocity per unit of guidance strength g.
        cosine: (N,), of the angle between the two, -1..1; NaN where one of them is 0.
        evaluations: Passes through the network that it took.
    """

    sigmas: np.ndarray
    cfg: np.ndarray
    guidance: np.ndarray | None
    cosine: np.ndarray | None
    evaluations: int


def trajectory(steps: Sequence[Step], latents: mx.array) -> Trajectory:
    """Describes the way of some steps, at least one.

    Args:
        steps: In their order.
        latents: After the last of them.
    """
    velocities = np.stack([_flat(step.velocity) for step in steps])
    states = np.stack([*(_flat(step.latents) for step in steps), _flat(latents)])
    cleans = np.stack([_flat(flow.clean(step)) for step in steps])
    points, explained = plane(np.concatenate([states, cleans]))
    path, clean = points[: len(states)], points[len(states) :]
    turned = [1 if ends[-1] >= ends[0] else -1 for ends in (path[:, 0], clean[:, 1])]
    return Trajectory(
        sigmas=_frozen([*(step.sigma for step in steps), steps[-1].sigma_next]),
        speeds=_frozen(np.sqrt(np.mean(velocities**2, axis=1))),
        angles=_frozen([angle(*pair) for pair in pairwise(velocities)]),
        path=_frozen(path * turned),
        clean=_frozen(clean * turned),
        explained=_frozen(explained),
    )


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the angle between two vectors in degrees, exact for small ones too; NaN if one of them is 0.

    W. Kahan, "How Futile are Mindless Assessments of Roundoff in Floating-Point Computation?", section 12.
    """
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if not all(lengths):
        return float("nan")
    a, b = a / lengths[0], b / lengths[1]
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


def plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lays points into the plane of their first two principal components.

    Args:
        points: (M, D), at least two.

    Returns:
        Their coordinates (M, 2) from their mean, divided by sqrt(D); the share of the variance along each of
        the two axes, (2,), 0 where all points are the same.
    """
    left, lengths, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    variance = np.pad(lengths, (0, 2))[:2] ** 2
    coordinates = np.pad(left * lengths, ((0, 0), (0, 2)))[:, :2] / np.sqrt(points.shape[1])
    total = np.sum(lengths**2)
    return coordinates, variance / total if total else np.zeros(2)


def local_error(step: Step, field: Field) -> float:
    """Returns the RMS length of a step's own error, estimated by doing it again in two halves.

    The error of Euler's method goes with the square of the step's length, so the step differs from its two
    halves by half its error (Richardson); exact where the velocity along the true way is linear in sigma. It
    takes one evaluation of the field, since the first half has the step's own velocity.

    Args:
        step: As it was made.
        field: The velocity that it followed.
    """
    width = step.sigma_next - step.sigma
    middle = step.latents + width / 2 * step.velocity
    change = field(middle, step.sigma + width / 2) - step.velocity
    return abs(width) * _length(_flat(change))


def local_errors(steps: Sequence[Step], fields: Iterable[Field], evaluations: int) -> LocalErrors:
    """Returns the error of each step; `fields` gives the velocity that each followed."""
    errors = [local_error(step, field) for step, field in zip(steps, fields, strict=True)]
    return LocalErrors(_frozen([step.sigma for step in steps]), _frozen(errors), evaluations)


def guidance_lens(
    steps: Sequence[Step], pulls: Iterable[tuple[mx.array, mx.array | None]], evaluations: int
) -> GuidanceLens:
    """Measures two directions in each step and compares them.

    Args:
        steps: At least one.
        pulls: For each step v(prompt) - v(negative text), and dv/dg or None; used up one by one.
        evaluations: Passes that these take.
    """
    cfg, guidance, cosines = [], [], []
    for pull, slope in pulls:
        pull = _flat(pull)
        cfg.append(_length(pull))
        if slope is not None:
            slope = _flat(slope)
            guidance.append(_length(slope))
            cosines.append(np.cos(np.radians(angle(pull, slope))))
    both = (_frozen(guidance), _frozen(cosines)) if guidance else (None, None)
    return GuidanceLens(_frozen([step.sigma for step in steps]), _frozen(cfg), *both, evaluations)


def _flat(array: mx.array) -> np.ndarray:
    """Returns all numbers of an array in a row, float64."""
    return np.array(array, np.float64).reshape(-1)


def _length(vector: np.ndarray) -> float:
    """Returns the root mean square."""
    return float(np.sqrt(np.mean(vector**2)))


def _frozen(values: object) -> np.ndarray:
    """Returns an array of float64 that cannot be written to."""
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array
