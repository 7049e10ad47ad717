"""What a run can be asked about its steps, its way and its family; each answer is made in its own module.

Knows nothing of how steps are made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np

from fluxnb import bisection, checks, effect, family, look, saved, trajectory
from fluxnb.bisection import Bisection, Judge
from fluxnb.effect import Effect
from fluxnb.family import Tree
from fluxnb.flow import Step
from fluxnb.interventions import Intervention
from fluxnb.maps import AttentionMap, ConceptMaps, Ledger
from fluxnb.model.tokenizers import Word
from fluxnb.probe import Probe, find_step
from fluxnb.trajectory import GuidanceLens, LocalErrors, Trajectory


class Questions:
    """The base of `fluxnb.run.Run`, which asks itself."""

    def tree(self) -> Tree:
        """Returns the whole family of the run, from its root; `print` draws it."""
        return family.tree(self)

    def save(self, path: str | os.PathLike) -> None:
        """Saves the run with all its steps as one safetensors file; `FluxSession.open` makes it a run again.

        What probes heard is not in it, as it can be asked again; nor is the picture that a run started from.

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

    def attention(
        self,
        step: int | str | Iterable[int],
        word: str | Word | int | tuple[int, int] | np.ndarray | list[str | Word],
        blocks: str | int | Iterable[int] = "double",
        heads: str | int = "mean",
        direction: str | None = None,
    ) -> AttentionMap | tuple[AttentionMap, ...]:
        """Says who looked at a word in a step, or what a word or a place looked at, by repeating the step.

        With CFG it is the pass with the prompt that is repeated.

        Args:
            step: Index of a step that has been made; a shared one was made with the parent's prompt. For
                several, or "all", a tuple of maps is returned.
            word: A word of that prompt, all its occurrences taken together; one of `words` for a single one;
                several in a list. Or a patch (row, column) in image tokens; a mask (h, w) of booleans; the
                number of a token; "PAD", "end", "image" or "words", see `Probe`.
            blocks: "all", "double" or "single", the number of one block, or several: their mean.
            heads: "mean", "each", or the number of one head.
            direction: "image_to_word", who looks at it, or "word_to_image", what it looks at; for what is no
                word these are "columns" and "rows". None: image tokens look, as in most papers: who looks at
                a word, and what a patch looks at.

        Raises:
            InputError: if there is no such step, word, block, head or direction; it says what there is.
        """
        return look.attention(self, step, Probe(word, blocks, heads, direction))

    def ledger(
        self,
        words: str | Word | Iterable[str | Word] | None = None,
        step: int | str | Iterable[int] = "all",
        blocks: str | int | Iterable[int] = "all",
        heads: str | int = "each",
    ) -> Ledger:
        """Accounts for all attention: from each group of tokens to each, per step, block and head.

        Each step is repeated once.

        Args:
            words: Those to tell apart from the other words; None for all of the first step's prompt.
            step: Index, several, or "all".
            blocks: "all", "double" or "single", the number of one block, or several.
            heads: "each", "mean", or the number of one head.

        Raises:
            InputError: if there is no such step, word, block or head; it says what there is.
        """
        return look.ledger(self, words, step, blocks, heads)

    def concepts(
        self,
        concepts: Iterable[str],
        step: int | str | Iterable[int] = "all",
        blocks: str | int | Iterable[int] | None = None,
    ) -> ConceptMaps:
        """Says where concepts, any words, are in the picture, each place shared out among them.

        They need not be in the prompt, and the picture is as it was: only the image's keys and values are
        used, which are kept, so that other concepts need no pass through the network (`fluxnb.concepts`).

        Args:
            concepts: Texts, at least two: with one alone every place would be its own. "background", or what
                else there is, gives the rest a place to go.
            step: Index, several or "all": the mean over them.
            blocks: Double blocks to take the mean over; None for the later half, which ConceptAttention's
                paper took for FLUX.1 and found to be the better ones.

        Raises:
            InputError: if there is no such step or block, or the concepts are none.
        """
        return look.concepts(self, concepts, step, blocks)

    def effect(
        self,
        intervention: Intervention,
        step: int,
        *,
        word: object = None,
        direction: str = "image_to_word",
        pictures: bool = False,
    ) -> Effect:
        """Says what an intervention does to a step, by making it twice, with the attention beside it.

        Args:
            intervention: See `fluxnb.interventions`.
            step: Index of a step that has been made; a shared one was made with the parent's prompt.
            word: Whose map, in all blocks, goes beside it, as for `attention`; None for the first word, group
                or token of the intervention.
            direction: Of the map, as for `attention`.
            pictures: Whether to draw both ways to their ends, from this step on; the run stays as it is.

        Raises:
            InputError: if there is no such step, or the intervention speaks of a word, token, block, head or
                step that does not exist, or is not meant for this step.
        """
        index = find_step(step, len(self.steps))
        return effect.measure(self.owner(index), index, intervention, word, direction, pictures)

    def trajectory(self) -> Trajectory:
        """Says how straight and how fast the run went, and lays its way into a plane; costs no pass.

        Raises:
            InputError: if the run has made no step.
        """
        find_step(-1, len(self.steps))
        return trajectory.trajectory(self.steps, self.latents)

    def local_errors(self) -> LocalErrors:
        """Estimates the error of each step by doing it again in two halves.

        It costs as much as the steps did: one pass through the network for each, with CFG two.

        Raises:
            InputError: if the run has made no step.
        """
        find_step(-1, len(self.steps))
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
        find_step(-1, len(self.steps))
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
        away = pipeline.velocity(step.latents, step.sigma, negative, g, adapters=owner.settings.adapters)
        pull = velocity(g) - away
        slope = None if g is None else (velocity(g + delta) - velocity(g - delta)) / (2 * delta)
        return pull, slope
