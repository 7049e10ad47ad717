"""Our own layout: a model as it is in memory, quantised or not, in a folder that needs no further word.

    fluxnb.json                     sizes, defaults and licence, and what wrote it
    transformer/model.safetensors   our parameters by their names; likewise vae, text_encoder, text_encoder_2
    tokenizer/, tokenizer_2/        copies of the tokenizers' files
    vocabulary.json                 what it was taught, if that is known

Read back, it gives the same bits. Knows nothing of other layouts.
"""

from __future__ import annotations

import errno
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from fluxnb.checkpoints import layouts, linear, vocabulary
from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.components import Component
from fluxnb.checkpoints.files import read_head, read_json, read_tensors
from fluxnb.checkpoints.networks import DTYPES, PARTS, Configs, Networks, SwappedNetworks
from fluxnb.checkpoints.parts import Parts
from fluxnb.errors import CheckpointError, FluxnbError, InputError
from fluxnb.model import layers
from fluxnb.version import __version__

FILE, FORMAT = "fluxnb.json", 1
WEIGHTS = "model.safetensors"
TOKENIZERS = ("tokenizer", "tokenizer_2")
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "spiece.model", "vocab.json", "merges.txt")
LEFT_OUT = ("places", "commit")  # of an entry: the model lies here now
BARE = {"adapter": None}  # of an entry: what is saved are the model's own weights
TABLE: layouts.Table = (layouts.Rule("**", ("**",)),)


@dataclass(frozen=True, slots=True)
class Saved:
    """What fluxnb.json says of the folder that it lies in."""

    folder: Path
    configs: Configs
    entry: Entry

    def open(self, name: str) -> Component:
        """Opens the weights of a network.

        Raises:
            CheckpointError: they cannot be read.
        """
        return Component(getattr(self.configs, name), TABLE, read_tensors(self.folder / PARTS[name]))


def find(parts: Parts) -> Path | None:
    """Tells the folder of a save of ours, None for parts that lie elsewhere or in several places."""
    folders = {
        path.parent for path in (getattr(parts, name) for name in (*PARTS.values(), *TOKENIZERS)) if path
    }
    return next((folder for folder in folders if len(folders) == 1 and (folder / FILE).is_file()), None)


def read(folder: Path) -> Saved:
    """Reads what a save says of itself.

    Raises:
        CheckpointError: it is of a newer format, or says something else than sizes and defaults.
    """
    path = folder / FILE
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {values.get('format')!r}, and this fluxnb reads format {FORMAT}; update "
            "fluxnb, or save the model again with this one"
        )
    configs = values.get("configs")
    if not isinstance(configs, dict) or configs.keys() != PARTS.keys():
        raise CheckpointError(f"{path} has no configs of {', '.join(PARTS)}; save the model again")
    hints = get_type_hints(Configs)
    made = {name: _record(hints[name], configs[name], path, f"configs.{name}") for name in PARTS}
    entry = _record(Entry, values.get("entry"), path, "entry", LEFT_OUT)
    if entry.dtype not in DTYPES:
        raise CheckpointError(f"{path}: entry.dtype is {entry.dtype!r}; save the model again")
    if (entry.guidance is not None) != made["mmdit"].guidance:
        raise CheckpointError(
            f"{path}: entry.guidance is {entry.guidance}, but configs.mmdit.guidance is "
            f"{str(made['mmdit'].guidance).lower()}; save the model again"
        )
    return Saved(folder, Configs(**made), replace(entry, **BARE))


def write(folder: Path, networks: Networks | SwappedNetworks, entry: Entry, overwrite: bool = False) -> None:
    """Saves a model, whole or not at all: it is written beside the folder and then takes its place.

    Args:
        folder: made, as are those above it.
        networks: written one after the other.
        entry: defaults to load it with.
        overwrite: replace a save of fluxnb that is there.

    Raises:
        InputError: something else is there, it cannot be written, or the tokenizers came from no files.
        FluxnbError: the disk fails or is full; what was there before is still there.
    """
    try:
        folder = folder.resolve()  # a link stays, and what it points at is replaced
        is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise InputError(f"{folder} cannot be written ({error}); give another path") from error
    if not is_new:
        if not (folder / FILE).is_file():
            raise InputError(f"{folder} is there and is no model saved by fluxnb; give a folder of its own")
        if not overwrite:
            raise InputError(f"{folder} holds a model already; give another folder, or overwrite=True")
    if networks.tokenizer_folders is None:
        raise InputError(
            "these tokenizers were read from no files, so the model cannot be saved; load it first"
        )
    with _in_place_of(folder) as temporary:
        for source, name in zip(networks.tokenizer_folders, TOKENIZERS, strict=True):
            (temporary / name).mkdir()
            for file in TOKENIZER_FILES:
                if (source / file).exists():
                    shutil.copyfile(source / file, temporary / name / file)
        bits = {}
        for name, part in PARTS.items():
            (temporary / part).mkdir()
            bits[name] = _write_weights(temporary / part / WEIGHTS, getattr(networks, name))
        if networks.linear is not None:
            _write_json(temporary / PARTS["vae"] / linear.FILE, asdict(networks.linear))
        if networks.vocabulary is not None:
            _write_json(temporary / vocabulary.FILE, asdict(networks.vocabulary))
        values = {
            "format": FORMAT,
            "fluxnb": __version__,
            "bits": bits,
            "entry": {key: value for key, value in (asdict(entry) | BARE).items() if key not in LEFT_OUT},
            "configs": asdict(networks.configs),
        }
        _write_json(temporary / FILE, values)


def _write_weights(path: Path, network: nn.Module) -> list[int]:
    """Writes the parameters of a network; returns the bits of what is quantised in it."""
    arrays = dict(tree_flatten(network.parameters()))
    if shutil.disk_usage(path.parent).free < sum(array.nbytes for array in arrays.values()):
        raise OSError(errno.ENOSPC, "no space left on the disk")
    mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})
    read_head(path)  # sees a file that was cut off
    matrices = (module for _, module in network.named_modules() if "scales" in module)
    return sorted({layers.bits(matrix.weight, matrix.scales) for matrix in matrices})


def _write_json(path: Path, values: dict) -> None:
    """Writes a JSON object."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _in_place_of(folder: Path) -> Iterator[Path]:
    """Gives an empty folder that takes the place of another at the end; after an error nothing changes."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    old = temporary.with_name(temporary.name + ".old")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another path") from error
    try:
        yield temporary
        try:
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    except (OSError, RuntimeError, CheckpointError) as error:  # RuntimeError: MLX's word for a file
        raise FluxnbError(
            f"the model could not be saved in {folder} ({error}); nothing of it is left, make room or give "
            "another path"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _record(kind: type, values: Any, path: Path, what: str, left_out: tuple[str, ...] = ()) -> Any:
    """Makes a record of JSON, every field of its own kind."""
    names = {field.name for field in fields(kind)} - set(left_out)
    if not isinstance(values, dict) or values.keys() != names:
        raise CheckpointError(f"{path}: {what} has not the fields of {kind.__name__}; save the model again")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _is(value, hints[name]):
            raise CheckpointError(f"{path}: {what}.{name} is {value!r}; save the model again")
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _is(value: Any, hint: Any) -> bool:
    """Tells whether a value of JSON is of a kind; numbers are none below 0."""
    if isinstance(hint, UnionType):
        return any(_is(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_is(one, int) for one in value)
    if hint in (int, float):
        return type(value) in (int, hint) and value >= 0
    return type(value) is hint
