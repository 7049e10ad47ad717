"""LoRA adapters as they are in memory, and which matrices of a transformer they change.

An adapter names the matrices of diffusers, where q, k and v are apart. Its file is PEFT's, as diffusers
writes it; `adapter_files` reads it. Knows nothing of prompts or of training.

    transformer.transformer_blocks.0.attn.to_q.lora_A.weight    (rank, in)
    transformer.transformer_blocks.0.attn.to_q.lora_B.weight    (out, rank)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import safetensors.numpy

from fluxnb import disk
from fluxnb.brief import Brief
from fluxnb.checkpoints import layouts
from fluxnb.checkpoints.files import SAFETENSORS
from fluxnb.checkpoints.layouts import listed
from fluxnb.checkpoints.tables import DIFFUSERS_MMDIT
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import Linear
from fluxnb.model.lora import LowRank
from fluxnb.model.mmdit import MMDiT

FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls an adapter in its folder."""

KEY = "lora_adapter_metadata"
"""Under which diffusers keeps PEFT's settings in the head of the file."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Adapter(Brief):
    """Low-rank changes to the matrices of a transformer, any scale of the file's multiplied in.

    Attributes:
        name: For people.
        layers: By diffusers' names of the matrices, float32, evaluated.
        losses: Of each step, if it was made here by `training.finetune`; else ().
    """

    name: str
    layers: Mapping[str, LowRank]
    losses: tuple[float, ...] = ()

    def __repr__(self) -> str:
        """Says how large it is."""
        ranks = sorted({one.down.shape[0] for one in self.layers.values()})
        rank = "-".join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))
        return f"<Adapter {self.name!r}: rank {rank} on {len(self.layers)} matrices>"

    def digest(self) -> str:
        """Returns the SHA-256 of names, shapes and numbers: the same for every copy, whatever its name."""
        found = hashlib.sha256()
        for name, one in sorted(self.layers.items()):
            found.update(repr((name, one.down.shape, one.up.shape)).encode())
            for array in (one.down, one.up):
                found.update(np.array(array).tobytes())
        return found.hexdigest()

    def save(self, path: str | os.PathLike) -> Path:
        """Writes it as diffusers' `load_lora_weights` reads it.

        Args:
            path: Of a file that ends in .safetensors, or of a folder, which is made, for a file `FILE` in it.

        Returns:
            The path of the file.

        Raises:
            InputError: if it cannot be written there.
            FluxnbError: if the disk is full.
        """
        path = Path(os.path.expanduser(path))
        if path.suffix not in SAFETENSORS:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{path} cannot be made ({error.strerror}); give the path of a folder, or of a file that "
                    "ends in .safetensors"
                ) from error
            path = path / FILE
        tensors, ranks = {}, {}
        for name, one in self.layers.items():
            tensors[f"transformer.{name}.lora_A.weight"] = np.array(one.down)
            tensors[f"transformer.{name}.lora_B.weight"] = np.array(one.up)
            ranks[name] = one.down.shape[0]
        usual = max(set(ranks.values()), key=list(ranks.values()).count)
        unusual = {f"^{name}": rank for name, rank in ranks.items() if rank != usual}
        settings = {
            "r": usual,
            "lora_alpha": usual,  # the scale is alpha / r
            "rank_pattern": unusual,
            "alpha_pattern": unusual,
            "target_modules": sorted(ranks),
        }
        told = json.dumps({f"transformer.{key}": value for key, value in settings.items()}, sort_keys=True)
        disk.write(path, safetensors.numpy.save(tensors, {"format": "pt", KEY: told}))
        return path


@dataclass(frozen=True, slots=True)
class Use:
    """An adapter that something is drawn with.

    Attributes:
        name: What it is called.
        digest: See `Adapter.digest`.
        scale: Its strength, 1 as it was trained.
    """

    name: str
    digest: str
    scale: float


@dataclass(frozen=True, slots=True)
class Place:
    """A linear layer of ours, and the matrices of diffusers that it is made of.

    Attributes:
        layer: Our name.
        sources: Diffusers' names, in order.
        rows: How many rows each has.
        columns: How many columns all have.
        transform: What makes our matrix of theirs.
    """

    layer: str
    sources: tuple[str, ...]
    rows: tuple[int, ...]
    columns: int
    transform: Callable[..., mx.array]


@lru_cache(maxsize=4)
def places(config: MMDiTConfig) -> tuple[Place, ...]:
    """Gives every matrix that an adapter can change."""
    found = []
    for layer, module in MMDiT(config).named_modules():  # its zeros are never evaluated
        if isinstance(module, Linear):
            part = layouts.part(DIFFUSERS_MMDIT, f"{layer}.weight")
            out, columns = module.weight.shape
            rows = (out,)
            if len(part.sources) > 1:  # q, k, v, and in single blocks the MLP
                rows = (columns, columns, columns, out - 3 * columns)[: len(part.sources)]
            sources = tuple(source.removesuffix(".weight") for source in part.sources)
            found.append(Place(layer, sources, rows, columns, part.transform))
    return tuple(found)


def combine(
    config: MMDiTConfig, adapters: Iterable[tuple[Mapping[str, LowRank], float]]
) -> dict[str, LowRank]:
    """Gives the changes to our layers that several adapters make together, not evaluated.

    Args:
        config: Of the transformer, which they fit.
        adapters: The layers of each, and its scale.
    """
    adapters = tuple(adapters)
    changes = {}
    for place in places(config):
        parts = [
            (i, layers[source], scale)
            for layers, scale in adapters
            for i, source in enumerate(place.sources)
            if scale and source in layers
        ]
        if not parts:
            continue
        columns = []
        for i, one, scale in parts:
            blocks = [mx.zeros((rows, one.up.shape[1])) for rows in place.rows]
            blocks[i] = one.up if scale == 1 else scale * one.up
            columns.append(place.transform(*blocks))  # does to rows of `up` what it does to the matrix's
        down = mx.concatenate([one.down for _, one, _ in parts])
        changes[place.layer] = LowRank(down, mx.concatenate(columns, axis=1))
    return changes


def check_fit(adapter: Adapter, config: MMDiTConfig) -> None:
    """Makes sure that an adapter is for a transformer of these sizes.

    Raises:
        CheckpointError: it is for another one.
    """
    shapes = {
        source: (rows, place.columns)
        for place in places(config)
        for source, rows in zip(place.sources, place.rows, strict=True)
    }
    wrong = [
        name
        for name, one in adapter.layers.items()
        if shapes.get(name) != (one.up.shape[0], one.down.shape[1])
    ]
    if wrong:
        raise CheckpointError(
            f"{adapter.name!r} was made for another model: {len(wrong)} of {len(adapter.layers)} matrices "
            f"have no place or another shape in this one ({listed(wrong)}); load the model that it belongs to"
        )
