"""Where the parts of a model lie on this disk, whatever their layout; reads heads of files, never weights.

A part is a folder of its own (diffusers, mflux, DiffusionKit's text encoders, our own saves) or a safetensors
file that is told by its tensor names (black-forest-labs, ComfyUI, DiffusionKit). Knows nothing of tables,
configs or the hub.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from fluxnb.checkpoints import kinds
from fluxnb.checkpoints.files import PICKLES, SAFETENSORS, read_head
from fluxnb.errors import CheckpointError

FOLDERS = {
    "transformer": ("transformer",),
    "vae": ("vae",),
    "text_encoder": ("text_encoder", "clip_l"),
    "text_encoder_2": ("text_encoder_2", "t5"),
    "tokenizer": ("tokenizer", "tokenizer_l"),
    "tokenizer_2": ("tokenizer_2",),
    "scheduler": ("scheduler",),
}
"""Part -> what its folder may be called; the second names are those of DiffusionKit's repository."""

COMFYUI = ("diffusion_models", "unet", "checkpoints"), ("vae", "text_encoders", "clip")
"""ComfyUI's folders of models: where it looks for transformers, and for the other parts beside these."""


USUAL = {
    "transformer": (),
    "vae": ("ae",),
    "text_encoder": ("clip_l",),
    "text_encoder_2": ("t5xxl_fp16", "t5xxl"),
}
"""What files are called on the hub, without suffix: of several that can be a part, one so called is it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Where each part lies: its folder, or a safetensors file that holds it; None where it is not there.

    One file may hold several parts. The tokenizers and the scheduler are folders.
    """

    transformer: Path | None = None
    vae: Path | None = None
    text_encoder: Path | None = None
    text_encoder_2: Path | None = None
    tokenizer: Path | None = None
    tokenizer_2: Path | None = None
    scheduler: Path | None = None

    def missing(self) -> tuple[str, ...]:
        """Names the parts that are not there; without a scheduler a model can do."""
        return tuple(name for name in FOLDERS if name != "scheduler" and getattr(self, name) is None)


def find(path: Path) -> Parts:
    """Finds the parts of a model.

    Folders of parts come first; weights that have none may be a file beside them, told by its tensors and, of
    several, by its name. For a file, the parts that it does not hold are sought beside it. A folder of files
    with a config.json and no folders of parts is one part, if the files hold no other.

    Args:
        path: a folder or a safetensors file.

    Raises:
        CheckpointError: there is nothing, a pickle, no part of a FLUX.1, several files that can be one part.
    """
    if not os.path.exists(path):  # which a path too long to be one only makes False
        raise CheckpointError(f"there is no {path}; give the folder or the safetensors file of a FLUX.1")
    if path.is_dir():
        return _alone(path) or _beside(path, Parts())
    return _beside(path.parent, Parts(**dict.fromkeys(_held(path), path)))


def _alone(folder: Path) -> Parts | None:
    """Takes a folder for one part, if it has the config.json of one, and nothing of any other."""
    holds_more = any((folder / one).is_dir() for called in FOLDERS.values() for one in called)
    if holds_more or not (folder / "config.json").is_file():
        return None
    shapes = {name: shape for file in _files(folder) for name, shape in _shapes(file).items()}
    held = [kind.component for kind in kinds.tell(shapes)]
    return Parts(**{held[0]: folder}) if len(held) == 1 else None


def _beside(folder: Path, parts: Parts) -> Parts:
    """Adds the parts that lie in a folder to those that are known.

    Files that cannot be read are passed over, unless one of them may be what is not found.
    """
    for name, called in FOLDERS.items():
        here = [folder / one for one in called if (folder / one).is_dir()]
        if here and getattr(parts, name) is None:
            parts = replace(parts, **{name: here[0]})
    lacking = [name for name in kinds.WEIGHTS if getattr(parts, name) is None]
    if not lacking:
        return parts
    heads, broken = {}, {}
    for file in _files(folder):
        try:
            heads[file] = _shapes(file)
        except CheckpointError as error:
            broken[file] = error
    held = {file: {kind.component for kind in kinds.tell(shapes)} for file, shapes in heads.items()}
    for name in lacking:
        files = [file for file in heads if name in held[file]]
        usual = [file for stem in USUAL[name] for file in files if file.stem == stem]
        if len(files) > 1 and not usual:
            raise CheckpointError(
                f"{folder}: {files[0].name} and {files[1].name} can both be the {name}; "
                + ("give the one that you mean" if name == "transformer" else "move all but one elsewhere")
            )
        if files:
            parts = replace(parts, **{name: (usual or files)[0]})
        for file, error in broken.items():
            if not files and (parts.transformer is None or file.stem in USUAL[name]):
                raise error
    if parts.transformer is None:
        strangers = [file for file in heads if not held[file]]
        pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
        for file in strangers + pickles:  # what may have been taken for one
            raise _pickle(file) if file in pickles else _stranger(file, heads[file])
    return parts


def _files(folder: Path) -> list[Path]:
    """Lists the safetensors files of a folder, and those of the folders that ComfyUI has beside it."""
    transformers, others = COMFYUI
    folders = [folder]
    if folder.name in transformers:
        folders += [folder.parent / other for other in others if (folder.parent / other).is_dir()]
    files = [file for one in folders for file in one.iterdir() if file.suffix in SAFETENSORS]
    return sorted(file for file in files if not file.is_dir())


def _held(file: Path) -> tuple[str, ...]:
    """Names the parts that a file holds, at least one."""
    if file.suffix in PICKLES:
        raise _pickle(file)
    if file.suffix not in SAFETENSORS:
        raise CheckpointError(
            f"{file} is no safetensors file; give one, or the folder of a FLUX.1 in the layout of diffusers"
        )
    shapes = _shapes(file)
    held = tuple(kind.component for kind in kinds.tell(shapes))
    if not held:
        raise _stranger(file, shapes)
    return held


def _stranger(file: Path, shapes: dict[str, tuple[int, ...]]) -> CheckpointError:
    """Says that a file holds no part of a FLUX.1."""
    what = kinds.describe(shapes)
    return CheckpointError(f"{file} holds {what}; give a FLUX.1-schnell or FLUX.1-dev")


def _pickle(file: Path) -> CheckpointError:
    """Says why a pickle is left alone."""
    return CheckpointError(
        f"{file} is a pickle, which can run any code, and is not opened; take the safetensors file of the "
        "same model"
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Reads names and shapes from the head of a file."""
    return {name: slot.shape for name, slot in read_head(file).items()}
