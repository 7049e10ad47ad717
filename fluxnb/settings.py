"""All that decides a picture, as one record: arguments checked, a model's defaults filled in, changes made.

Knows nothing of networks.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from fluxnb import checks, flow
from fluxnb.checkpoints.adapters import Use
from fluxnb.checkpoints.catalog import Entry
from fluxnb.errors import FluxnbWarning, InputError
from fluxnb.interventions import Intervention, expect

if TYPE_CHECKING:
    from fluxnb.source import Source


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides a picture, every default filled in; made by `fill_in`.

    Args:
        prompt: What is asked for.
        negative_text: What CFG leads away from.
        seed: Of the noise; None for a start from own latents.
        sigmas: Noise levels, from the first to 0; one more than there are steps. The first is 1 or, for a run
            from a picture or with own sigmas, below.
        shift: Static shift that they, or those after the fork, were made with; None for own sigmas.
        guidance: Guidance strength, None for a network that takes none.
        cfg_weight: CFG as in `negative + cfg_weight * (positive - negative)`; 0 switches it off.
        latent_size: (H, W) in latent cells of 8 pixels.
        image: Digest of the picture that it starts from (`fluxnb.source`), None for pure noise.
        denoise: How much of that picture is drawn anew, above 0 and at most 1; 1 without one.
        embedding: Digest of an own embedding (`given.digest`) that stands for the prompt, or None.
        intervention: Holds from the fork on that brought it; None for the network as it is.
        adapters: LoRA adapters beside the model's weights, see `FluxPipeline.load_lora_weights`.
    """

    prompt: str
    negative_text: str
    seed: int | None
    sigmas: tuple[float, ...]
    shift: float | None
    guidance: float | None
    cfg_weight: float
    latent_size: tuple[int, int]
    image: str | None = None
    denoise: float = 1.0
    embedding: str | None = None
    intervention: Intervention | None = None
    adapters: tuple[Use, ...] = ()

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.sigmas) - 1

    @property
    def has_cfg(self) -> bool:
        """Whether a step takes a second pass; at weight 1 it would be multiplied by 0."""
        return self.cfg_weight not in (0, 1)


def fill_in(
    entry: Entry,
    prompt: str,
    *,
    seed: int | None = 0,
    num_steps: int | None = None,
    shift: float | None = None,
    sigmas: Iterable[float] | None = None,
    guidance: float | None = None,
    cfg_weight: float | None = None,
    negative_text: str = "",
    latent_size: tuple[int, int] | None = None,
    image: Source | None = None,
    denoise: float = 1.0,
    adapters: tuple[Use, ...] = (),
) -> Settings:
    """Checks the arguments of a run; what is None becomes the model's default.

    Args:
        entry: The model and its defaults.
        prompt: What is asked for.
        seed: Of the noise, as torch takes it; None draws one.
        num_steps: 1 to 1000.
        shift: Static shift, above 0.
        sigmas: Noise levels in place of `num_steps`, `shift` and `denoise`, see `flow.own_schedule`.
        guidance: Guidance strength, at least 0.
        cfg_weight: At least 0; 0 switches CFG off.
        negative_text: What CFG leads away from.
        latent_size: (H, W) in latent cells of 8 pixels, even.
        image: Picture to start from; without `latent_size` it gives the size, see `Source.latent_size`.
        denoise: How much of it to draw anew, above 0 and at most 1: of `num_steps` steps it leaves out the
            first `flow.skipped_steps`.
        adapters: Of the pipeline.

    Raises:
        InputError: if one of them is none that can be drawn with.
    """
    prompt, negative_text = checks.text("the prompt", prompt), checks.text("negative_text", negative_text)
    seed = secrets.randbelow(2**32) if seed is None else checks.whole("seed", seed, *flow.SEEDS)
    own_size = entry.latent_size if image is None else image.latent_size(entry.latent_size)
    size = checks.latent_size(own_size if latent_size is None else latent_size)
    denoise = checks.number("denoise", denoise, above=0, high=1)
    if sigmas is None:
        shift = default_shift(entry, size) if shift is None else checks.number("shift", shift, above=0)
        sigmas = flow.schedule(entry.num_steps if num_steps is None else num_steps, shift)
        if image is not None:
            sigmas = _from_picture(sigmas, denoise)
    else:
        _only_sigmas(num_steps, shift, None if denoise == 1 else denoise)
        sigmas = flow.own_schedule(sigmas)
    weight = entry.cfg_weight if cfg_weight is None else checks.number("cfg_weight", cfg_weight, low=0)
    if guidance is not None:
        guidance = checks.number("guidance", guidance, low=0)
    if guidance is None or entry.guidance is None:
        guidance = entry.guidance
    settings = Settings(prompt, negative_text, seed, sigmas, shift, guidance, weight, size, adapters=adapters)
    return settings if image is None else replace(settings, image=image.digest, denoise=denoise)


