"""A run as one file and back: latents and velocities as safetensors, and its settings as JSON in the head.

    latents      (N + 1, H, W, C)  float32, before each of the N steps, and after the last
    velocities   (N, H, W, C)      float32
    text.I.txt, text.I.vec         embedding of part I, if it is none of the text encoders'

A run that is a fork is a row of parts, one for each run of its family that made some of its steps. A file is
not trusted: everything in it is checked, nothing in it is a path, and no model is loaded because of it. Knows
nothing of how steps are made.
"""

from __future__ import annotations

import io
import json
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import mlx.core as mx
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from fluxnb import checks, disk
from fluxnb.errors import CheckpointError, InputError
from fluxnb.flow import Step
from fluxnb.identity import Model, identify
from fluxnb.model.tokenizers import Word
from fluxnb.settings import Settings, from_tree, to_tree
from fluxnb.texts import TextEmbedding
from fluxnb.version import __version__

if TYPE_CHECKING:
    from fluxnb.run import Run

FORMAT = 1
KEY = "fluxnb_run"  # under which the head keeps the JSON
LONGEST_HEAD = 1 << 24  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The settings that some steps of a run were made with.

    Args:
        at: Index of the first of these steps.
        settings: Of the run that made them.
        text: Its embedding, if it is none of the text encoders'.
    """

    at: int
    settings: Settings
    text: TextEmbedding | None


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What a file holds of a run; `FluxSession.open` makes it a run again.

    Args:
        steps: All steps that were made, arrays evaluated.
        latents: After the last of them, (1, H, W, C).
        parts: At least one; the first begins at step 0, the last is the run itself.
        model: What drew it, or its first steps.
        fluxnb: Version that did.
        mlx: Version of MLX.
        others: What drew further steps, where the run was opened and went on with other weights.
    """

    steps: tuple[Step, ...]
    latents: mx.array
    parts: tuple[Part, ...]
    model: Model
    fluxnb: str
    mlx: str
    others: tuple[Model, ...] = ()

    @property
    def models(self) -> tuple[Model, ...]:
        """All that drew steps of it."""
        return self.model, *self.others

    @property
    def settings(self) -> Settings:
        """Those of the run; some of its first steps may have been made with others."""
        return self.parts[-1].settings

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels before each step and after the last, steps that were not made included."""
        return self.settings.sigmas


def write(run: Run, path: str | os.PathLike) -> None:
    """Saves a run, finished or not; a file of that name is replaced in one go, or stays as it was.

    Raises:
        InputError: if it cannot be written there, or holds numbers that are not finite.
        FluxnbError: if the disk is full.
    """
    disk.write(path, dump(run))


def read(path: str | os.PathLike) -> Saved:
    """Reads a file that `write` wrote; needs no model.

    Raises:
        CheckpointError: if it is missing, cut off, no saved run, or one that cannot be.
    """
    path = Path(os.path.expanduser(path))
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}; give the path of a saved run")
        with path.open("rb") as file:
            return _read(file, str(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error


def dump(run: Run) -> bytes:
    """Returns the bytes of the file that `write` writes.

    Raises:
        InputError: if the run holds numbers that are not finite.
    """
    steps, latents, _ = run._state  # of one moment: another thread may be advancing the run
    owners, end = [run], run.at
    while end:
        owners.append(run.owner(end - 1))
        end = owners[-1].at
    owners.reverse()
    states = [*(step.latents for step in steps), latents]
    nothing = np.empty((0, *latents.shape[1:]), np.float32)
    tensors = {
        "latents": np.concatenate([np.array(state) for state in states]),
        "velocities": np.concatenate([nothing, *(np.array(step.velocity) for step in steps)]),
    }
    parts = []
    for i, owner in enumerate(owners):
        part = {"at": owner.at, "settings": to_tree(owner.settings)}
        if owner.settings.embedding is not None:
            tensors |= {f"text.{i}.txt": np.array(owner.text.txt), f"text.{i}.vec": np.array(owner.text.vec)}
            part["words"] = [[word.text, word.tokens] for word in owner.text.words]
            part["end"] = owner.text.end
        parts.append(part)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(
                f"{name} of the run are not all finite, so it cannot be saved; draw it in more bits"
            )
    models, versions = [identify(run.session.pipeline)], (__version__, mx.__version__)
    if held := next((owner.opened for owner in owners if owner.opened is not None), None):
        is_longer = not set(steps) <= set(held.steps)  # a step is only ever equal to itself
        models = list(dict.fromkeys((*held.models, *models[:is_longer])))
        versions = held.fluxnb, held.mlx
    told = {
        "format": FORMAT,
        "fluxnb": versions[0],
        "mlx": versions[1],
        "model": asdict(models[0]),
        "others": [asdict(model) for model in models[1:]],
        "seconds": [step.seconds for step in steps],
        "parts": parts,
    }
    return safetensors.numpy.save(tensors, {KEY: json.dumps(told)})


def load(data: bytes) -> Saved:
    """Reads what `dump` returned.

    Raises:
        CheckpointError: if it is nothing of the kind.
    """
    return _read(io.BytesIO(data), "the saved run")


def _read(file: BinaryIO, origin: str) -> Saved:
    """Reads the head, and only if it is that of a saved run the rest."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    head = file.read(length) if 2 <= length <= LONGEST_HEAD else b""
    try:
        told = json.loads(json.loads(head)["__metadata__"][KEY])
        kind = told["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CheckpointError(
            f"{origin} is no saved run, or is cut off within its head; give a file that run.save(path) wrote"
        ) from None
    if kind != FORMAT:
        raise CheckpointError(
            f"{origin} is a saved run of format {kind!r}, but fluxnb {__version__} reads format {FORMAT}; "
            "open it with the fluxnb that saved it, or a newer one"
        )
    try:
        tensors = safetensors.numpy.load(start + head + file.read())
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{origin} is cut off or damaged ({error}); copy or save it again") from None
    try:
        return _saved(told, tensors)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{origin} is damaged ({error}); copy or save it again") from None


