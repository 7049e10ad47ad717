import json

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy
import stubs

from fluxnb.checkpoints import adapter_files
from fluxnb.checkpoints.adapters import FILE, KEY, Adapter, combine, places
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import dev
from fluxnb.model.lora import LowRank

CONFIG = stubs.networks().configs.mmdit  # width 32
ATTENTION = "transformer_blocks.0.attn.to_k"
SHAPES = {
    source: (rows, place.columns)
    for place in places(CONFIG)
    for source, rows in zip(place.sources, place.rows, strict=True)
}


def random(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def adapter(names=tuple(SHAPES), rank=2, name="thing"):
    layers = {}
    for i, one in enumerate(names):
        out, columns = SHAPES[one]
        down, up = random((rank, columns), 2 * i), 0.1 * random((out, rank), 2 * i + 1)
        layers[one] = LowRank(mx.array(down), mx.array(up))
    return Adapter(name, layers)


def write(path, tensors, metadata=None):
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    return path


def pair(name=ATTENTION, rank=2, sides=("lora_A", "lora_B"), prefix="transformer."):
    out, columns = SHAPES[name]
    return {
        f"{prefix}{name}.{sides[0]}.weight": random((rank, columns), 0),
        f"{prefix}{name}.{sides[1]}.weight": random((out, rank), 1),
    }


def product(one):
    return np.array(one.up @ one.down)


def test_places_are_all_the_matrices_of_diffusers():
    names = {source for place in places(dev()) for source in place.sources}
    assert len(names) == 19 * 14 + 38 * 6 + 10
    assert {"transformer_blocks.18.attn.add_k_proj", "single_transformer_blocks.37.proj_mlp"} <= names
    (fused,) = (place for place in places(dev()) if place.layer == "single_blocks.0.linear1")
    assert fused.rows == (3072, 3072, 3072, 12288)


def test_what_is_saved_is_read_again_with_the_same_bits(tmp_path):
    saved = adapter()
    file = saved.save(tmp_path / "thing")
    assert file == tmp_path / "thing" / FILE
    for path in (file, tmp_path / "thing", saved.save(tmp_path / "thing.safetensors")):
        found = adapter_files.read(path, CONFIG)
        assert found.name == "thing"
        assert found.digest() == saved.digest()
        assert found.layers.keys() == saved.layers.keys()


def test_names_and_settings_of_the_file_are_those_of_peft(tmp_path):
    file = adapter([ATTENTION, "proj_out"]).save(tmp_path)
    tensors = safetensors.numpy.load_file(file)
    assert set(tensors) == {
        f"transformer.{name}.{side}.weight"
        for name in (ATTENTION, "proj_out")
        for side in ("lora_A", "lora_B")
    }
    with safetensors.safe_open(file, "numpy") as opened:
        told = json.loads(opened.metadata()[KEY])
    assert (told["transformer.r"], told["transformer.lora_alpha"]) == (2, 2)
    assert told["transformer.target_modules"] == sorted([ATTENTION, "proj_out"])


def test_a_digest_tells_numbers_and_not_names():
    first = adapter()
    assert adapter(name="other").digest() == first.digest()
    name, one = next(iter(first.layers.items()))
    assert (
        Adapter("thing", {**first.layers, name: LowRank(one.down, one.up * 1.001)}).digest() != first.digest()
    )


def test_changes_stand_in_our_rows_where_diffusers_matrices_do():
    one = adapter()
    changes = combine(CONFIG, [(one.layers, 0.5)])
    for place in places(CONFIG):
        expected = place.transform(*(mx.array(0.5 * product(one.layers[name])) for name in place.sources))
        np.testing.assert_allclose(product(changes[place.layer]), np.array(expected), atol=1e-5)


def test_several_adapters_add_up_and_a_scale_of_0_takes_one_out():
    first, second = adapter(), adapter([ATTENTION], rank=3)
    layer = "double_blocks.0.img_attn.qkv"
    both = combine(CONFIG, [(first.layers, 1.0), (second.layers, -2.0)])[layer]
    parts = [combine(CONFIG, [(one.layers, scale)])[layer] for one, scale in ((first, 1.0), (second, -2.0))]
    np.testing.assert_allclose(product(both), sum(map(product, parts)), atol=1e-5)
    assert combine(CONFIG, [(first.layers, 0.0)]) == {}


@pytest.mark.parametrize("sides", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
@pytest.mark.parametrize("prefix", ["transformer.", "lora_unet_", ""])
def test_the_names_of_the_hub_are_read(tmp_path, sides, prefix):
    tensors = pair(sides=sides, prefix=prefix)
    if prefix == "lora_unet_":
        tensors = {name.replace(ATTENTION, ATTENTION.replace(".", "_")): one for name, one in tensors.items()}
    found = adapter_files.read(write(tmp_path / "a.safetensors", tensors), CONFIG)
    down, up = tensors.values()
    np.testing.assert_array_equal(np.array(found.layers[ATTENTION].down), down)
    np.testing.assert_array_equal(np.array(found.layers[ATTENTION].up), up)


@pytest.mark.parametrize("spelled", [str, lambda name: name.replace(".", "_")])
def test_fused_matrices_of_black_forest_labs_come_apart(tmp_path, spelled):
    layer, prefix = "single_blocks.1.linear1", "diffusion_model." if spelled is str else "lora_unet_"
    down, up = random((2, 32), 0), random((3 * 32 + 64, 2), 1)
    name = prefix + spelled(layer)
    tensors = {
        f"{name}.lora_A.weight": down,
        f"{name}.lora_B.weight": up,
        f"{name}.alpha": np.array([1.0], np.float32),
    }
    found = adapter_files.read(write(tmp_path / "a.safetensors", tensors), CONFIG)
    assert len(found.layers) == 4
    (change,) = combine(CONFIG, [(found.layers, 1.0)]).values()
    np.testing.assert_allclose(product(change), 0.5 * up @ down, atol=1e-5)  # alpha 1 of rank 2


def test_halves_that_diffusers_swaps_are_read_in_either_order(tmp_path):
    down, up = random((2, 32), 0), random((64, 2), 1)
    swapped = np.concatenate([up[32:], up[:32]])
    found = []
    for name, own in (("norm_out.linear", swapped), ("final_layer.adaLN_modulation.1", up)):
        tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": own}
        layers = adapter_files.read(write(tmp_path / "a.safetensors", tensors), CONFIG).layers
        found.append(product(combine(CONFIG, [(layers, 1.0)])["final_layer.adaLN_modulation.1"]))
    for one in found:
        np.testing.assert_allclose(one, up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 1.0),
        ({"lora_alpha": 8}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"^transformer_blocks.0.attn.to_k": 1}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"to_k": 1, "to_q": 3}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"o_k": 1}}, 4.0),
        ({"lora_alpha": 4, "use_rslora": True}, 4 / 2**0.5),
    ],
)
def test_the_scale_is_that_of_peft(tmp_path, settings, scale):
    told = json.dumps({f"transformer.{name}": value for name, value in settings.items()})
    file = write(tmp_path / "a.safetensors", pair(), {KEY: told})
    (one,) = adapter_files.read(file, CONFIG).layers.values()
    np.testing.assert_allclose(
        np.array(one.up), scale * pair()[f"transformer.{ATTENTION}.lora_B.weight"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "nothing is in it"),
        (pair() | {"text_encoder.q.lora_A.weight": random((2, 2), 0)}, "text_encoder.q .*names of diffusers"),
        (
            pair() | {f"transformer.{ATTENTION}.lora_magnitude_vector": random((32,), 0)},
            "lora_magnitude_vector",
        ),
        (
            pair() | {"transformer.transformer_blocks.7.attn.to_k.lora_A.weight": random((2, 32), 0)},
            "blocks.7",
        ),
        (dict([*pair().items()][:1]), "by halves"),
        ({name: array[:, :1] if "A" in name else array for name, array in pair().items()}, "another model"),
        (pair(rank=0), "another model"),
        ({name: array[:8] for name, array in pair().items()}, "another model"),
        ({name: np.full_like(array, np.nan) for name, array in pair().items()}, "not finite"),
        ({name: array[0] for name, array in pair().items()}, "is no LoRA"),
    ],
)
def test_what_is_no_adapter_of_this_model_is_one_error(tmp_path, tensors, message):
    file = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match=message):
        adapter_files.read(file, CONFIG)