def _from_picture(sigmas: tuple[float, ...], denoise: float) -> tuple[float, ...]:
    """Leaves out the steps at the start that a run from a picture does not make."""
    steps = len(sigmas) - 1
    skipped = flow.skipped_steps(steps, denoise)
    if skipped == steps:
        raise InputError(f"denoise {denoise:g} leaves none of {steps} steps; try denoise={1 / steps:.2g}")
    return sigmas[skipped:]


def branch(
    entry: Entry,
    old: Settings,
    at: int,
    *,
    sigmas: Iterable[float] | None = None,
    intervention: Intervention | None = None,
    **changes,
) -> Settings:
    """Changes the settings of a run from step `at` on.

    The shared part of the schedule stays. The rest stays too unless a `shift` or another `num_steps` is
    given: then it leads from the noise level at step `at` to 0, evenly spaced before the shift.

    Args:
        entry: The model and its defaults.
        old: What the run was started with.
        at: Steps that are shared, at most all.
        sigmas: The rest of the schedule in place of these two, from the noise level at step `at` to 0.
        intervention: Takes the place of the old one.
        changes: Arguments of `fill_in`; what is None stays as it was.

    Raises:
        InputError: if one of them is none that can be drawn with.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    same = {field.name: getattr(old, field.name) for field in fields(old)} | {"num_steps": old.num_steps}
    kept = {name: same.pop(name) for name in ("image", "denoise", "embedding", "intervention")}
    if intervention is not None:
        kept["intervention"] = expect(intervention)
    if "prompt" in changes:
        kept["embedding"] = None
    if old.seed is None and "seed" not in changes:
        same["seed"], kept["seed"] = 0, None
    del same["sigmas"]
    new = replace(fill_in(entry, **same | changes), **kept)
    stays = sigmas is None and "shift" not in changes and new.num_steps == old.num_steps
    if at == old.num_steps and not stays:
        raise InputError(
            f"after all {at} steps no noise is left, and so no schedule to change; fork at an earlier step"
        )
    if sigmas is not None:
        _only_sigmas(changes.get("num_steps"), changes.get("shift"))
        rest = flow.own_schedule(sigmas, start=old.sigmas[at])
        return replace(new, sigmas=old.sigmas[:at] + rest, shift=None)
    if stays:
        return replace(new, sigmas=old.sigmas, shift=old.shift)
    left = checks.whole("num_steps", new.num_steps, low=at + 1) - at
    levels = old.sigmas[:at] + flow.schedule(left, new.shift, start=old.sigmas[at])
    return replace(new, sigmas=_or_same(levels, old.sigmas))


def _or_same(new: tuple[float, ...], old: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the old noise levels where new ones differ by rounding alone."""
    if len(new) == len(old) and all(abs(a - b) < 1e-9 for a, b in zip(new, old, strict=True)):
        return old
    return new


def _only_sigmas(num_steps: int | None, shift: float | None, denoise: float | None = None) -> None:
    """Refuses a schedule that is given twice."""
    for name, value in (("num_steps", num_steps), ("shift", shift), ("denoise", denoise)):
        if value is not None:
            raise InputError(f"sigmas is the whole schedule, but {name} is {value!r}; give one of the two")