def _saved(told: dict, tensors: dict[str, np.ndarray]) -> Saved:
    """Makes sure that everything fits, and puts it together."""
    latents, velocities = _take(tensors, "latents", 4), _take(tensors, "velocities", 4)
    seconds = [checks.number("seconds", value, low=0) for value in told["seconds"]]
    count = len(seconds)
    parts = tuple(_part(i, tree, tensors) for i, tree in enumerate(told["parts"]))
    if tensors:
        raise InputError(f"it holds {sorted(tensors)[0]}, which belongs to nothing")
    starts, sigmas = [part.at for part in parts], parts[-1].settings.sigmas
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] > count or count >= len(sigmas):
        raise InputError(f"its parts begin at {starts}, but it has {count} of {len(sigmas) - 1} steps")
    for part, end in zip(parts, [*starts[1:], count], strict=True):
        if part.settings.sigmas[: end + 1] != sigmas[: end + 1]:
            raise InputError("its parts have different noise levels")
        if part.settings.latent_size != latents.shape[1:3]:
            raise InputError(f"its parts have another size than its latents, {latents.shape}")
    if latents.shape != (count + 1, *velocities.shape[1:]) or len(velocities) != count:
        raise InputError(f"{count} steps with latents {latents.shape} and velocities {velocities.shape}")
    states = [mx.array(state[None]) for state in latents]
    steps = tuple(
        Step(i, sigmas[i], sigmas[i + 1], states[i], mx.array(velocities[i][None]), seconds[i])
        for i in range(count)
    )
    model, *others = map(_model, [told["model"], *told.get("others", ())])
    versions = [checks.label(f"the version of {name}", told[name]) for name in ("fluxnb", "mlx")]
    return Saved(steps, states[-1], parts, model, *versions, tuple(others))


def _model(tree: dict) -> Model:
    """Reads which model it was."""
    return Model(
        checks.label("the model's name", tree["name"]),
        checks.optional(checks.label, "the model's revision", tree["revision"]),
        checks.label("the model's fingerprint", tree["fingerprint"]),
    )


def _part(i: int, tree: dict, tensors: dict[str, np.ndarray]) -> Part:
    """Reads part `i`, whose tensors are taken out."""
    settings = from_tree(tree["settings"])
    if settings.embedding is None:
        return Part(checks.whole("at", tree["at"]), settings, None)
    txt, vec = _take(tensors, f"text.{i}.txt", 3), _take(tensors, f"text.{i}.vec", 2)
    last = txt.shape[1] - 1
    words = tuple(
        Word(checks.text("a word", word), tuple(checks.whole("a token", token, 0, last) for token in tokens))
        for word, tokens in tree["words"]
    )
    end = checks.whole("the end token", tree["end"], 0, last)
    text = TextEmbedding(settings.prompt, mx.array(txt), mx.array(vec), words, end, notes=())
    return Part(checks.whole("at", tree["at"]), settings, text)


def _take(tensors: dict[str, np.ndarray], name: str, ndim: int) -> np.ndarray:
    """Takes out a tensor of finite float32."""
    if name not in tensors:
        raise InputError(f"it lacks {name}")
    tensor = tensors.pop(name)
    if tensor.dtype != np.float32 or tensor.ndim != ndim or not np.isfinite(tensor).all():
        raise InputError(
            f"{name} is {tensor.dtype} {tensor.shape}; expected float32 in {ndim} dimensions, all finite"
        )
    return tensor
