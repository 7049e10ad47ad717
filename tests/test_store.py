"""Measured against the stored outputs of diffusers and transformers: at most 3e-6 of the largest number."""

import os
import shutil
from dataclasses import replace

import mlx.core as mx
import pytest
import tiny_checkpoint as tiny
from mlx.utils import tree_flatten
from references import TOLERANCE, distance, outputs, stored

from fluxnb.checkpoints import catalog, store
from fluxnb.checkpoints.parts import FOLDERS
from fluxnb.errors import CheckpointError, InputError, UnknownModelError
from fluxnb.model.config import dev, schnell

HEAD = (20_000).to_bytes(8, "little")
NETWORK = {"transformer": "mmdit", "vae": "vae", "text_encoder": "clip", "text_encoder_2": "t5"}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("checkpoint") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return tiny.link(whole, tmp_path / "model")


@pytest.fixture(scope="session")
def networks(whole):
    return store.load(local_ckpt=whole)


def parameters(network):
    return dict(tree_flatten(network.parameters()))


def same_bits(one, other):
    one, other = parameters(one), parameters(other)
    return one.keys() == other.keys() and all(mx.array_equal(one[name], other[name]).item() for name in one)


def weights_of(folder, component):
    return folder / component / tiny.WEIGHTS[component]


@pytest.mark.parametrize("component", tiny.CASES)
def test_a_loaded_network_gives_what_the_reference_gives(networks, component):
    case = tiny.CASES[component]
    for name, ours in outputs(case, getattr(networks, NETWORK[component])).items():
        assert distance(ours, stored()[f"{case.name}/{name}"]) <= TOLERANCE


def test_what_the_files_say_is_in_the_entry(networks, whole):
    entry = networks.entry
    assert (entry.name, entry.licence) == (str(whole), "unknown")
    assert (entry.shift, entry.guidance, entry.text_length) == (1.0, None, 12)
    assert (networks.vae.config.scale_factor, networks.vae.config.shift_factor) == (0.5, 0.1)
    assert networks.clip.config.eos_token == networks.clip_tokenizer.end_id == 3


def test_everything_is_read_when_load_returns(folder, networks):
    for component in tiny.CASES:
        tiny.save(weights_of(folder, component), tiny.tensors(component))  # files of its own, not links
    loaded = store.load(local_ckpt=folder)
    for component in tiny.CASES:
        os.truncate(weights_of(folder, component), 0)
    assert all(same_bits(getattr(loaded, name), getattr(networks, name)) for name in NETWORK.values())


def test_loading_gives_products_the_threads_that_suit_the_width(whole, monkeypatch):
    widths = []
    monkeypatch.setattr(store.backend, "fit_threads", widths.append)
    loaded = store.load(local_ckpt=whole)
    assert widths == [loaded.mmdit.config.width]


def test_loading_takes_little_more_memory_than_the_result(whole):
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    networks = store.load(local_ckpt=whole)
    arrays = [array for name in NETWORK.values() for array in parameters(getattr(networks, name)).values()]
    result, largest = sum(array.nbytes for array in arrays), max(array.nbytes for array in arrays)
    assert mx.get_peak_memory() - before <= 1.02 * result + 2 * largest


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_files_become_float32_and_nothing_else(folder, dtype):
    for component in tiny.CASES:
        arrays = {name: array.astype(dtype) for name, array in tiny.tensors(component).items()}
        tiny.save(weights_of(folder, component), arrays)
    loaded = parameters(store.load(local_ckpt=folder).mmdit)
    assert {array.dtype for array in loaded.values()} == {mx.float32}
    expected = tiny.tensors("transformer")["x_embedder.weight"].astype(dtype).astype(mx.float32)
    assert mx.array_equal(loaded["img_in.weight"], expected)


def test_w16_keeps_weights_in_bfloat16(whole):
    loaded = store.load(local_ckpt=whole, w16=True)
    for name in NETWORK.values():
        assert {array.dtype for array in parameters(getattr(loaded, name)).values()} == {mx.bfloat16}


