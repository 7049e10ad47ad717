"""Files of a component to lazy arrays and settings, or to one sentence on what is wrong with them.

Knows nothing of networks or layouts. Only safetensors are opened: a pickle runs whatever code it holds.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from fluxnb.errors import CheckpointError

FLOATS = ("F32", "F16", "BF16")  # as safetensors names them
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Tensors:
    """All tensors of a component, not read yet.

    Attributes:
        arrays: name -> array; MLX reads it when it is evaluated. Who takes one out frees its memory.
        files: name -> file that holds it.
        origin: the file, or the index of several, for messages.
    """

    arrays: dict[str, mx.array]
    files: Mapping[str, Path]
    origin: Path


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; download the folder again") from error
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object; download it again")
    return value


def read_tensors(folder: Path, stem: str) -> Tensors:
    """Opens the weights of a component, in one file or in shards with an index.

    Args:
        folder: of the component, e.g. `.../transformer`.
        stem: name of the file without `.safetensors`.

    Raises:
        CheckpointError: no such file, a pickle, a Git LFS pointer, a file cut off, an index that does not fit
            its shards, a tensor that holds no floats.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.exists():
        return _shards(index)
    if single.exists():
        arrays = _open(single)
        return Tensors(arrays, dict.fromkeys(arrays, single), single)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder} holds {pickles[0]} but no {single.name}; a pickle can run any code and is not opened: "
            "save the weights as safetensors (save_pretrained of diffusers or transformers does)"
        )
    held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise CheckpointError(f"{folder} holds no {single.name}, but {held}; download the folder again")


def _shards(index: Path) -> Tensors:
    """Opens all files that an index names."""
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files; download it again")
    arrays, files = {}, {}
    for name in sorted(set(placed.values())):
        path = index.parent / name
        if path.parent != index.parent:
            raise CheckpointError(f"{index} names {name}, which lies in another folder; download it again")
        shard = _open(path)
        files |= dict.fromkeys(shard, path)
        arrays |= shard
    astray = sorted(
        tensor for tensor in {*placed, *files} if files.get(tensor) != index.parent / placed.get(tensor, "")
    )
    if astray:
        where = files.get(astray[0])
        raise CheckpointError(
            f"{index} says that {astray[0]} is in {placed.get(astray[0], 'no file')}, but it is "
            f"in {where.name if where else 'none'} ({len(astray)} such tensors); download the folder again"
        )
    return Tensors(arrays, files, index)


def _open(path: Path) -> dict[str, mx.array]:
    """Checks a safetensors file by its head and its size, and opens it."""
    _check(path)
    try:
        return mx.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be opened ({error}); download it again") from error


def _check(path: Path) -> None:
    """Compares what the head of a file promises with its size and with what MLX reads."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            head = file.read(length) if 2 <= length <= size - 8 else b""
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; download the folder again") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if start == b"version ":
        raise CheckpointError(
            f"{path} is a Git LFS pointer of {size} bytes, not the weights; run `git lfs pull` beside it"
        )
    try:
        tensors = json.loads(head)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        strange = [
            (name, tensor["dtype"]) for name, tensor in tensors.items() if tensor["dtype"] not in FLOATS
        ]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        cut = "is cut off within its head" if size - 8 < length < 1 << 27 else "is no safetensors file"
        raise CheckpointError(f"{path} {cut}; download it again") from error
    expected = 8 + length + end
    if size != expected:
        fault = "is cut off" if size < expected else "is too long"
        raise CheckpointError(f"{path} {fault}: {size} bytes, expected {expected}; download it again")
    if strange:
        name, dtype = strange[0]
        raise CheckpointError(
            f"{path} holds {name} as {dtype} ({len(strange)} such tensors), expected {', '.join(FLOATS)}; "
            "take a file in one of these"
        )
