"""What a model takes on the disk and in memory, reckoned from its networks' shapes; reads no weights."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from mlx.utils import tree_flatten

from fluxnb.checkpoints import components, quantised
from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.networks import NETWORKS, PARTS
from fluxnb.checkpoints.parts import find
from fluxnb.checkpoints.places import STEMS
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.model import layers
from fluxnb.model.config import clip_l, dev, flux_vae, schnell, t5_xxl

KINDS = {PARTS[name]: kind for name, kind in NETWORKS.items()}
"""The networks by the words of diffusers."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a model's weights.

    Attributes:
        disk: in the files that are downloaded, or that come with the package; tokenizers are left out.
        memory: loaded as they are.
        memory_4bit: loaded with `quantize=4`.
    """

    disk: int
    memory: int
    memory_4bit: int


def footprint(entry: Entry) -> Footprint:
    """Reckons what an entry of the catalog takes."""
    shapes = {
        name: {key: array.shape for key, array in tree_flatten(KINDS[name](config).parameters())}
        for name, config in _configs(entry).items()
    }
    bits = {place.component: place.bits for place in entry.places}
    width = 32 if entry.dtype == "float32" else 16

    def total(reckoned: Callable[[str], int]) -> int:
        return sum(map(reckoned, shapes))

    def on_disk(name: str) -> int:
        return _bytes(shapes[name], bits.get(name, width))

    def loaded(name: str) -> int:
        return on_disk(name) if bits.get(name, 16) < 16 else _bytes(shapes[name], width)

    def small(name: str) -> int:
        return min(loaded(name), _bytes(shapes[name], 4, width, quantised.BLOCKS))

    shipped = sum(path.stat().st_size for path in DEMO_FOLDER.rglob("*.safetensors"))
    return Footprint(total(on_disk) if entry.places else shipped, total(loaded), total(small))


def _configs(entry: Entry) -> dict[str, object]:
    """Gives the sizes of the four networks: FLUX.1's, or what the files say that come with the package."""
    if entry.places:
        transformer = schnell() if entry.guidance is None else dev()
        return dict(zip(KINDS, (transformer, flux_vae(), clip_l(), t5_xxl()), strict=True))
    parts = find(DEMO_FOLDER)
    return {name: components.read(name, getattr(parts, name)).config for name in STEMS}


def _bytes(
    shapes: dict[str, tuple[int, ...]], bits: int, width: int = 16, within: tuple[str, ...] = ("",)
) -> int:
    """Reckons what parameters take.

    Args:
        shapes: of the parameters, by name.
        bits: of a number; below 16 for matrices alone.
        width: bits of all other numbers then, with a scale and a bias for each group of a matrix.
        within: how the names of these matrices begin.
    """
    if bits >= 16:
        return sum(map(prod, shapes.values())) * bits // 8
    size = 0
    for name, shape in shapes.items():
        in_groups = len(shape) == 2 and shape[-1] % layers.GROUP == 0 and name.startswith(within)
        size += prod(shape) * (bits + 2 * width / layers.GROUP if in_groups else width) / 8
    return round(size)
