import math

import mlx.core as mx
import pytest
from full_size import released
from mlx.utils import tree_flatten

from fluxnb.checkpoints import catalog, components, footprint
from fluxnb.checkpoints.fill import fill
from fluxnb.checkpoints.parts import find
from fluxnb.checkpoints.sources import DEMO_FOLDER


def demo(bits):
    """Loads the networks of the demo model in float32, and counts their bytes."""
    parts, size = find(DEMO_FOLDER), 0
    for name, network in footprint.KINDS.items():
        part = components.read(name, getattr(parts, name))
        asked = bits if name in ("transformer", "text_encoder_2") else None
        filled = fill(network(part.config), part.table, part.tensors, mx.float32, asked)
        size += sum(array.nbytes for _, array in tree_flatten(filled.parameters()))
    return size


def test_the_demo_model_takes_what_is_reckoned():
    reckoned = footprint.footprint(catalog.DEMO)
    assert (reckoned.memory, reckoned.memory_4bit) == (demo(None), demo(4))


def test_flux_takes_two_bytes_for_each_number_of_the_released_files():
    files = ("bfl-dev", "bfl-ae", "hub-clip", "hub-t5xxl")
    numbers = sum(math.prod(shape) for file in files for shape in released(file).values())
    assert footprint.footprint(catalog.DEV).disk == pytest.approx(2 * numbers, rel=1e-6)


def test_quantising_makes_every_model_smaller_and_one_that_is_so_already_comes_smaller():
    takes = {entry.name: footprint.footprint(entry) for entry in catalog.ENTRIES}
    assert all(one.memory_4bit < one.memory for one in takes.values())
    whole, small = takes[catalog.SCHNELL_DIFFUSIONKIT.name], takes[catalog.SCHNELL_4BIT.name]
    assert small.disk < 0.52 * whole.disk  # T5 stays as it is
    assert small.memory < 0.52 * whole.memory
