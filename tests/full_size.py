"""Names and shapes of the released files' tensors, from tests/data/full_size_keys.json.

There `{0-18}` in a name stands for each of these numbers. The lists were taken from the reference code at
full size: black-forest-labs/flux for FLUX.1-dev and the autoencoder, transformers for the files on the hub.
"""

import json
import re

from mlx.utils import tree_flatten
from references import DATA


def released(file: str) -> dict[str, tuple[int, ...]]:
    """Gives the tensors of a file, e.g. "bfl-dev"."""
    listed = json.loads((DATA / "full_size_keys.json").read_text())[file]
    tensors = {}
    for name, shape in listed.items():
        before, numbers, after = re.fullmatch(r"([^{]*)(?:\{([\d-]+)\})?(.*)", name).groups()
        first, last = map(int, numbers.split("-")) if numbers else (0, 0)
        for number in range(first, last + 1):
            tensors[f"{before}{number}{after}" if numbers else name] = tuple(shape)
    return tensors


def parameters(network) -> dict[str, tuple[int, ...]]:
    """Gives names and shapes of a network's parameters."""
    return {name: value.shape for name, value in tree_flatten(network.parameters())}
