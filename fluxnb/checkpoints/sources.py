"""What a caller named, to an entry of the catalog and the parts of a model on this disk; reads no weights.

A name of the catalog comes first, then a path that exists, then a repository on the hub. Nothing is
downloaded unless the caller named a model on the hub.
"""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from fluxnb.checkpoints import catalog
from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.parts import FOLDERS, Parts, find
from fluxnb.errors import CheckpointError, InputError

PACKAGE = Path(__file__).parents[1]
DEMO_FOLDER = PACKAGE / "demo"
LENDERS = (catalog.SCHNELL, catalog.DEV, catalog.SCHNELL_DIFFUSIONKIT)
"""Models whose text encoders, tokenizers and autoencoder are those of every FLUX.1."""


def locate(
    model_version: str | os.PathLike,
    local_ckpt: str | os.PathLike | None = None,
    revision: str | None = None,
) -> tuple[Entry, Parts]:
    """Finds a model and, if it is one on the hub, brings it into the cache.

    Args:
        model_version: a name as `catalog.find` has it, or the path of a folder or a safetensors file.
        local_ckpt: folder or file to take the weights from instead; what it lacks is taken from the model
            that `model_version` names, if that is on the hub.
        revision: branch, tag or commit of a model on the hub.

    Returns:
        The entry, which has the path for its name if the weights are the user's own and the commit if they
        are from the hub, and all parts.

    Raises:
        UnknownModelError: no model of that name.
        InputError: an argument of another kind; a revision of what has none.
        DownloadError: a model on the hub cannot be had.
        CheckpointError: the files are no FLUX.1, or not all of one.
    """
    for name, value in (("model_version", model_version), ("local_ckpt", local_ckpt)):
        if not isinstance(value, (str, os.PathLike)) and (name == "model_version" or value is not None):
            what = "a name such as 'fluxnb/demo', or " if name == "model_version" else ""
            raise InputError(f"{name} is {value!r}; give {what}the path of a folder or a safetensors file")
    if local_ckpt == "":
        raise InputError("local_ckpt is empty; give the path of a folder or a safetensors file, or None")
    if local_ckpt is not None and _path(model_version):
        raise InputError(f"model_version is the path {model_version}, and local_ckpt is another; give one")
    path = local_ckpt if local_ckpt is not None else _path(model_version)
    if path is None:
        return _named(catalog.find(model_version), revision)
    if revision is not None:
        raise InputError(f"revision is {revision!r}, but {path} has none; leave it out")
    path = Path(os.path.expanduser(path))
    base = catalog.DEMO if local_ckpt is None else catalog.find(model_version)
    own = replace(base, name=str(path), licence="unknown", places=(), adapter=None)
    parts = find(path)
    return own, _completed(parts, base, path) if _lacking(parts) else parts


def _path(model_version: str | os.PathLike) -> Path | None:
    """Tells whether a path was given; one that is not there counts if it can be nothing else."""
    if not isinstance(model_version, str):
        return Path(model_version)
    if model_version.lower() in (entry.name.lower() for entry in catalog.ENTRIES):
        return None
    path = Path(os.path.expanduser(model_version))
    is_path = model_version.startswith((".", "/", "~")) or model_version.endswith(".safetensors")
    is_path = is_path or model_version.count("/") > 1
    return path if is_path or (model_version and os.path.exists(path)) else None


def _named(entry: Entry, revision: str | None) -> tuple[Entry, Parts]:
    """Gives a model by its entry."""
    if entry.places:
        parts = _hub().fetch(entry, revision)
        return replace(entry, commit=_hub().commit(entry, parts)), parts
    if revision is not None:
        raise InputError(f"revision is {revision!r}, but {entry.name} comes with fluxnb; leave it out")
    return entry, find(DEMO_FOLDER)


def _lacking(parts: Parts) -> tuple[str, ...]:
    """Names what is not there and should be: who has one config.json of diffusers has the scheduler's too."""
    diffusers = parts.transformer is not None and (parts.transformer / "config.json").exists()
    return parts.missing() + (("scheduler",) if diffusers and parts.scheduler is None else ())


def _completed(parts: Parts, base: Entry, path: Path) -> Parts:
    """Adds what the user's own files lack, if that may be downloaded or is in the cache."""
    lacking = _lacking(parts)
    if parts.transformer is not None and base.places:
        return _joined(parts, _hub().fetch(base.only(lacking)), lacking)
    if parts.transformer is not None and parts.transformer.is_file():
        for lender in LENDERS:
            if found := _hub().held(lender.only(lacking)):
                return _joined(parts, found, lacking)
    remedy = _remedy(path, lacking)
    raise CheckpointError(f"{path} is no whole FLUX.1, it lacks {', '.join(lacking)}; {remedy}")


def _remedy(path: Path, lacking: Collection[str]) -> str:
    """Says what to do about parts that are not there."""
    is_part = path.is_dir() and (path.name in FOLDERS or (path / "config.json").exists())
    if "transformer" in lacking:
        above = "give the folder above, which holds all parts"
        return above if is_part else "put it there, or download it again"
    where = "there" if path.is_dir() else "beside it"
    put = "give the folder above if it holds them" if is_part else f"put them {where}"
    return (
        f"{put}, or name the model on the hub to download them from, for example "
        f"FluxPipeline({catalog.SCHNELL.name!r}, local_ckpt={str(path)!r})"
    )


def _joined(parts: Parts, others: Parts, names: Collection[str]) -> Parts:
    """Takes some parts from others."""
    return replace(parts, **{name: getattr(others, name) for name in names})


def _hub():
    """Imports the hub, which a model on this disk has no use for."""
    from fluxnb.checkpoints import hub

    return hub
