"""Quantised matrices from files to networks: kept, stacked, undone, made; on the tiny checkpoint."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
import stubs
import tiny_checkpoint as tiny
from mlx.utils import tree_flatten
from references import TOLERANCE, distance, outputs

from fluxnb.checkpoints import components, native, quantised
from fluxnb.checkpoints.files import Tensors
from fluxnb.checkpoints.fill import fill
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.clip import CLIPText
from fluxnb.model.layers import GROUP
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.vae import VAE

NETWORK = {"transformer": MMDiT, "vae": VAE, "text_encoder": CLIPText, "text_encoder_2": T5Encoder}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("quantised") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return tiny.link(whole, tmp_path / "model")


def filled(folder, component, bits=None, dtype=mx.float32):
    found = components.read(component, folder / component)
    return fill(NETWORK[component](found.config), found.table, found.tensors, dtype, bits)


def parameters(network):
    return dict(tree_flatten(network.parameters()))


def triple(name, matrix, bits):
    parts = mx.quantize(matrix, GROUP, bits)
    stem = name.removesuffix("weight")
    return {stem + part: array for part, array in zip(("weight", "scales", "biases"), parts, strict=True)}


def save_quantised(folder, component, bits, scales=mx.float32):
    """Quantises every matrix of a component whose rows can be, as mflux does; returns them as they were."""
    arrays, matrices = {}, {}
    for name, array in tiny.tensors(component).items():
        if array.ndim == 2 and array.shape[1] % GROUP == 0:
            matrices[name] = array
            parts = triple(name, array, bits)
            arrays |= {
                key: value if value.dtype == mx.uint32 else value.astype(scales)
                for key, value in parts.items()
            }
        else:
            arrays[name] = array
    tiny.save(folder / component / tiny.WEIGHTS[component], arrays)
    return matrices


@pytest.mark.parametrize("bits", quantised.BITS)
@pytest.mark.parametrize("component", ["transformer", "text_encoder_2"])
def test_quantising_takes_the_matrices_of_the_blocks_and_nothing_else(whole, component, bits):
    floats, made = parameters(filled(whole, component)), parameters(filled(whole, component, bits))
    chosen = {
        name
        for name, array in floats.items()
        if name.startswith(quantised.BLOCKS) and array.ndim == 2 and "relative" not in name
    }
    assert len(chosen) >= 14
    for name, array in floats.items():
        if name in chosen:
            expected = triple(name, array, bits)  # of the stacked matrix: the same as stacking its parts
            assert all(mx.array_equal(made[key], value) for key, value in expected.items())
        else:
            assert mx.array_equal(made[name], array)
    assert made.keys() == floats.keys() | {
        n.removesuffix("weight") + p for n in chosen for p in ("scales", "biases")
    }


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("component", ["transformer", "text_encoder_2"])
def test_a_quantised_file_gives_what_its_float_file_gives_quantised(folder, component, bits):
    expected = parameters(filled(folder, component, bits))
    save_quantised(folder, component, bits)
    kept, asked = (parameters(filled(folder, component, b)) for b in (None, bits))
    assert kept.keys() == asked.keys() >= expected.keys()
    for name in expected.keys() & {n for n in kept if n.startswith(quantised.BLOCKS) and "relative" not in n}:
        assert mx.array_equal(kept[name], expected[name]) and mx.array_equal(asked[name], expected[name])


def test_swapped_halves_of_a_quantised_matrix_are_the_quantised_swapped_halves(folder):
    matrices = save_quantised(folder, "transformer", 4)
    first, second = mx.split(matrices["norm_out.linear.weight"], 2)
    made = parameters(filled(folder, "transformer"))
    name = "final_layer.adaLN_modulation.1.weight"
    assert all(
        mx.array_equal(made[key], value)
        for key, value in triple(name, mx.concatenate([second, first]), 4).items()
    )


@pytest.mark.parametrize(
    ("component", "name", "source"),
    [
        ("text_encoder_2", "shared.weight", "shared.weight"),
        ("vae", "decoder.mid.attn_1.q.weight", "decoder.mid_block.attentions.0.to_q.weight"),
        ("text_encoder", "embeddings.token_embedding.weight", "embeddings.token_embedding.weight"),
    ],
)
def test_what_is_no_linear_layer_becomes_floats(folder, component, name, source):
    matrices = save_quantised(folder, component, 8)
    made = parameters(filled(folder, component))
    expected = mx.dequantize(*mx.quantize(matrices[source], GROUP, 8), GROUP, 8)
    assert mx.array_equal(made[name].reshape(expected.shape), expected)


@pytest.mark.parametrize("component", tiny.CASES)
def test_a_quantised_file_computes_what_the_floats_that_it_stands_for_compute(folder, component):
    case = tiny.CASES[component]
    matrices = save_quantised(folder, component, 4)
    found = outputs(case, filled(folder, component))
    wide = {
        name: mx.dequantize(*mx.quantize(matrix, GROUP, 4), GROUP, 4) for name, matrix in matrices.items()
    }
    tiny.save(folder / component / tiny.WEIGHTS[component], tiny.tensors(component) | wide)
    for name, expected in outputs(case, filled(folder, component)).items():
        assert distance(found[name], expected) <= TOLERANCE


def test_parts_of_different_bits_are_stacked_as_floats(folder):
    save_quantised(folder, "transformer", 4)
    path = folder / "transformer" / tiny.WEIGHTS["transformer"]
    arrays = mx.load(str(path))
    q = "transformer_blocks.0.attn.to_q.weight"
    arrays |= triple(q, tiny.tensors("transformer")[q], 8)
    tiny.save(path, arrays)
    network = filled(folder, "transformer")
    qkv = network.double_blocks[0].img_attn.qkv
    assert "scales" not in qkv and qkv.weight.dtype == mx.float32
    assert "scales" in network.double_blocks[1].img_attn.qkv


@pytest.mark.parametrize(
    ("scales", "dtype", "kept"),
    [
        (mx.float32, mx.float32, mx.float32),
        (mx.float32, mx.bfloat16, mx.bfloat16),
        (mx.float16, mx.bfloat16, mx.float16),
        (mx.bfloat16, mx.float32, mx.bfloat16),
    ],
)
def test_scales_become_as_narrow_as_the_floats_and_no_wider(folder, scales, dtype, kept):
    save_quantised(folder, "transformer", 4, scales)
    layer = filled(folder, "transformer", dtype=dtype).double_blocks[0].img_mlp[0]
    assert (layer.scales.dtype, layer.biases.dtype, layer.bias.dtype) == (kept, kept, dtype)


def test_other_bits_than_the_file_has_are_refused(folder):
    save_quantised(folder, "transformer", 4)
    with pytest.raises(
        InputError, match=r"quantize is 8, but .*safetensors is quantised to 4 bits already; leave"
    ):
        filled(folder, "transformer", 8)


def test_quantising_what_has_no_row_of_64_numbers_is_refused():
    network = MMDiT(replace(stubs.networks().mmdit.config, mlp_ratio=1.5))  # rows of 32, 48 and 80 numbers
    arrays = parameters(network)
    tensors = Tensors(arrays, dict.fromkeys(arrays, Path("stub")), Path("stub"))
    with pytest.raises(InputError, match="quantize is 4, but no matrix in stub has rows of a multiple of 64"):
        fill(network, native.TABLE, tensors, mx.float32, 4)


def test_a_quantised_matrix_without_scales_is_refused(folder):
    save_quantised(folder, "transformer", 4)
    path = folder / "transformer" / tiny.WEIGHTS["transformer"]
    arrays = mx.load(str(path))
    del arrays["x_embedder.scales"]
    tiny.save(path, arrays)
    with pytest.raises(
        CheckpointError, match=r"x_embedder\.weight is quantised, but x_embedder\.scales are missing"
    ):
        filled(folder, "transformer")


@pytest.mark.parametrize("group", [32, 128])
def test_groups_of_another_size_are_refused(folder, group):
    arrays = tiny.tensors("text_encoder_2")
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    parts = mx.quantize(arrays.pop(name), group, 4)
    stem = name.removesuffix("weight")
    arrays |= {stem + part: array for part, array in zip(("weight", "scales", "biases"), parts, strict=True)}
    tiny.save(folder / "text_encoder_2" / tiny.WEIGHTS["text_encoder_2"], arrays)
    with pytest.raises(CheckpointError, match=r"SelfAttention\.q"):
        filled(folder, "text_encoder_2")


def test_quantising_takes_little_more_memory_than_the_result(whole):
    found = components.read("transformer", whole / "transformer")
    network = MMDiT(found.config)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    fill(network, found.table, found.tensors, mx.bfloat16, 4)
    result = sum(array.nbytes for array in parameters(network).values())
    largest = max(array.nbytes for array in tiny.tensors("transformer").values())
    assert mx.get_peak_memory() - before <= 1.02 * result + 3 * largest
