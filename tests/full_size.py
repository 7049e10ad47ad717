"""Names and shapes of the released files' tensors, from tests/data/full_size_keys.json.

There `{0-18}` in a name stands for each of these numbers. The lists were taken from the reference code at
full size: black-forest-labs/flux for FLUX.1-dev and the autoencoder, transformers for the files on the hub,
mflux (`-q4`: quantised to 4 bits) and mlx-examples for theirs. DiffusionKit's is written here from its code.
"""

import itertools
import json
import re

import mlx.core as mx
from mlx.utils import tree_flatten
from references import DATA


def released(file: str) -> dict[str, tuple[int, ...]]:
    """Gives the tensors of a file, e.g. "bfl-dev"."""
    listed = json.loads((DATA / "full_size_keys.json").read_text())[file]
    return {name: tuple(shape) for pattern, shape in listed.items() for name in _names(pattern)}


def _names(pattern: str) -> list[str]:
    """Spells `a.{0-1}.b{1-2}` as its four names."""
    parts = re.split(r"\{(\d+)-(\d+)\}", pattern)
    ranges = [range(int(parts[i]), int(parts[i + 1]) + 1) for i in range(1, len(parts), 3)]
    texts = parts[::3]
    return [
        texts[0] + "".join(f"{number}{text}" for number, text in zip(numbers, texts[1:], strict=True))
        for numbers in itertools.product(*ranges)
    ]


def unguided(tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Leaves out what FLUX.1-dev has and FLUX.1-schnell has not."""
    return {name: shape for name, shape in tensors.items() if "guidance" not in name}


def diffusionkit(has_key_biases: bool = False) -> dict[str, tuple[int, ...]]:
    """Gives the tensors of DiffusionKit's 4-bit file: names of its modules, all quantised but the first."""
    width, group = 3072, 64
    made = {"x_embedder.proj.weight": (width, 1, 1, 64), "x_embedder.proj.bias": (width,)}

    def layer(name: str, rows: int, columns: int, bias: bool = True) -> None:
        made[f"{name}.weight"] = (rows, columns // 8)
        made[f"{name}.scales"] = made[f"{name}.biases"] = (rows, columns // group)
        if bias:
            made[f"{name}.bias"] = (rows,)

    def block(name: str, chunks: int) -> None:
        layer(f"{name}.adaLN_modulation.layers.1", chunks * width, width)
        for part in "qkvo":
            layer(f"{name}.attn.{part}_proj", width, width, bias=part != "k" or has_key_biases)
        layer(f"{name}.mlp.fc1", 4 * width, width)
        layer(f"{name}.mlp.fc2", width, 4 * width)
        made[f"{name}.qk_norm.q_norm.weight"] = made[f"{name}.qk_norm.k_norm.weight"] = (128,)

    layer("context_embedder", width, 4096)
    for name, inputs in (("t_embedder", 256), ("y_embedder", 768)):
        layer(f"{name}.mlp.layers.0", width, inputs)
        layer(f"{name}.mlp.layers.2", width, width)
    for i in range(19):
        for stream in ("image", "text"):
            block(f"multimodal_transformer_blocks.{i}.{stream}_transformer_block", 6)
    for i in range(38):
        block(f"unified_transformer_blocks.{i}.transformer_block", 3)
    layer("final_layer.adaLN_modulation.layers.1", 2 * width, width)
    layer("final_layer.linear", 64, width)
    return made


def arrays(tensors: dict[str, tuple[int, ...]]) -> dict[str, mx.array]:
    """Gives arrays of these names and shapes, never to be evaluated: a full-size network holds 24 GB."""
    packed = {name.removesuffix("scales") + "weight" for name in tensors if name.endswith(".scales")}
    return {
        name: mx.zeros(shape, mx.uint32 if name in packed else mx.bfloat16) for name, shape in tensors.items()
    }


def parameters(network) -> dict[str, tuple[int, ...]]:
    """Gives names and shapes of a network's parameters."""
    return {name: value.shape for name, value in tree_flatten(network.parameters())}
