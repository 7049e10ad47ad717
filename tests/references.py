"""The small networks whose outputs the references of diffusers and transformers are stored for.

Weights and inputs are made here from names, by numpy's frozen generator, so that only outputs need storing:
tests/data/references.npz holds them with the names and shapes of the reference's parameters. Both are written
by tests/parity/make_references.py, which needs torch; what reads them needs none.
"""

import json
import math
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from fluxnb.checkpoints import layouts, tables
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, VAEConfig
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.vae import VAE

DATA = Path(__file__).parent / "data"
TOLERANCE = 2e-5  # largest difference over largest number; at most 7e-6 was seen


@dataclass(frozen=True)
class Case:
    """A network in our config and in the reference's own arguments, and what goes into it."""

    name: str
    config: object
    source: dict
    batch: int = 2
    size: tuple[int, int] = (4, 6)  # image tokens for the MMDiT, latent cells for the VAE
    length: int = 16  # text tokens


MMDIT = (
    Case(
        "mmdit-demo",
        MMDiTConfig(
            txt_dim=128, vec_dim=128, heads=6, head_dim=32, depth=2, depth_single=4, axes_dim=(8, 12, 12)
        ),
        {
            "in_channels": 64,
            "num_layers": 2,
            "num_single_layers": 4,
            "attention_head_dim": 32,
            "num_attention_heads": 6,
            "joint_attention_dim": 128,
            "pooled_projection_dim": 128,
            "guidance_embeds": False,
            "axes_dims_rope": (8, 12, 12),
        },
        batch=1,
        size=(8, 8),
        length=24,
    ),
    Case(
        "mmdit-guided",
        MMDiTConfig(
            in_channels=16,
            out_channels=16,
            txt_dim=40,
            vec_dim=24,
            heads=3,
            head_dim=16,
            depth=1,
            depth_single=2,
            axes_dim=(4, 6, 6),
            guidance=True,
        ),
        {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 3,
            "joint_attention_dim": 40,
            "pooled_projection_dim": 24,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 6, 6),
        },
        size=(6, 10),
        length=13,
    ),
)
T5 = (
    Case(
        "t5-demo",
        T5Config(vocab_size=120, width=128, heads=4, head_dim=32, mlp_width=256, depth=2),
        {"vocab_size": 120, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},
        length=32,
    ),
    Case(  # longer than the farthest distance, and heads * head_dim other than the width
        "t5-long",
        T5Config(vocab_size=50, width=24, heads=3, head_dim=16, mlp_width=40, depth=3),
        {"vocab_size": 50, "d_model": 24, "d_kv": 16, "d_ff": 40, "num_layers": 3, "num_heads": 3},
        length=300,
    ),
)
CLIP = (
    Case(
        "clip-demo",
        CLIPConfig(vocab_size=120, width=128, heads=4, mlp_width=256, depth=2, max_length=32, eos_token=3),
        {
            "vocab_size": 120,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "bos_token_id": 1,
            "eos_token_id": 3,
        },
        length=32,
    ),
    Case(  # eos_token_id 2 stands for the highest id, as in the released CLIP's config
        "clip-highest-id",
        CLIPConfig(vocab_size=60, width=48, heads=3, mlp_width=80, depth=3, eos_token=None),
        {
            "vocab_size": 60,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "max_position_embeddings": 77,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        length=20,
    ),
)
VAES = (
    Case(
        "vae-demo",
        VAEConfig(channels=(16, 32, 64, 128), layers=1, groups=2),
        {"block_out_channels": (16, 32, 64, 128), "layers_per_block": 1, "norm_num_groups": 2},
        batch=1,
        size=(4, 4),
    ),
    Case(
        "vae-two-layers",
        VAEConfig(channels=(8, 16, 16), layers=2, latent_channels=4, groups=4),
        {
            "block_out_channels": (8, 16, 16),
            "layers_per_block": 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
        },
        size=(6, 10),
    ),
)

KINDS = {MMDiTConfig: MMDiT, T5Config: T5Encoder, CLIPConfig: CLIPText, VAEConfig: VAE}
TABLES = {MMDiTConfig: tables.DIFFUSERS_MMDIT, T5Config: tables.HUB_T5, CLIPConfig: tables.HUB_CLIP}


def names(cases):
    """Gives pytest the names of cases."""
    return [case.name for case in cases]


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Gives float32 normal numbers that hang on a name only."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Gives weights for parameters such that each of them matters: no norm is 1, no bias is 0."""
    made = {}
    for name, shape in shapes.items():
        noise = normal(name, tuple(shape))
        if len(shape) > 1:
            made[name] = noise * np.float32(math.prod(shape[1:]) ** -0.5)
        else:
            made[name] = 0.1 * noise if name.endswith("bias") else 1 + 0.1 * noise
    return made


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Gives what goes into the network of a case, channels last."""
    config, batch, (rows, columns), length = case.config, case.batch, case.size, case.length
    made = {}
    if isinstance(config, MMDiTConfig):
        made["img"] = normal("img", (batch, rows * columns, config.in_channels))
        made["txt"] = normal("txt", (batch, length, config.txt_dim))
        made["vec"] = normal("vec", (batch, config.vec_dim))
        made["t"] = np.array([0.31, 0.9][:batch], np.float32)
        if config.guidance:
            made["guidance"] = np.array([3.5, 1.0][:batch], np.float32)
        grid = np.broadcast_arrays(0, np.arange(rows)[:, None], np.arange(columns)[None, :])
        made["img_ids"] = np.stack(grid, axis=-1).reshape(-1, 3).astype(np.float32)
        made["txt_ids"] = np.zeros((length, 3), np.float32)
    elif isinstance(config, VAEConfig):
        factor = 2 ** (len(config.channels) - 1)
        made["z"] = normal("z", (batch, rows, columns, config.latent_channels))
        made["x"] = np.tanh(normal("x", (batch, factor * rows, factor * columns, config.image_channels)))
    else:
        ids = np.random.RandomState(length).randint(4, config.vocab_size - 1, (batch, length))
        if isinstance(
            config, CLIPConfig
        ):  # an end token, once in the middle and once at the end, then padding
            ids[0, 7:] = ids[1, -1:] = config.eos_token or config.vocab_size - 1
        made["ids"] = ids
    return made


@cache
def stored() -> dict[str, np.ndarray]:
    """Reads tests/data/references.npz."""
    with np.load(DATA / "references.npz") as arrays:
        return dict(arrays)


def stored_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Gives the reference's names and shapes of the parameters of a case."""
    return json.loads(str(stored()[f"{case.name}/shapes"]))


def table(config) -> layouts.Table:
    """Gives the rules that bring the reference's names to ours."""
    if isinstance(config, VAEConfig):
        return tables.diffusers_vae(len(config.channels))
    return TABLES[type(config)]


def network(case: Case, shapes: dict[str, tuple[int, ...]]):
    """Builds the network of a case and fills it, strictly, with the weights of the reference's parameters."""
    built = KINDS[type(case.config)](case.config)
    arrays = {name: mx.array(value) for name, value in weights(shapes).items()}
    targets = [name for name, _ in tree_flatten(built.parameters())]
    parts = layouts.plan(table(case.config), targets, arrays, case.name)
    built.load_weights(
        [(part.target, part.transform(*(arrays[name] for name in part.sources))) for part in parts]
    )
    return built


def outputs(case: Case, network) -> dict[str, np.ndarray]:
    """Gives what comes out of our network of a case, by the names that the stored arrays have."""
    given = {name: mx.array(value) for name, value in inputs(case).items()}
    if isinstance(network, MMDiT):
        made = {"velocity": network(**given)}
    elif isinstance(network, T5Encoder):
        made = {"txt": network(given["ids"])}
    elif isinstance(network, CLIPText):
        made = dict(zip(("hidden", "vec"), network(given["ids"]), strict=True))
    else:
        made = {"decoded": network.decode(given["z"]), "mean": network.encode(given["x"])}
    return {name: np.array(value) for name, value in made.items()}


def distance(ours: np.ndarray, reference: np.ndarray) -> float:
    """Gives the largest difference over the largest number of the reference."""
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())