def shard(folder, component):
    """Splits the weights of a component into two files with an index."""
    path, arrays = weights_of(folder, component), tiny.tensors(component)
    path.unlink()
    names, stem = sorted(arrays), path.name.removesuffix(".safetensors")
    placed = {name: f"{stem}-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(placed.values()):
        tiny.save(path.parent / file, {name: arrays[name] for name in names if placed[name] == file})
    index = path.parent / f"{stem}.safetensors.index.json"
    tiny.save_json(index, {"metadata": {"total_size": 1}, "weight_map": placed})
    return index, placed


def test_shards_give_the_same_as_one_file(folder, networks):
    for component in ("transformer", "text_encoder_2"):
        shard(folder, component)
    loaded = store.load(local_ckpt=folder)
    assert same_bits(loaded.mmdit, networks.mmdit)
    assert same_bits(loaded.t5, networks.t5)


def test_clip_is_read_with_and_without_its_prefix(folder, networks):
    arrays = {f"text_model.{name}": array for name, array in tiny.tensors("text_encoder").items()}
    tiny.save(weights_of(folder, "text_encoder"), arrays)
    assert same_bits(store.load(local_ckpt=folder).clip, networks.clip)


@pytest.mark.parametrize(
    "names", [("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")]
)
def test_the_embedding_of_t5_has_either_name_or_both(folder, networks, names):
    arrays = tiny.tensors("text_encoder_2")
    table = arrays.pop("shared.weight")
    tiny.save(weights_of(folder, "text_encoder_2"), arrays | dict.fromkeys(names, table))
    assert same_bits(store.load(local_ckpt=folder).t5, networks.t5)


def test_dynamic_shifting_leaves_the_shift_to_the_resolution(folder):
    tiny.change(
        folder / "scheduler" / "scheduler_config.json", shift=3.0, use_dynamic_shifting=True, max_shift=1.2
    )
    entry = store.load(local_ckpt=folder).entry
    assert entry.shift is None
    assert (entry.base_tokens, entry.base_shift, entry.max_tokens, entry.max_shift) == (256, 0.5, 4096, 1.2)


def test_a_guidance_embedding_brings_a_guidance_strength(folder):
    arrays = tiny.tensors("transformer")
    for i, width in ((1, 256), (2, 192)):
        name = f"time_text_embed.guidance_embedder.linear_{i}"
        arrays |= {f"{name}.weight": mx.ones((192, width)), f"{name}.bias": mx.ones((192,))}
    tiny.save(weights_of(folder, "transformer"), arrays)
    tiny.change(folder / "transformer" / "config.json", guidance_embeds=True)
    assert store.load(local_ckpt=folder).entry.guidance == 3.5


@pytest.mark.parametrize(("guided", "length"), [(False, 256), (True, 512)])
def test_the_prompt_is_as_long_as_the_model_was_trained_for(folder, guided, length):
    test_tokens = folder / "tokenizer_2" / "tokenizer_config.json"
    tiny.change(test_tokens, model_max_length=4096)
    if guided:
        test_a_guidance_embedding_brings_a_guidance_strength(folder)
    assert store.load(local_ckpt=folder).entry.text_length == length


def refused(folder, *words):
    """Loads what cannot be loaded; returns the message, which is one line and holds the words."""
    with pytest.raises(CheckpointError) as caught:
        store.load(local_ckpt=folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def test_missing_tensors_are_counted_and_named(folder):
    arrays = tiny.tensors("transformer")
    for block in (0, 1, 2, 3):
        del arrays[f"single_transformer_blocks.{block}.attn.to_k.bias"]
    tiny.save(weights_of(folder, "transformer"), arrays)
    refused(
        folder, "4 missing (single_transformer_blocks.0.attn.to_k.bias", "and 1 more", "transformer/diffusion"
    )


def test_surplus_tensors_are_counted_and_named(folder):
    tiny.save(weights_of(folder, "vae"), tiny.tensors("vae") | {"quant_conv.weight": mx.zeros((3,))})
    refused(folder, "1 without a place in the network (quant_conv.weight)", "vae/diffusion")


def test_a_network_deeper_than_its_files_is_refused(folder):
    tiny.change(folder / "text_encoder_2" / "config.json", num_layers=3)
    refused(folder, "9 missing (encoder.block.2", "text_encoder_2/model.safetensors")


@pytest.mark.parametrize(
    ("component", "name", "shape"),
    [
        ("transformer", "transformer_blocks.1.attn.to_v.weight", (192, 191)),
        ("transformer", "transformer_blocks.1.attn.to_v.weight", (191, 192)),
        ("transformer", "norm_out.linear.bias", (385,)),
        ("vae", "decoder.conv_out.weight", (3, 3, 3, 16)),
        ("vae", "encoder.mid_block.attentions.0.to_q.weight", (128, 128, 1, 1)),
        ("text_encoder", "embeddings.position_embedding.weight", (31, 128)),
    ],
)
def test_a_misshapen_tensor_is_named_with_both_shapes(folder, component, name, shape):
    tiny.save(weights_of(folder, component), tiny.tensors(component) | {name: mx.zeros(shape)})
    refused(folder, "1 of", f"{name} {shape}", tiny.WEIGHTS[component])


def test_two_embeddings_of_t5_that_differ_are_refused(folder):
    arrays = tiny.tensors("text_encoder_2")
    arrays["encoder.embed_tokens.weight"] = arrays["shared.weight"] + 1
    tiny.save(weights_of(folder, "text_encoder_2"), arrays)
    refused(folder, "encoder.embed_tokens.weight and shared.weight should be the same")


def test_integers_are_no_weights(folder):
    arrays = tiny.tensors("text_encoder") | {"final_layer_norm.bias": mx.zeros((128,), mx.uint32)}
    tiny.save(weights_of(folder, "text_encoder"), arrays)
    refused(folder, "final_layer_norm.bias as U32", "expected F32, F16, BF16")


@pytest.mark.parametrize("kept", [0, 5, 3000, 100_000])
def test_a_file_cut_off_anywhere_is_refused(folder, kept):
    path = weights_of(folder, "text_encoder")
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:kept])
    refused(folder, str(path), "download it again")


