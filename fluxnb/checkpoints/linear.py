"""A linear fit from latents to colours, from the file beside the autoencoder that it was made for.

It belongs to those latents alone, so no other model takes it. Knows nothing of networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from fluxnb.checkpoints.files import read_json
from fluxnb.errors import CheckpointError

FILE = "linear_preview.json"
"""What a fit is called, in the folder of the autoencoder that it was made for."""


@dataclass(frozen=True, slots=True)
class LinearPreview:
    """A colour for each latent cell, linear in its channels; by least squares, `fluxnb.training.preview`.

    Attributes:
        weight: (3, C) in rows: what each channel of normalised latents adds to red, green and blue.
        bias: (3,) the colour of a cell of zeros.
    """

    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    def decode(self, latents: mx.array) -> mx.array:
        """Maps normalised latents (B, H, W, C) to pictures (B, 8 H, 8 W, 3), about -1..1, a colour a cell."""
        colours = latents @ mx.array(self.weight).T + mx.array(self.bias)  # (B, H, W, 3)
        return mx.repeat(mx.repeat(colours, 8, axis=1), 8, axis=2)


def read(vae: Path, channels: int) -> LinearPreview | None:
    """Reads the linear fit that lies beside an autoencoder, None if there is none.

    Args:
        vae: folder of the autoencoder, or its file, which has no fit.
        channels: of its latents.

    Raises:
        CheckpointError: a fit that is not three rows of so many numbers and three more.
    """
    path = vae / FILE
    if not path.exists():
        return None
    values = read_json(path)
    weight, bias = values.get("weight"), values.get("bias")
    if not _numbers(bias, 3) or not _is_list(weight, 3) or not all(_numbers(row, channels) for row in weight):
        raise CheckpointError(
            f"{path} holds other things than a weight (3, {channels}) and a bias (3,); delete it, or make it "
            "anew with fluxnb.training.preview"
        )
    return LinearPreview(tuple(map(tuple, weight)), tuple(bias))


def _is_list(value: object, length: int) -> bool:
    """Tells whether something is a list of so many."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == length


def _numbers(value: object, length: int) -> bool:
    """Tells whether something is a list of so many numbers."""
    return _is_list(value, length) and all(type(one) in (int, float) for one in value)
