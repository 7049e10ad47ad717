"""A run: advance step by step, keep every step, go back, branch off, look inside.

A run is its settings and a growing tuple of frozen steps; everything else is computed from them when asked
for. Euler's method is deterministic: from its record a step can be repeated bit for bit, on the same machine
with the same versions, and so any attention of any step can be had later, by repeating it and listening.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import mlx.core as mx
from PIL import Image

from fluxnb import checks, effect, flow, probe
from fluxnb.effect import Effect
from fluxnb.errors import InputError
from fluxnb.flow import Step
from fluxnb.model.layers import Attend
from fluxnb.model.tokenizers import Word
from fluxnb.pipeline import TextEmbedding, warn_of_texts
from fluxnb.probe import AttentionMap
from fluxnb.questions import Questions
from fluxnb.settings import Intervention, Settings, branch, warn_of_no_effect

if TYPE_CHECKING:
    from fluxnb.session import FluxSession
    from fluxnb.source import Source

KINDS = ("clean", "noisy")
"""What of a step a picture can show: where its straight line ends, or the latents before it."""


class Run(Questions):
    """One way from noise to picture; `FluxSession.start` and `Run.fork` make it.

    Iterating over a run advances it.

    Args:
        session: Encodes the texts.
        settings: All that decides the picture.
        latents: The state that the run goes on from, evaluated.
        steps: Steps that led there.
        parent: Run that this one branched off from, after `at` steps; a run holds its parent in memory, but
            not its children.
        at: Steps shared with the parent; None for all of `steps`.
        text: The prompt as the transformer reads it; None to encode it.
        source: Picture that the run started from.

    Attributes:
        session: As given, like `settings`, `parent`, `at` and `source`.
        text: The prompt as the transformer reads it.
        negative: The negative text likewise, None without CFG.
    """

    def __init__(
        self,
        session: FluxSession,
        settings: Settings,
        latents: mx.array,
        steps: tuple[Step, ...] = (),
        parent: Run | None = None,
        at: int | None = None,
        text: TextEmbedding | None = None,
        source: Source | None = None,
    ):
        """Encodes the texts, if they are not there."""
        self.session = session
        self.settings = settings
        self.parent = parent
        self.source = source
        self.at = len(steps) if at is None else at
        self.text: TextEmbedding = session.encode_text(settings.prompt) if text is None else text
        self.negative: TextEmbedding | None = (
            session.encode_text(settings.negative_text) if settings.has_cfg else None
        )
        self._state = steps, latents  # one assignment changes both, so that no interrupt comes between
        self._children: list[weakref.ref[Run]] = []
        if parent is not None:
            parent._children = [*map(weakref.ref, parent.children), weakref.ref(self)]

    def __repr__(self) -> str:
        """Says what is drawn and how far it is."""
        return f"<Run {self.prompt!r} seed {self.seed}: step {len(self.steps)} of {self.num_steps}>"

    @property
    def prompt(self) -> str:
        """What is drawn."""
        return self.settings.prompt

    @property
    def negative_text(self) -> str:
        """What CFG leads away from."""
        return self.settings.negative_text

    @property
    def seed(self) -> int | None:
        """Seed of the noise, None for a start from own latents."""
        return self.settings.seed

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, those to come included."""
        return len(self.settings.sigmas) - 1

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels before each step and after the last, `num_steps` + 1 of them, from 1 to 0.

        A run from a picture starts below 1, see `FluxSession.start`.
        """
        return self.settings.sigmas

    @property
    def shift(self) -> float | None:
        """Static shift of the schedule; after a fork, of the part after it; None for own sigmas."""
        return self.settings.shift

    @property
    def guidance(self) -> float | None:
        """Guidance strength, None for a model that takes none."""
        return self.settings.guidance

    @property
    def cfg_weight(self) -> float:
        """Weight of CFG, 0 for none."""
        return self.settings.cfg_weight

    @property
    def latent_size(self) -> tuple[int, int]:
        """(H, W) in latent cells of 8 pixels."""
        return self.settings.latent_size

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the prompt, as `attention` takes them."""
        return self.text.words

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps made so far, those shared with the parent included."""
        return self._state[0]

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return len(self.steps) == self.num_steps

    @property
    def latents(self) -> mx.array:
        """The current latents: float32 (1, H, W, C), evaluated; those of the picture once the run is done."""
        return self._state[1]

    @property
    def children(self) -> tuple[Run, ...]:
        """The runs that branched off from this one and are still in use, in their order."""
        return tuple(run for ref in self._children if (run := ref()) is not None)

    def advance(self) -> Step:
        """Makes the next step and returns it.

        Raises:
            InputError: if the run is done.
        """
        if self.done:
            raise InputError(
                f"the run has made all of its {self.num_steps} steps; fork it or start another one"
            )
        steps, latents = self._state
        step = self.session.pipeline.step(len(steps), latents, self.settings, self.text, self.negative)
        latents = flow.euler(step)
        mx.eval(latents)
        self._state = (
            (*steps, step),
            latents,
        )  # the only change there is: an interrupt before it loses one step
        return step

    def __iter__(self) -> Iterator[Step]:
        """Advances the run to its end, one step at a time."""
        while not self.done:
            yield self.advance()

    def finish(self) -> Run:
        """Makes all the steps that are left, if any, and returns the run; its steps survive an interrupt."""
        for _ in self:
            pass
        return self

    def image(self, i: int = -1, kind: str = "clean") -> Image.Image:
        """Decodes a picture of the run.

        Args:
            i: Index of a step, or as many as there are steps, or -1, for the state after the last one.
            kind: "clean", the picture that the step's straight line ends in; "noisy", the latents before it.

        Raises:
            InputError: if there is no such step or kind.
        """
        checks.choice("kind", kind, KINDS)
        count = len(self.steps)
        i = checks.whole("the step of an image", i, -1, count)
        i = count if i == -1 else i
        if kind == "noisy":
            return self.session.pipeline.decode(self.latents if i == count else self.steps[i].latents)
        if not count:
            raise InputError("the run has made no step yet, so nothing is clean; call advance() or finish()")
        return self.session.pipeline.decode(flow.clean(self.steps[min(i, count - 1)]))

    def fork(
        self,
        at: int,
        *,
        prompt: str | None = None,
        seed: int | None = None,
        num_steps: int | None = None,
        shift: float | None = None,
        sigmas: Iterable[float] | None = None,
        guidance: float | None = None,
        cfg_weight: float | None = None,
        negative_text: str | None = None,
        intervention: Intervention | None = None,
    ) -> Run:
        """Branches off after `at` steps, which both runs share; with no change it ends in the same bits.

        But where `at` lies before this run itself branched off: its own changes then hold from there on.

        Args:
            at: Steps to share, 0 to as many as have been made.
            prompt: For the rest of the way; None, here and below, for that of this run.
            seed: New noise, mixed at the noise level of step `at` with the clean picture of the step before.
            num_steps: Steps of the whole run, shared ones included.
            shift: Static shift; the rest of the schedule starts at the noise level that is reached.
            sigmas: The rest of the schedule in place of these two, from the level that is reached to 0.
            guidance: Guidance strength.
            cfg_weight: Weight of CFG.
            negative_text: What CFG leads away from.
            intervention: What is changed in the network from step `at` on.

        Raises:
            InputError: if an argument is none that can be drawn with, or the intervention speaks of a word,
                block, head or step that there is not.
        """
        at = checks.whole("at", at, 0, len(self.steps))
        pipeline = self.session.pipeline
        settings = branch(
            pipeline.entry,
            self.settings,
            at,
            sigmas=sigmas,
            intervention=intervention,
            prompt=prompt,
            seed=seed,
            num_steps=num_steps,
            shift=shift,
            guidance=guidance,
            cfg_weight=cfg_weight,
            negative_text=negative_text,
        )
        warn_of_no_effect(pipeline.entry, settings, guidance, negative_text)
        latents = self.steps[at].latents if at < len(self.steps) else self.latents
        if settings.seed != self._owner(at).seed:
            if at:
                clean, noise = flow.clean(self.steps[at - 1]), pipeline.noise(settings)
                latents = flow.add_noise(clean, noise, self.sigmas[at])
                mx.eval(latents)
            else:
                latents = pipeline.first_latents(settings, self.source)
        text = self.text if prompt is None else self.session.encode_text(settings.prompt)
        if settings.intervention is not None:
            config = pipeline.networks.configs.mmdit
            settings.intervention.check(text.words, config, settings.num_steps, at)
        run = Run(
            self.session, settings, latents, self.steps[:at], parent=self, text=text, source=self.source
        )
        if (run.text, run.negative) != (self.text, self.negative):
            warn_of_texts(run.text, run.negative)
        return run

    def replay(self, step: int, attend: Attend | None = None) -> mx.array:
        """Makes a step again from its record and returns the velocity, by default the same bits.

        Args:
            step: Index of a step that has been made.
            attend: Attention function of the pass with the prompt; None for that of the step itself, which is
                its intervention's if it has one.

        Raises:
            InputError: if there is no such step.
        """
        index = self._made(step)
        owner, record = self._owner(index), self.steps[index]
        velocity = self.session.pipeline.velocity_at(
            index, record.latents, record.sigma, owner.settings, owner.text, owner.negative, attend
        )
        mx.eval(velocity)
        return velocity

    def attention(
        self,
        step: int,
        word: str | Word,
        blocks: str | int | Iterable[int] = "double",
        heads: str | int = "mean",
        direction: str = "word_to_image",
    ) -> AttentionMap:
        """Says what a word looked at in a step, or who looked at the word, by repeating the step.

        With CFG it is the pass with the prompt that is repeated.

        Args:
            step: Index of a step that has been made; a shared one was made with the parent's prompt.
            word: A word of that prompt, all its occurrences taken together; one of `words` for a single one.
            blocks: "all", "double" or "single", the number of one block, or several: their mean.
            heads: "mean", or the number of one head.
            direction: "word_to_image" or "image_to_word".

        Raises:
            InputError: if there is no such step, word, block, head or direction; it says what there is.
        """
        index = self._made(step)
        owner, record = self._owner(index), self.steps[index]
        text, config = owner.text, self.session.pipeline.networks.configs.mmdit
        name, positions = probe.find_word(word, text.words)
        numbers = probe.find_blocks(blocks, config.depth, config.depth_single)
        heads = probe.find_heads(heads, config.heads)
        checks.choice("direction", direction, probe.DIRECTIONS)
        h, w = (side // 2 for side in self.latent_size)
        kinds = probe.token_kinds(positions, text.end, text.txt.shape[1], h * w)
        listener = probe.Listener(kinds, numbers, heads, direction)
        self.session.pipeline.velocity(
            record.latents, record.sigma, text, owner.guidance, attend=listener
        )  # lazy: only what the listener heard is computed
        weights, mass = listener.result()
        return AttentionMap(weights.reshape(h, w), mass, name, index, numbers, heads, direction)

    def effect(
        self,
        intervention: Intervention,
        step: int,
        *,
        word: str | Word | None = None,
        direction: str = "image_to_word",
        pictures: bool = False,
    ) -> Effect:
        """Says what an intervention does to a step, by making it twice, with the attention beside it.

        Args:
            intervention: See `fluxnb.interventions`.
            step: Index of a step that has been made; a shared one was made with the parent's prompt.
            word: Whose map, in all blocks, goes beside it; None for the first word of the intervention.
            direction: Of the map, as for `attention`.
            pictures: Whether to draw both ways to their ends, from this step on; the run stays as it is.

        Raises:
            InputError: if there is no such step, or the intervention speaks of a word, block, head or step
                that does not exist, or is not meant for this step.
        """
        index = self._made(step)
        return effect.measure(self._owner(index), index, intervention, word, direction, pictures)

    def _made(self, step: int) -> int:
        """Returns the index of a step that has been made; -1 is the last one."""
        count = len(self.steps)
        if not count:
            raise InputError("the run has made no step yet; call advance() or finish()")
        step = checks.whole("step", step, -1, count - 1)
        return count - 1 if step == -1 else step

    def _owner(self, step: int) -> Run:
        """Returns the run that made a step, or will: this one or, for a shared step, an ancestor."""
        run = self
        while step < run.at:
            run = run.parent
        return run