def test_a_file_with_something_behind_it_is_refused(folder):
    path = weights_of(folder, "text_encoder")
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole + b"more")
    refused(folder, f"is too long: {len(whole) + 4} bytes, expected {len(whole)}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a Git LFS pointer of 63 bytes",
        ),
        (b"<!DOCTYPE html><html>404: not found</html>", "is no safetensors file"),
        (b"\x08\0\0\0\0\0\0\0[1, 2,3]", "is no safetensors file"),
        (HEAD + b"[" * 20_000, "is no safetensors file"),
        (HEAD + b'{"a": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}'.ljust(20_000), "holds a as []"),
    ],
)
def test_what_is_no_safetensors_file_is_called_what_it_is(folder, content, words):
    path = weights_of(folder, "vae")
    path.unlink()
    path.write_bytes(content)
    refused(folder, str(path), words)


def test_pickles_are_never_opened(folder):
    path = weights_of(folder, "text_encoder")
    path.unlink()
    (path.parent / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused(folder, "pytorch_model.bin", "a pickle can run any code", "safetensors")


def test_missing_weights_are_missed(folder):
    weights_of(folder, "text_encoder").unlink()
    refused(folder, "holds no safetensors file, but config.json")


def test_a_head_that_claims_terabytes_is_not_read(folder):
    path = weights_of(folder, "vae")
    path.unlink()
    path.write_bytes((1 << 42).to_bytes(8, "little"))
    os.truncate(path, (1 << 42) + 8)  # of holes
    refused(folder, str(path), "is no safetensors file")


def test_a_missing_shard_is_named(folder):
    index, placed = shard(folder, "transformer")
    file = sorted(set(placed.values()))[1]
    (index.parent / file).unlink()
    refused(folder, file, "is missing")


def test_an_index_that_does_not_fit_its_shards_is_refused(folder):
    index, placed = shard(folder, "transformer")
    first, second = sorted(set(placed.values()))
    tensor = next(name for name in sorted(placed) if placed[name] == first)
    tiny.save_json(index, {"weight_map": placed | {tensor: second}})
    refused(folder, f"says that {tensor} is in {second}, but it is in {first} (1 such")
    tiny.save_json(index, {"weight_map": placed | {"more": second}})
    refused(folder, "says that more is in", "but it is in none")
    tiny.save_json(index, {"weight_map": placed | {tensor: "../../elsewhere.safetensors"}})
    refused(folder, "lies in another folder")
    tiny.save_json(index, {"weight_map": placed | {tensor: "/etc/passwd"}})
    refused(folder, "lies in another folder")
    tiny.save_json(index, {"weight_map": placed | {tensor: ".."}})
    refused(folder, "cannot be read")
    tiny.save_json(index, {"weight_map": placed | {tensor: "a\0b"}})
    refused(folder, "cannot be read", "a\\x00b")
    tiny.save_json(index, {"metadata": {}})
    refused(folder, "has no weight_map")


@pytest.mark.parametrize("component", FOLDERS)
def test_a_missing_component_is_named(folder, component):
    shutil.rmtree(folder / component)
    refused(folder, f"it lacks {component};", str(folder))


def test_what_is_no_checkpoint_is_refused(folder, tmp_path):
    refused(tmp_path / "nowhere", "there is no", "nowhere")
    refused(folder / "vae" / "config.json", "is no safetensors file")
    refused(tmp_path, "it lacks transformer, vae")
    refused(folder / "transformer", "give the folder above")


@pytest.mark.parametrize(
    ("file", "settings", "words"),
    [
        (
            "transformer/config.json",
            {"_class_name": "SD3Transformer2DModel"},
            "_class_name is 'SD3Transformer2DModel'",
        ),
        ("transformer/config.json", {"num_layers": "two"}, "num_layers is 'two', expected a whole number"),
        ("transformer/config.json", {"num_layers": None}, "lacks num_layers"),
        ("transformer/config.json", {"guidance_embeds": 1}, "guidance_embeds is 1, expected true or false"),
        ("transformer/config.json", {"num_layers": 10**9}, "depth is 1000000000; give an integer in 1..200"),
        ("transformer/config.json", {"num_attention_heads": 10**9}, "heads is 1000000000; give"),
        ("vae/config.json", {"scaling_factor": 0.0}, "scale_factor is 0.0; give a finite number above 0"),
        ("vae/config.json", {"shift_factor": float("nan")}, "shift_factor is nan, expected a number"),
        ("text_encoder_2/config.json", {"vocab_size": 10**12}, "vocab_size is 1000000000000; give"),
        ("scheduler/scheduler_config.json", {"shift": 0.0}, "shift is 0.0; give a finite number above 0"),
        ("transformer/config.json", {"patch_size": 2}, "patch_size is 2, expected 1"),
        ("transformer/config.json", {"axes_dims_rope": [8, 8, 8]}, "axes_dim (8, 8, 8) sum to 24"),
        ("transformer/config.json", {"axes_dims_rope": 32}, "axes_dims_rope is 32, expected a list"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny'"),
        ("vae/config.json", {"act_fn": "relu"}, "act_fn is 'relu', expected 'silu'"),
        ("vae/config.json", {"use_quant_conv": None}, "use_quant_conv is True, expected False"),
        ("vae/config.json", {"shift_factor": None}, "lacks shift_factor"),
        ("vae/config.json", {"latents_mean": [0.0] * 16}, "latents_mean is [0.0,"),
        ("vae/config.json", {"norm_num_groups": 3}, "channels (16, 32, 64, 128)"),
        (
            "text_encoder/config.json",
            {"model_type": "clip_vision_model"},
            "model_type is 'clip_vision_model'",
        ),
        ("text_encoder/config.json", {"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'quick_gelu'"),
        ("text_encoder/config.json", {"eos_token_id": 7}, "eos_token_id of text_encoder is 7"),
        ("text_encoder_2/config.json", {"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu'"),
        ("text_encoder_2/config.json", {"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler"},
            "_class_name is 'DDIMScheduler'",
        ),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": True}, "use_karras_sigmas is True"),
        ("scheduler/scheduler_config.json", {"shift": "much"}, "shift is 'much', expected a number"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 33}, "has room for 32"),
    ],
)
def test_settings_that_our_networks_lack_are_refused(folder, file, settings, words):
    tiny.change(folder / file, **settings)
    refused(folder, words, str(folder))


def test_components_of_different_models_are_refused(folder):
    tiny.change(folder / "transformer" / "config.json", joint_attention_dim=64)
    refused(folder, "joint_attention_dim of transformer is 64, but the other components need 128")


def test_a_tokenizer_larger_than_its_encoder_is_refused(folder):
    vocab = folder / "tokenizer" / "vocab.json"
    tiny.change(vocab, zebra=120)
    refused(folder, "vocabulary of tokenizer is 121, but the text encoder has room for 120")


@pytest.mark.parametrize("content", ["{", "[1]", "", "[" * 100_000, '"\\ud800'])
def test_a_config_that_is_no_json_object_is_refused(folder, content):
    path = folder / "vae" / "config.json"
    path.unlink()
    path.write_text(content)
    refused(folder, str(path), "download it again")


def test_a_name_that_nobody_knows_is_refused():
    with pytest.raises(UnknownModelError, match=r"fluxnb/dmeo.*did you mean 'fluxnb/demo'.*FLUX.1-schnell"):
        store.load("fluxnb/dmeo")


def test_a_folder_of_flux_is_known_by_its_sizes():
    assert store.known(schnell(), catalog.DEMO) is catalog.SCHNELL
    assert store.known(dev(), catalog.DEMO) is catalog.DEV
    assert store.known(replace(dev(), depth=8), catalog.DEMO) is catalog.DEV  # some leave blocks out
    assert store.known(replace(schnell(), heads=12), catalog.DEMO) is catalog.DEMO


def test_a_fault_in_any_part_is_found_before_weights_are_read(folder, monkeypatch):
    path = weights_of(folder, "text_encoder_2")
    held = dict(mx.load(str(path)))
    held.pop(max(held))
    path.unlink()
    mx.save_safetensors(str(path), held)
    monkeypatch.setattr(store, "fill", lambda *_: pytest.fail("weights were read"))
    refused(folder, "text_encoder_2")


@pytest.mark.parametrize("bits", [0, 2, 5, 16, 4.0, True, "4"])
def test_bits_that_are_not_possible_are_refused(bits, whole):
    with pytest.raises(InputError, match=r"quantize is .*; give one of 3, 4, 6, 8, or None"):
        store.load(local_ckpt=whole, quantize=bits)


@pytest.mark.parametrize("name", ["low_memory_mode", "a16", "w16"])
def test_a_switch_is_true_or_false(name):
    with pytest.raises(InputError, match=rf"{name} is 'no'; give True or False"):
        store.load(**{name: "no"})


def test_quantize_leaves_the_small_networks_in_floats(whole):
    loaded = store.load(local_ckpt=whole, quantize=4, w16=True)
    dtypes = {
        name: {array.dtype for array in parameters(getattr(loaded, name)).values()}
        for name in NETWORK.values()
    }
    assert dtypes["mmdit"] == dtypes["t5"] == {mx.uint32, mx.bfloat16}
    assert dtypes["clip"] == dtypes["vae"] == {mx.bfloat16}


def test_the_entry_tells_what_the_weights_are_kept_in(whole):
    assert store.load(local_ckpt=whole, w16=True).entry.dtype == "bfloat16"
    assert store.load(local_ckpt=whole).entry.dtype == "float32"
