"""A part on this disk -> what it is: config, rules of its layout, tensors not read yet.

Knows nothing of networks or of where parts come from.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from fluxnb.checkpoints import configs, kinds, layouts, quantised, sizes, tables
from fluxnb.checkpoints.configs import Settings
from fluxnb.checkpoints.files import Tensors, read_tensors
from fluxnb.checkpoints.kinds import Kind
from fluxnb.checkpoints.sizes import Shapes
from fluxnb.errors import CheckpointError, FluxnbWarning
from fluxnb.model.config import MMDiTConfig

READERS: dict[str, tuple[Callable[[Settings], Any], Callable[[Shapes], Any]]] = {
    "transformer": (configs.mmdit, sizes.mmdit),
    "vae": (configs.vae, sizes.vae),
    "text_encoder": (configs.clip, sizes.clip),
    "text_encoder_2": (configs.t5, sizes.t5),
}
"""Component -> how its config is read from config.json, and how it is told from shapes."""

UNUSED = {
    "text_encoder": r"(text_model\.)?embeddings\.position_ids|text_projection\.weight|logit_scale",
    "text_encoder_2": r"logit_scale",
}
"""Tensors of no use to FLUX.1 that files have: 0, 1, 2, ... and what compares a text with a picture."""

COPIES = (r"t5_blocks\.\d+\.(attention\.SelfAttention\.relative_attention_bias\..*)", r"t5_blocks.0.\1")
"""What mflux's T5 has in every block, and which one we take."""

VARIANTS = {
    6: "FLUX.1-Fill, which fills in a picture",
    2: "FLUX.1-Depth or -Canny, which draws over a picture",
}
"""Numbers in an image token, in those of FLUX.1's own -> what such a transformer is."""


@dataclass(frozen=True, slots=True)
class Component:
    """A part, found to be what it should be.

    Attributes:
        config: sizes of its network.
        table: rules that bring its tensors to our parameters.
        tensors: not read yet; used up by who fills the network.
    """

    config: Any
    table: layouts.Table
    tensors: Tensors


def read(name: str, path: Path) -> Component:
    """Opens a part and tells its layout and config.

    Args:
        name: one of `kinds.WEIGHTS`.
        path: its folder or file.

    Raises:
        CheckpointError: the files cannot be read, hold something else, or sizes that are not FLUX.1's.
    """
    settings = _settings(path)
    config = None if settings is None else READERS[name][0](settings)  # tells a wrong class by its name
    return identify(name, read_tensors(path), config)


def identify(name: str, tensors: Tensors, config: Any = None) -> Component:
    """Tells the layout of a part's tensors, and its config if there is none yet.

    Raises:
        CheckpointError: the tensors are something else, or their sizes are not FLUX.1's.
    """
    kind = _kind(name, tensors)
    tensors = _own(kind, tensors)
    table = tables.table(kind, tensors.arrays)
    if config is None:
        sources = quantised.gather(Tensors(dict(tensors.arrays), tensors.files, tensors.origin))
        arrays = {name: quantised.dense(source) for name, source in sources.items()}  # never evaluated
        config = READERS[kind.component][1](Shapes(layouts.Outline(table, arrays), tensors.origin))
    if isinstance(config, MMDiTConfig):
        _check_variant(config, tensors.origin)
    if kind.layout == "diffusionkit" and tables.lacks_key_biases(tensors.arrays):
        warnings.warn(
            f"{tensors.origin} lacks the bias of every key (k_proj.bias), which FLUX.1 has; they are taken "
            "as zero, so pictures differ from those of the whole model",
            FluxnbWarning,
            stacklevel=2,
        )
    return Component(config, table, tensors)


def _settings(path: Path) -> Settings | None:
    """Reads the config.json of a folder; a file has none, since what lies beside it may be another's."""
    file = path / "config.json"
    return configs.read(file) if path.is_dir() and file.exists() else None


def _kind(name: str, tensors: Tensors) -> Kind:
    """Tells the layout of a component, or what the tensors are instead."""
    shapes = {tensor: array.shape for tensor, array in tensors.arrays.items()}
    found = {kind.component: kind for kind in kinds.tell(shapes)}
    if name not in found:
        held = kinds.describe(shapes)
        raise CheckpointError(f"{tensors.origin} holds {held}, expected the {name} of a FLUX.1; take that")
    return found[name]


def _own(kind: Kind, tensors: Tensors) -> Tensors:
    """Keeps the tensors of a component, without prefix, copies and what is of no use."""
    unused = re.compile(UNUSED.get(kind.component, "^$"))
    names = {
        tensor.removeprefix(kind.prefix): tensor
        for tensor in tensors.arrays
        if tensor.startswith(kind.prefix) and not unused.fullmatch(tensor.removeprefix(kind.prefix))
    }
    arrays = {short: tensors.arrays[tensor] for short, tensor in names.items()}
    files = {short: tensors.files[tensor] for short, tensor in names.items()}
    return _uncopied(Tensors(arrays, files, tensors.origin))


def _uncopied(tensors: Tensors) -> Tensors:
    """Leaves copies out, after a look that they are such."""
    copy, original = COPIES
    arrays = {}
    for name, array in tensors.arrays.items():
        source = re.sub(copy, original, name)
        if source == name or source not in tensors.arrays:
            arrays[name] = array
        elif not mx.array_equal(array, tensors.arrays[source]):
            raise CheckpointError(
                f"{tensors.files[name]}: {name} and {source} should be the same and are not; save the model "
                "again with mflux"
            )
    return Tensors(arrays, tensors.files, tensors.origin)


def _check_variant(config: MMDiTConfig, origin: Path) -> None:
    """Refuses FLUX.1's transformers that draw from more than a prompt."""
    times, rest = divmod(config.in_channels, config.out_channels)
    if rest == 0 and times in VARIANTS:
        raise CheckpointError(
            f"{origin} is {VARIANTS[times]}: its image tokens have {config.in_channels} numbers, those of "
            f"FLUX.1-schnell and FLUX.1-dev {config.out_channels}; take one of these two"
        )
