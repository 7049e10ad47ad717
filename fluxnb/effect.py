"""The effect of an intervention on one step: what attention shows may have caused; knows nothing of networks.

A word that is looked at need not matter, and one that matters may hardly be looked at (Jain and Wallace 2019,
arXiv 1902.10186). So the step is made twice, once with the intervention, and the difference
is laid beside the map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from PIL import Image

from fluxnb import flow
from fluxnb.asked import frozen, tokens
from fluxnb.brief import Brief
from fluxnb.errors import InputError
from fluxnb.interventions import Intervention, expect
from fluxnb.maps import AttentionMap

if TYPE_CHECKING:
    from fluxnb.run import Run


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Effect(Brief):
    """What an intervention does to one step.

    Args:
        intervention: As it was asked for; what the run had before is in both passes.
        step: Index of the step.
        sigma: Noise level of the step.
        velocity: (h, w), float32, |dv|: for each image token (16 x 16 pixels) the norm of the velocity's
            change over its 2 x 2 cells and all channels, in normalised latents.
        relative: Norm of the change over that of the velocity, for the whole picture; 0 for no effect.
        attention: The map of the same tokens in the step without the intervention; None if it is about none.
        correlation: Spearman's rank correlation of `velocity` with that map, -1..1; None without a map, NaN
            where one of them is the same everywhere.
        pictures: The run's last picture, without and with the intervention from this step on; or None.
    """

    intervention: Intervention
    step: int
    sigma: float
    velocity: np.ndarray
    relative: float
    attention: AttentionMap | None
    correlation: float | None
    pictures: tuple[Image.Image, Image.Image] | None

    @property
    def clean(self) -> np.ndarray:
        """|dx0|, (h, w): likewise for the clean picture; as both start from the same latents, sigma |dv|."""
        return self.sigma * self.velocity


def measure(
    run: Run, step: int, intervention: Intervention, word: object, direction: str, pictures: bool
) -> Effect:
    """Makes a step of a run twice and compares; see `Run.effect`.

    Args:
        run: That made the step.
        step: Its index.
        intervention: What is tried.
        word: Whose map goes beside it; None for the first word, group or token of the intervention.
        direction: Of the map.
        pictures: Whether to draw both runs to their ends.

    Raises:
        InputError: if the intervention speaks of what does not exist, or is not meant for that step.
    """
    pipeline, record = run.session.pipeline, run.steps[step]
    there = tokens(run.text, run.latent_size)
    expect(intervention).check(there, pipeline.networks.configs.mmdit, run.num_steps)
    if not intervention.acts_on(step):
        raise InputError(
            f"{intervention} is not meant for step {step}; give another step, or other steps=(a, b)"
        )
    before = run.settings.intervention
    both = intervention if before is None else before + intervention
    settings = replace(run.settings, intervention=both)
    changed = pipeline.velocity_at(step, record.latents, record.sigma, settings, run.text, run.negative)
    difference = flow.pack(changed - record.velocity)  # (1, h*w, 4C)
    norms = mx.linalg.norm(difference, axis=-1).reshape([side // 2 for side in run.latent_size])
    relative = mx.linalg.norm(difference) / mx.linalg.norm(flow.pack(record.velocity))
    mx.eval(norms, relative)
    velocity = frozen(np.array(norms))

    heard, correlation = None, None
    if word is None and intervention.words:
        word = intervention.words[0]
    if word is not None:
        heard = run.attention(step, word, blocks="all", direction=direction)
        correlation = rank_correlation(velocity, heard.weights)
    drawn = None
    if pictures:
        drawn = tuple(
            branch.finish().image()
            for branch in (run.fork(len(run.steps)), run.fork(step, intervention=both.left_at(step)))
        )
    return Effect(intervention, step, record.sigma, velocity, relative.item(), heard, correlation, drawn)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two arrays of one size; equal numbers share their mean rank.

    Returns:
        -1..1, or NaN where one of them is the same everywhere.
    """
    x, y = (_ranks(np.ravel(array)) for array in (a, b))
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each number, from 0, the mean rank for those that are equal."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count + 1) / 2)[place]