def to_tree(settings: Settings) -> dict:
    """Turns settings into what JSON holds; undone by `from_tree`."""
    tree = asdict(replace(settings, intervention=None))
    if settings.intervention is not None:
        tree["intervention"] = settings.intervention.to_json()
    if not settings.adapters:
        del tree["adapters"]  # as files had it before there were any
    return tree


def from_tree(tree: object) -> Settings:
    """Reads settings that come from a file, whoever wrote it.

    Raises:
        InputError: if a value is missing, unknown, or none that can be drawn with.
    """
    if not isinstance(tree, dict):
        raise InputError(f"the settings are a {type(tree).__name__}, which holds none")
    tree = {"adapters": []} | tree
    names = {part.name for part in fields(Settings)}
    for fault, wrong in (("lack", names - set(tree)), ("have an unknown", set(tree) - names)):
        if wrong:
            raise InputError(f"the settings {fault} {min(wrong)!r}")
    return Settings(
        prompt=checks.text("the prompt", tree["prompt"]),
        negative_text=checks.text("negative_text", tree["negative_text"]),
        seed=checks.optional(checks.whole, "seed", tree["seed"], *flow.SEEDS),
        sigmas=flow.own_schedule(tree["sigmas"]),
        shift=checks.optional(checks.number, "shift", tree["shift"], above=0),
        guidance=checks.optional(checks.number, "guidance", tree["guidance"], low=0),
        cfg_weight=checks.number("cfg_weight", tree["cfg_weight"], low=0),
        latent_size=checks.latent_size(tree["latent_size"]),
        image=checks.optional(checks.digest, "image", tree["image"]),
        denoise=checks.number("denoise", tree["denoise"], above=0, high=1),
        embedding=checks.optional(checks.digest, "embedding", tree["embedding"]),
        intervention=checks.optional(lambda _, text: Intervention.from_json(text), "", tree["intervention"]),
        adapters=tuple(_use(**use) for use in tree["adapters"]),
    )


def _use(name: object, digest: object, scale: object) -> Use:
    """Checks an adapter that comes from a file."""
    return Use(
        checks.label("an adapter's name", name),
        checks.digest("an adapter", digest),
        checks.number("an adapter's scale", scale),
    )


def default_shift(entry: Entry, latent_size: tuple[int, int]) -> float:
    """Returns a model's own shift for a size."""
    if entry.shift is not None:
        return entry.shift
    return flow.resolution_shift(
        latent_size, entry.base_tokens, entry.base_shift, entry.max_tokens, entry.max_shift
    )


def warn_of_no_effect(
    entry: Entry,
    settings: Settings,
    guidance: float | None,
    negative_text: str | None,
    denoise: float | None = None,
) -> None:
    """Warns of what was asked for just now and changes nothing; None is what was not asked for.

    Called by who was called by the user, so that the warning points at the user's line.
    """
    if guidance is not None and entry.guidance is None:
        message = f"guidance has no effect: {entry.name} takes none; try cfg_weight"
        warnings.warn(message, FluxnbWarning, stacklevel=3)
    if negative_text and not settings.has_cfg:
        message = f"negative_text has no effect at cfg_weight {settings.cfg_weight:g}; try cfg_weight=3"
        warnings.warn(message, FluxnbWarning, stacklevel=3)
    if denoise is None:
        return
    if settings.image is None and denoise != 1:
        message = f"denoise {denoise:g} has no effect without a picture to start from; give one"
        warnings.warn(message, FluxnbWarning, stacklevel=3)
    if settings.image is not None and settings.sigmas[0] == 1:
        message = (
            f"the picture has no effect: denoise {denoise:g} of {settings.num_steps} steps is all of them, "
            "from pure noise; try denoise=0.6"
        )
        warnings.warn(message, FluxnbWarning, stacklevel=3)
