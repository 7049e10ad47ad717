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
SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
STEMS = ("diffusion_pytorch_model", "model")  # of the weights that diffusers and transformers read of several
LONGEST_HEAD = 100_000_000  # bytes, safetensors' own limit


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor as the head of its file tells of it: format in the words of safetensors, and shape."""

    dtype: str
    shape: tuple[int, ...]


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
    except (OSError, ValueError, RecursionError) as error:  # what is no UTF-8 or JSON is a ValueError
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object; download it again")
    return value


def read_tensors(path: Path) -> Tensors:
    """Opens the weights of a component.

    Args:
        path: a safetensors file, or the folder of the component: one file in it, shards with an index, or
            shards numbered from 0 as mflux saves them.

    Raises:
        CheckpointError: no such file, several, a pickle, a Git LFS pointer, a file cut off, an index that
            does not fit its shards, a tensor in a format that is not read.
    """
    if not path.is_dir():
        return _whole(path)
    for stem in STEMS:
        index, single = path / f"{stem}.safetensors.index.json", path / f"{stem}.safetensors"
        if index.exists():
            return _shards(index)
        if single.exists():
            return _whole(single)
    files = sorted(path.glob("*.safetensors"))
    numbered = [path / f"{i}.safetensors" for i in range(len(files))]
    if files and set(files) == set(numbered):
        return _joined(numbered, path)
    if len(files) == 1:
        return _whole(files[0])
    if files:
        raise CheckpointError(
            f"{path} holds {files[0].name} and {files[1].name}, and no index of them; if they are parts of "
            "one model, download the folder again, else leave the one file that you mean"
        )
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            f"{path} holds {pickles[0]} but no safetensors; a pickle can run any code and is not opened: "
            "save the weights as safetensors (save_pretrained of diffusers or transformers does)"
        )
    held = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
    raise CheckpointError(f"{path} holds no safetensors file, but {held}; download the folder again")


def _whole(file: Path) -> Tensors:
    """Opens a component that is one file."""
    arrays = _open(file)
    return Tensors(arrays, dict.fromkeys(arrays, file), file)


def _joined(shards: list[Path], folder: Path) -> Tensors:
    """Opens shards that no index tells of."""
    arrays, files = {}, {}
    for shard in shards:
        opened = _open(shard)
        twice = sorted(opened.keys() & arrays.keys())
        if twice:
            raise CheckpointError(
                f"{shard} and {files[twice[0]].name} both hold {twice[0]}; download the folder again"
            )
        arrays |= opened
        files |= dict.fromkeys(opened, shard)
    return Tensors(arrays, files, folder)


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
    _check_formats(path, read_head(path))
    try:
        return mx.load(str(path), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be opened ({error}); download it again") from error


def read_head(path: Path) -> dict[str, Slot]:
    """Reads what a safetensors file holds, and compares what its head promises with its size.

    Raises:
        CheckpointError: no such file, a Git LFS pointer, a file cut off, something else than safetensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            head = file.read(length) if 2 <= length <= min(size - 8, LONGEST_HEAD) else b""
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; download the folder again") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise CheckpointError(f"{path} cannot be read ({error}); download it again") from error
    if start == b"version ":
        raise CheckpointError(
            f"{path} is a Git LFS pointer of {size} bytes, not the weights; run `git lfs pull` beside it"
        )
    try:
        tensors = json.loads(head)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        slots = {name: Slot(str(tensor["dtype"]), tuple(tensor["shape"])) for name, tensor in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        is_cut = size - 8 < length <= LONGEST_HEAD
        cut = "is cut off within its head" if is_cut else "is no safetensors file"
        raise CheckpointError(f"{path} {cut}; download it again") from error
    expected = 8 + length + end
    if size != expected:
        fault = "is cut off" if size < expected else "is too long"
        raise CheckpointError(f"{path} {fault}: {size} bytes, expected {expected}; download it again")
    return slots


def _check_formats(path: Path, slots: dict[str, Slot]) -> None:
    """Refuses tensors that hold neither floats nor a quantised matrix; its scales may be in another shard."""
    strange = [
        name
        for name, slot in slots.items()
        if slot.dtype not in FLOATS
        and not name.endswith("position_ids")  # 0, 1, 2, ..., which old files of transformers have
        and not (slot.dtype == "U32" and name.endswith(".weight"))
    ]
    if not strange:
        return
    name = strange[0]
    dtype = slots[name].dtype
    remedy = "take a file in one of these"
    if dtype.startswith("F8"):
        remedy = "take the file in bf16 or fp16, and quantize=8 for as little memory"
    raise CheckpointError(
        f"{path} holds {name} as {dtype} ({len(strange)} such tensors), expected {', '.join(FLOATS)}; "
        f"{remedy}"
    )