@pytest.mark.parametrize(
    "told",
    ["{", "[]", '{"lora_alpha": "8"}', '{"alpha_pattern": []}', '{"alpha_pattern": {"a": null}}', "1" * 9999],
)
def test_damaged_settings_are_one_error(tmp_path, told):
    file = write(tmp_path / "a.safetensors", pair(), {KEY: told})
    with pytest.raises(CheckpointError, match="PEFT would not write"):
        adapter_files.read(file, CONFIG)


def test_dora_is_called_what_it_is(tmp_path):
    file = write(tmp_path / "a.safetensors", pair(), {KEY: '{"transformer.use_dora": true}'})
    with pytest.raises(CheckpointError, match="DoRA"):
        adapter_files.read(file, CONFIG)


def test_a_folder_of_several_asks_for_a_name(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", pair())
    with pytest.raises(InputError, match=r"a\.safetensors, b\.safetensors; .*weight_name"):
        adapter_files.read(tmp_path, CONFIG)
    assert adapter_files.read(tmp_path, CONFIG, "b.safetensors").name == "b"


@pytest.mark.parametrize("path", ["nowhere", "owner/name", "", None])
def test_a_path_that_leads_nowhere_is_one_error(path):
    with pytest.raises(InputError, match="adapter"):
        adapter_files.read(path, CONFIG)


def test_a_pickle_is_not_opened(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="pickle"):
        adapter_files.read(file, CONFIG)


def test_an_adapter_says_how_large_it_is():
    assert repr(adapter([ATTENTION, "proj_out"])) == "<Adapter 'thing': rank 2 on 2 matrices>"


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_a_weight_name_leads_to_no_other_folder(tmp_path, name):
    with pytest.raises(InputError, match="weight_name"):
        adapter_files.read(tmp_path, CONFIG, weight_name=name)
