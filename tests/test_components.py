"""One small network in each layout: the same parameters bit for bit, outputs, picture; what is refused."""

import json
import struct

import layout_writers as writers
import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoint as tiny
from mlx.utils import tree_flatten

from fluxnb import FluxPipeline
from fluxnb.checkpoints import store
from fluxnb.errors import CheckpointError, FluxnbWarning

NETWORK = {"transformer": "mmdit", "vae": "vae", "text_encoder": "clip", "text_encoder_2": "t5"}
FLOATS = {
    "diffusers": writers.write_diffusers,
    "black-forest-labs": writers.write_files,
    "ComfyUI": writers.write_comfyui,
    "ComfyUI's one file": writers.write_checkpoint,
    "DiffusionKit's own names": writers.write_diffusionkit,
    "mflux": writers.write_mflux,
    "mflux without index": lambda folder: writers.write_mflux(folder, has_index=False),
    "mlx-examples": writers.write_mlx_examples,
}
QUANTISED = {
    "mflux, 4 bits": (4, tuple(NETWORK), lambda folder: writers.write_mflux(folder, 4)),
    "mflux, 8 bits": (8, tuple(NETWORK), lambda folder: writers.write_mflux(folder, 8)),
    "DiffusionKit": (4, ("transformer",), lambda folder: writers.write_diffusionkit(folder, 4)),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return FluxPipeline(local_ckpt=writers.write_diffusers(tmp_path_factory.mktemp("layouts") / "diffusers"))


def parameters(network):
    return dict(tree_flatten(network.parameters()))


def outputs(networks):
    """Velocity, txt, vec and a decoded picture."""
    ids = mx.arange(3, 15)[None]
    txt = networks.t5(ids)
    hidden, vec = networks.clip(mx.concatenate([ids, mx.array([[79]])], axis=1))
    img = mx.random.normal((1, 6, 64), key=mx.random.key(1))
    rows = mx.array([[0, i // 3, i % 3] for i in range(6)])
    velocity = networks.mmdit(img, txt, vec, mx.array([0.4]), img_ids=rows, txt_ids=mx.zeros((12, 3)))
    decoded = networks.vae.decode(mx.random.normal((1, 4, 6, 16), key=mx.random.key(2)))
    return {"velocity": velocity, "txt": txt, "hidden": hidden, "vec": vec, "decoded": decoded}


def picture(pipeline):
    image, _ = pipeline.generate_image("a cat, a dog", num_steps=2, latent_size=(4, 6), seed=5, cfg_weight=0)
    return np.asarray(image)


@pytest.fixture(scope="module")
def expected(reference):
    return outputs(reference.networks), picture(reference)


@pytest.mark.parametrize("layout", FLOATS)
def test_every_layout_of_floats_gives_the_same_bits(expected, tmp_path, layout):
    pipeline = FluxPipeline(local_ckpt=FLOATS[layout](tmp_path / "model"))
    for component, name in NETWORK.items():
        ours, original = parameters(getattr(pipeline.networks, name)), writers.original(component)
        assert ours.keys() == original.keys()
        assert all(mx.array_equal(ours[key], array) for key, array in original.items())
    arrays, image = expected
    for name, ours in outputs(pipeline.networks).items():
        assert mx.array_equal(ours, arrays[name]), name
    assert np.array_equal(picture(pipeline), image)


def test_the_picture_that_is_compared_is_of_something(expected):
    assert expected[1].std() > 10


@pytest.mark.parametrize("layout", QUANTISED)
def test_a_quantised_layout_gives_what_its_rounded_floats_give(tmp_path, layout):
    bits, quantised, write = QUANTISED[layout]
    floats = {component: writers.original(component) for component in NETWORK}
    for component in quantised:
        theirs = floats[component]
        if component == "vae":  # only the attention's matrices are such; elsewhere they are kernels
            matrices = {name: array[:, 0, 0] for name, array in theirs.items() if is_attention(name)}
            rounded = writers.rounded(matrices, bits)
            floats[component] = theirs | {name: array[:, None, None] for name, array in rounded.items()}
        else:
            kept = {n: a for n, a in theirs.items() if layout == "DiffusionKit" and n.startswith("img_in")}
            floats[component] = writers.rounded(theirs, bits) | kept
    pipeline = FluxPipeline(local_ckpt=write(tmp_path / "model"))
    expected = FluxPipeline(local_ckpt=writers.write_diffusers(tmp_path / "floats", floats))
    packed = parameters(pipeline.networks.mmdit)
    assert packed["double_blocks.0.img_attn.qkv.weight"].dtype == mx.uint32
    assert packed["single_blocks.2.linear2.weight"].dtype == mx.uint32
    theirs = outputs(expected.networks)
    for name, ours in outputs(pipeline.networks).items():
        assert mx.abs(ours - theirs[name]).max() <= 1e-5 * mx.abs(theirs[name]).max(), name
    difference = picture(pipeline).astype(int) - picture(expected)
    assert np.abs(difference).max() <= 1


def is_attention(name):
    return ".attn_1." in name and name.endswith("weight") and "norm" not in name


def test_missing_biases_of_keys_are_zero_and_told(tmp_path):
    folder = writers.write_diffusionkit(tmp_path / "model", 4, has_key_biases=False)
    with pytest.warns(
        FluxnbWarning, match=r"flux-schnell-4bit.*lacks the bias of every key \(k_proj\.bias\)"
    ):
        loaded = parameters(store.load(local_ckpt=folder).mmdit)
    original = writers.original("transformer")
    for name in ("double_blocks.1.txt_attn.qkv.bias", "single_blocks.0.linear1.bias"):
        q, k, *rest = mx.split(original[name], [128, 256])
        assert mx.array_equal(loaded[name], mx.concatenate([q, mx.zeros_like(k), *rest]))


def refused(path, *words):
    """Loads what cannot be loaded; returns the message, which is one line and holds the words."""
    with pytest.raises(CheckpointError) as caught:
        store.load(local_ckpt=path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def change(file, **arrays):
    """Puts arrays into a safetensors file; None takes one out."""
    held = mx.load(str(file)) | {name.replace("__", "."): array for name, array in arrays.items()}
    tiny.save(file, {name: array for name, array in held.items() if array is not None})


def test_some_missing_biases_of_keys_are_missed(tmp_path):
    folder = writers.write_diffusionkit(tmp_path / "model", 4)
    name = "unified_transformer_blocks__1__transformer_block__attn__k_proj__bias"
    change(folder / "flux-schnell-4bit-quantized.safetensors", **{name: None})
    refused(folder, "1 missing (unified_transformer_blocks.1.transformer_block.attn.k_proj.bias)")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return writers.write_files(tmp_path_factory.mktemp("files") / "model").parent


@pytest.fixture
def file(written, tmp_path):
    return tiny.link(written, tmp_path / "model") / "flux1-schnell.safetensors"


@pytest.mark.parametrize("name", ["img_in__weight", "double_blocks__0__img_attn__qkv__bias"])
def test_a_missing_tensor_of_a_single_file_is_named(file, name):
    change(file, **{name: None})
    refused(file, str(file), name.replace("__", "."), "missing")


def test_a_missing_tensor_that_tells_a_size_bears_the_files_name(tmp_path):
    folder = writers.write_mflux(tmp_path / "model", has_index=False)
    (file,) = (f for f in folder.glob("transformer/*") if "x_embedder.weight" in mx.load(str(f)))
    change(file, x_embedder__weight=None)
    refused(folder, str(folder / "transformer"), "x_embedder.weight, which tells sizes", "is missing")


def test_a_surplus_tensor_of_a_single_file_is_named(file):
    change(file, ema_decay=mx.ones(1))
    refused(file, str(file), "1 without a place in the network (ema_decay)")


@pytest.mark.parametrize(
    ("component", "name", "shape"),
    [
        ("flux1-schnell", "double_blocks.1.txt_mlp.0.weight", (512, 127)),
        ("flux1-schnell", "double_blocks.0.img_attn.norm.query_norm.scale", (30,)),
        ("flux1-schnell", "final_layer.linear.weight", (64,)),
        ("ae", "decoder.mid.attn_1.k.weight", (64, 64)),
        ("clip_l", "text_model.final_layer_norm.bias", (63,)),
        ("t5xxl_fp16", "encoder.block.1.layer.1.DenseReluDense.wi_1.weight", (64, 128)),
    ],
)
def test_a_misshapen_tensor_of_a_single_file_is_named(file, component, name, shape):
    changed = file.with_name(f"{component}.safetensors")
    change(changed, **{name: mx.zeros(shape)})
    message = refused(file, str(changed))
    assert name.removeprefix("text_model.") in message or "width of a head is 30" in message


@pytest.mark.parametrize(("times", "what"), [(6, "FLUX.1-Fill"), (2, "FLUX.1-Depth or -Canny")])
@pytest.mark.parametrize("layout", ["diffusers", "black-forest-labs"])
def test_a_transformer_that_needs_more_than_a_prompt_is_called_what_it_is(tmp_path, layout, times, what):
    path = FLOATS[layout](tmp_path / "model")
    if layout == "diffusers":
        file = path / "transformer" / tiny.WEIGHTS["transformer"]
        change(file, x_embedder__weight=mx.zeros((128, 64 * times)))
        tiny.change(path / "transformer" / "config.json", in_channels=64 * times, out_channels=64)
    else:
        change(path, img_in__weight=mx.zeros((128, 64 * times)))
    refused(
        path, what, f"its image tokens have {64 * times} numbers", "those of FLUX.1-schnell and FLUX.1-dev 64"
    )


def test_a_copy_of_mflux_that_is_none_is_refused(tmp_path):
    folder = writers.write_mflux(tmp_path / "model")
    name = "t5_blocks__2__attention__SelfAttention__relative_attention_bias__weight"
    (file,) = (
        path
        for path in folder.glob("text_encoder_2/*.safetensors")
        if name.replace("__", ".") in mx.load(str(path))
    )
    change(file, **{name: mx.ones((32, 64))})
    refused(folder, name.replace("__", "."), "t5_blocks.0.attention", "should be the same and are not")


def test_two_shards_that_hold_the_same_are_refused(tmp_path):
    folder = writers.write_mflux(tmp_path / "model", has_index=False)
    change(folder / "vae" / "1.safetensors", **mx.load(str(folder / "vae" / "0.safetensors")))
    refused(folder, "0.safetensors both hold", "vae/1.safetensors")


def test_a_component_in_another_ones_place_is_refused(file):
    tiny.save(file.with_name("t5xxl_fp16.safetensors"), writers.hub_clip(writers.original("text_encoder")))
    refused(file, "it lacks text_encoder_2")
    folder = file.parent / "text_encoder_2"
    folder.mkdir()
    file.with_name("t5xxl_fp16.safetensors").rename(folder / "model.safetensors")
    refused(file, "model.safetensors holds text_encoder, expected the text_encoder_2 of a FLUX.1")


def test_eight_bit_floats_are_refused_with_the_remedy(file):
    arrays = mx.load(str(file))
    head, data, name = {}, b"", "img_in.weight"
    for key, array in arrays.items():
        held = np.zeros(array.shape, np.uint8) if key == name else np.array(array)
        span = [len(data), len(data) + held.nbytes]
        dtype = "F8_E4M3" if key == name else "F32"
        head[key] = {"dtype": dtype, "shape": held.shape, "data_offsets": span}
        data += held.tobytes()
    text = json.dumps(head).encode()
    file.unlink()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    refused(
        file, str(file), "img_in.weight as F8_E4M3 (1 such", "take the file in bf16 or fp16, and quantize=8"
    )


def test_positions_that_old_files_of_clip_number_are_of_no_use(file, reference):
    ids = mx.arange(16, dtype=mx.int64)[None]
    change(file.with_name("clip_l.safetensors"), text_model__embeddings__position_ids=ids)
    loaded = parameters(store.load(local_ckpt=file).clip)
    assert loaded.keys() == parameters(reference.networks.clip).keys()


def test_guidance_is_told_from_tensors(file):
    rows = {"in_layer__weight": (128, 256), "in_layer__bias": (128,)}
    rows |= {"out_layer__weight": (128, 128), "out_layer__bias": (128,)}
    change(file, **{f"guidance_in__{name}": mx.zeros(shape) for name, shape in rows.items()})
    networks = store.load(local_ckpt=file)
    assert networks.mmdit.config.guidance
    assert networks.entry.guidance == 3.5


def test_the_autoencoder_of_our_own_saves_is_told_from_black_forest_labs(file, reference):
    tiny.save(file.with_name("ae.safetensors"), writers.original("vae"))
    loaded = parameters(store.load(local_ckpt=file).vae)
    expected = parameters(reference.networks.vae)
    assert all(mx.array_equal(loaded[name], array) for name, array in expected.items())
