"""What a run can be asked about its way and its family; each answer is made in a module of its own.

Knows nothing of how steps are made.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import mlx.core as mx

from fluxnb import bisection, checks, family, saved, trajectory
from fluxnb.bisection import Bisection, Judge
from fluxnb.family import Tree
from fluxnb.flow import Step
from fluxnb.trajectory import GuidanceLens, LocalErrors, Trajectory


class Questions:
    """The base of `fluxnb.run.Run`, which asks itself."""

    def tree(self) -> Tree:
        """Returns the whole family of the run, from its root; `print` draws it."""
        return family.tree(self)

    def save(self, path: str | os.PathLike) -> None:
        """Saves the run with all its steps as one safetensors file; `FluxSession.open` makes it a run again.

        Raises:
            InputError: if it cannot be written there, or holds numbers that are not finite.
        """
        saved.write(self, path)

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

    def trajectory(self) -> Trajectory:
        """Says how straight and how fast the run went, and lays its way into a plane; costs no pass.

        Raises:
            InputError: if the run has made no step.
        """
        self._made(-1)
        return trajectory.trajectory(self.steps, self.latents)

    def local_errors(self) -> LocalErrors:
        """Estimates the error of each step by doing it again in two halves.

        It costs as much as the steps did: one pass through the network for each, with CFG two.

        Raises:
            InputError: if the run has made no step.
        """
        self._made(-1)
        owners = [self.owner(i) for i in range(len(self.steps))]
        fields = (
            partial(
                self.session.pipeline.velocity_at,
                i,
                settings=owner.settings,
                text=owner.text,
                negative=owner.negative,
            )
            for i, owner in enumerate(owners)
        )
        passes = sum(1 if owner.negative is None else 2 for owner in owners)
        return trajectory.local_errors(self.steps, fields, passes)

    def guidance_lens(self, delta: float = 0.1) -> GuidanceLens:
        """Compares where CFG pulls in each step with where a distilled model's guidance strength does.

        It costs two passes through the network a step, four for a model with guidance. CFG is looked at
        whether it is switched on or not; without a negative text it leads away from the empty one.

        Args:
            delta: dv/dg is taken as (v(g + delta) - v(g - delta)) / (2 delta).

        Raises:
            InputError: if the run has made no step, or delta is not above 0.
        """
        self._made(-1)
        delta = checks.number("delta", delta, above=0)
        passes = len(self.steps) * (2 if self.guidance is None else 4)
        pulls = (self._pulls(step, delta) for step in self.steps)
        return trajectory.guidance_lens(self.steps, pulls, passes)

    def _pulls(self, step: Step, delta: float) -> tuple[mx.array, mx.array | None]:
        """Returns v(prompt) - v(negative text) and dv/dg of a step, not evaluated."""
        owner, pipeline = self.owner(step.index), self.session.pipeline
        negative = owner.negative or self.session.encode_text(owner.negative_text)

        def velocity(guidance: float | None) -> mx.array:
            settings = replace(owner.settings, guidance=guidance)
            return pipeline.velocity_at(step.index, step.latents, step.sigma, settings, owner.text, None)

        g = owner.guidance
        pull = velocity(g) - pipeline.velocity(step.latents, step.sigma, negative, g)
        slope = None if g is None else (velocity(g + delta) - velocity(g - delta)) / (2 * delta)
        return pull, slope
