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

from fluxnb import advice, checks, flow, look
from fluxnb.asked import Hearing, tokens
from fluxnb.errors import InputError
from fluxnb.flow import Step
from fluxnb.interventions import Intervention
from fluxnb.maps import AttentionMap
from fluxnb.model.layers import Attend
from fluxnb.model.tokenizers import Word
from fluxnb.probe import Probe, find_step
from fluxnb.questions import Questions
from fluxnb.settings import Settings, branch, warn_of_no_effect
from fluxnb.texts import TextEmbedding

if TYPE_CHECKING:
    from fluxnb.saved import Saved
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
        probes: What is asked of every step while it is made, see `maps`.
        heard: What was heard in the steps that led there, None or () where nothing was.

    Attributes:
        session: As given, like `settings`, `parent`, `at`, `source` and `probes`.
        text: The prompt as the transformer reads it.
        negative: The negative text likewise, None without CFG.
        opened: The file that it was opened from, if it was.
    """

    opened: Saved | None = None

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
        probes: Iterable[Probe] = (),
        heard: tuple[Hearing | None, ...] = (),
    ):
        """Encodes the texts, if they are not there."""
        self.session = session
        self.settings = settings
        self.parent = parent
        self.at = len(steps) if at is None else at
        self.source = source
        self.text: TextEmbedding = session.encode_text(settings.prompt) if text is None else text
        self.negative: TextEmbedding | None = (
            session.encode_text(settings.negative_text) if settings.has_cfg else None
        )
        self.probes = checks.several("probes", probes, Probe)
        self._asked = look.prepare(self, len(steps))
        # one assignment changes all three, so that no interrupt comes between
        self._state = steps, latents, heard or (None,) * len(steps)
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
    def notes(self) -> tuple[str, ...]:
        """What its texts lost, and what in it the model was not taught, in sentences; usually none."""
        return advice.notes(self.session.pipeline.vocabulary, self.settings, self.text, self.negative)

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
    def maps(self) -> tuple[tuple[AttentionMap, ...], ...]:
        """For each step made so far the answers to the probes that it was made with, in their order."""
        return tuple(() if hearing is None else hearing.maps for hearing in self._state[2])

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
        steps, latents, heard = self._state
        index, pipeline = len(steps), self.session.pipeline
        hearing = None
        if self._asked is not None:
            hearing = self._asked.hearing(index, self.sigmas[index], look.cut_blocks(self, index))
        hear = None if hearing is None else hearing.around
        step = pipeline.step(index, latents, self.settings, self.text, self.negative, hear)
        latents = flow.euler(step)
        mx.eval(latents)
        # the only change there is: an interrupt before it loses one step
        self._state = (*steps, step), latents, (*heard, hearing)
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

    def image(self, i: int = -1, kind: str = "clean", decoder: str | None = None) -> Image.Image:
        """Decodes a picture of the run.

        Args:
            i: Index of a step, or as many as there are steps, or -1, for the state after the last one.
            kind: "clean", the picture that the step's straight line ends in; "noisy", the latents before it.
            decoder: "vae", "taef1" or "linear", see `FluxPipeline.decode`; None for the session's.

        Raises:
            InputError: if there is no such step or kind, or that decoder is not there.
        """
        checks.choice("kind", kind, KINDS)
        count = len(self.steps)
        i = checks.whole("the step of an image", i, -1, count)
        i = count if i == -1 else i
        if kind == "noisy":
            latents = self.latents if i == count else self.steps[i].latents
            return self.session.decode(latents, decoder)
        if not count:
            raise InputError("the run has made no step yet, so nothing is clean; call advance() or finish()")
        return self.session.decode(flow.clean(self.steps[min(i, count - 1)]), decoder)

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
        probes: Iterable[Probe] = (),
    ) -> Run:
        """Branches off after `at` steps, which both runs share; with no change it ends in the same bits.

        But where `at` lies before this run itself branched off: its own changes then hold from there on, all
        but its schedule, which stays as it is.

        Args:
            at: Steps to share, 0 to as many as have been made.
            prompt: For the rest of the way; None, here and below, for that of this run.
            seed: New noise, mixed at the noise level of step `at` with the clean picture of the step before.
            num_steps: Steps of the whole run, shared ones included.
            shift: Static shift; where one is given, or another `num_steps`, the rest of the schedule is
                spaced anew from the noise level that is reached.
            sigmas: The rest of the schedule in place of these two, from the level that is reached to 0.
            guidance: Guidance strength.
            cfg_weight: Weight of CFG.
            negative_text: What CFG leads away from.
            intervention: What is changed in the network from step `at` on, in place of what this run changes.
            probes: What is asked of every step from there on, see `maps`; those of this run do not pass on.

        Raises:
            InputError: if an argument is none that can be drawn with, or the intervention speaks of a word,
                block, head or step that there is not; or if new noise at step 0 needs a clean picture that a
                saved run has not kept, or that a run from own latents never had.
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
        if settings.seed != self.owner(at).seed:
            if not at and self.source is None and settings.image is not None:
                raise InputError(
                    "new noise at step 0 needs the picture that the run started from, which a saved run does "
                    "not hold; fork at step 1 or later, or start again with session.start(..., image=...)"
                )
            if not at and self.owner(0).seed is None and self.sigmas[0] < 1:
                raise InputError(
                    f"the latents that this run was given hold noise up to {self.sigmas[0]:g}, and no clean "
                    "picture to mix with new noise; fork at step 1 or later"
                )
            if at:
                clean, noise = flow.clean(self.steps[at - 1]), pipeline.noise(settings)
                latents = flow.add_noise(clean, noise, self.sigmas[at])
                mx.eval(latents)
            else:
                latents = pipeline.first_latents(settings, self.source)
        text = self.text if prompt is None else self.session.encode_text(settings.prompt)
        held, count = settings.intervention, settings.num_steps
        if held is not None and (intervention is not None or any(map(held.acts_on, range(at, count)))):
            first = 0 if intervention is None else at  # one that is inherited may have begun before
            held.check(tokens(text, self.latent_size), pipeline.networks.configs.mmdit, count, first)
        more = {"text": text, "source": self.source, "probes": probes, "heard": self._state[2][:at]}
        run = Run(self.session, settings, latents, self.steps[:at], self, **more)
        advice.warn(note for note in run.notes if note not in self.notes)
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
        index = find_step(step, len(self.steps))
        owner, record = self.owner(index), self.steps[index]
        velocity = self.session.pipeline.velocity_at(
            index, record.latents, record.sigma, owner.settings, owner.text, owner.negative, attend
        )
        mx.eval(velocity)
        return velocity

    def owner(self, step: int) -> Run:
        """Returns the run that made a step, or will: this one or, for a step that is shared, an ancestor."""
        run = self
        while step < run.at:
            run = run.parent
        return run
