"""The file of a LoRA adapter to the adapter, strictly; knows nothing of networks but their sizes.

It may have the names of diffusers in PEFT's format, of black-forest-labs (`diffusion_model.` before them) or
of Kohya's scripts (`lora_unet_`). A file is not trusted: all that is in it is a change to a matrix of this
transformer, or there is an error.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
from safetensors import SafetensorError, safe_open

from fluxnb import checks
from fluxnb.checkpoints.adapters import FILE, KEY, Adapter, Place, places
from fluxnb.checkpoints.files import PICKLES, SAFETENSORS, read_tensors
from fluxnb.checkpoints.layouts import listed
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.lora import LowRank

TENSOR = re.compile(
    r"(?:transformer\.|diffusion_model\.|lora_unet_)?(?P<layer>.+?)"
    r"(?:\.(?P<side>lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight|(?P<alpha>\.alpha))"
)
"""The name of a tensor, in any of the layouts."""

SIDES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}


def read(path: str | os.PathLike, config: MMDiTConfig, weight_name: str | None = None) -> Adapter:
    """Reads an adapter from a file, all its matrices compared with those of a transformer.

    Args:
        path: Of a safetensors file, or of the folder that it lies in.
        config: Of the transformer.
        weight_name: Of the file in the folder; None for `FILE`, or for the only one.

    Raises:
        InputError: there is no such file.
        CheckpointError: it holds something else, or is for another transformer.
    """
    file = _find(path, weight_name)
    arrays = read_tensors(file).arrays
    settings = _settings(file)
    sides: dict[str, dict[str, mx.array]] = {}
    strange = []
    for tensor, array in arrays.items():
        fit = TENSOR.fullmatch(tensor)
        if fit and (array.size == 1 if fit["alpha"] else array.ndim == 2):
            side = "alpha" if fit["alpha"] else SIDES[fit["side"]]
            sides.setdefault(fit["layer"], {})[side] = array
        else:
            strange.append(tensor)
    known = _known(config)
    strange += [layer for layer in sides if layer not in known]
    if strange or not sides:
        raise CheckpointError(
            f"{file} is no LoRA of a FLUX.1's transformer: {listed(strange) or 'nothing'} is in it "
            f"({len(strange)} such names of {len(arrays)}); adapters are read in the names of diffusers "
            "(PEFT), black-forest-labs and Kohya, those of text encoders, DoRA and LoKr are not"
        )
    half = [layer for layer, parts in sides.items() if not {"down", "up"} <= parts.keys()]
    if half:
        raise CheckpointError(f"{file} has {listed(half)} by halves; download it again")
    layers: dict[str, LowRank] = {}
    for layer, parts in sides.items():
        place, number = known[layer]
        down, up = (parts[side].astype(mx.float32) for side in ("down", "up"))
        rows = sum(place.rows) if number is None else place.rows[number]
        if not len(down) or down.shape[1] != place.columns or up.shape != (rows, len(down)):
            raise CheckpointError(
                f"{file} was made for another model: {layer} is {up.shape} @ {down.shape}, and the matrix "
                f"that it changes {(rows, place.columns)}; load the model that it belongs to"
            )
        up = up * _scale(layer, len(down), parts.get("alpha"), settings)
        layers |= {source: LowRank(down, block) for source, block in _apart(place, number, up)}
    mx.eval([(one.down, one.up) for one in layers.values()])
    if not all(mx.isfinite(array).all() for one in layers.values() for array in (one.down, one.up)):
        raise CheckpointError(f"{file} holds numbers that are not finite; download it again")
    return Adapter(_name(file), layers)


def _apart(place: Place, number: int | None, up: mx.array) -> list[tuple[str, mx.array]]:
    """Gives the rows of each matrix of diffusers, of one of them or of our layer with all."""
    if number is not None:
        return [(place.sources[number], up)]
    if len(place.sources) == 1:
        return [(place.sources[0], place.transform(up))]  # the same or halves swapped: its own inverse
    ends = [sum(place.rows[: i + 1]) for i in range(len(place.rows) - 1)]
    return list(zip(place.sources, mx.split(up, ends), strict=True))


def _find(path: str | os.PathLike, weight_name: str | None) -> Path:
    """Finds the file of an adapter."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InputError(f"the adapter is {path!r}; give the path of a safetensors file or of its folder")
    found = Path(os.path.expanduser(path))
    if found.is_dir():
        if weight_name is not None:
            name = checks.label("weight_name", weight_name)
            if name != Path(name).name:
                raise InputError(f"weight_name is {name!r}; give the name of a file in {found} alone")
            found = found / name
        elif (found / FILE).is_file():
            found = found / FILE
        else:
            files = sorted(file for file in found.iterdir() if file.suffix in SAFETENSORS)
            if len(files) != 1:
                held = listed([file.name for file in files]) or "no safetensors file"
                raise InputError(f"{found} holds {held}; name the one that is meant by weight_name")
            found = files[0]
    if not found.is_file():
        raise InputError(
            f"there is no adapter {found}; give the path of a safetensors file or of its folder (one on the "
            "hub has to be downloaded first: hf download OWNER/NAME)"
        )
    if found.suffix in PICKLES:
        raise CheckpointError(
            f"{found} is a pickle, which can run any code and is not opened; take the adapter as safetensors"
        )
    return found


def _known(config: MMDiTConfig) -> dict[str, tuple[Place, int | None]]:
    """Gives what a layer may be called: diffusers' matrices with their number, our layers with None."""
    known: dict[str, tuple[Place, int | None]] = {}
    for place in places(config):
        for spelled in (str, lambda name: name.replace(".", "_")):
            known[spelled(place.layer)] = place, None
            for i, source in enumerate(place.sources):
                known[spelled(source)] = place, i
    return known


def _settings(file: Path) -> dict:
    """Reads PEFT's settings from the head of a file, as far as they decide the scale."""
    try:
        with safe_open(file, framework="numpy") as opened:
            text = (opened.metadata() or {}).get(KEY, "{}")
        settings = {key.removeprefix("transformer."): value for key, value in json.loads(text).items()}
        alphas = settings.get("alpha_pattern", {})
        for alpha in (settings.get("lora_alpha", 1), *alphas.values()):
            checks.number("alpha", alpha)
    except (SafetensorError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} has settings in {KEY} that PEFT would not write ({error}); download it again"
        ) from error
    if settings.get("use_dora"):
        raise CheckpointError(f"{file} is a DoRA, which is not read; take a LoRA")
    return settings


def _scale(layer: str, rank: int, alpha: mx.array | None, settings: Mapping) -> float:
    """Returns by what the product of two matrices is multiplied: alpha / rank, 1 where nothing is said."""
    if alpha is not None:
        return alpha.item() / rank
    patterns = settings.get("alpha_pattern", {})
    own = [value for name, value in patterns.items() if f".{layer}".endswith(f".{name.removeprefix('^')}")]
    value = own[0] if own else settings.get("lora_alpha", rank)
    return value / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _name(file: Path) -> str:
    """Calls an adapter by its file, or by the folder where the file has everybody's name."""
    name = file.absolute().parent.name if file.name == FILE else file.stem
    return "".join(one for one in name if one.isprintable())[:100] or "adapter"
