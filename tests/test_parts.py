"""Where the parts of a model lie, for every layout, and which folders and files are refused and how."""

import layout_writers as writers
import mlx.core as mx
import pytest
import tiny_checkpoint as tiny

from fluxnb.checkpoints.parts import Parts, find
from fluxnb.errors import CheckpointError

SAVED = {"transformer": "transformer", "vae": "vae"} | {
    name: name for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
}
FILES = SAVED | {
    "transformer": "flux1-schnell.safetensors",
    "vae": "ae.safetensors",
    "text_encoder": "clip_l.safetensors",
    "text_encoder_2": "t5xxl_fp16.safetensors",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return writers.write_files(tmp_path_factory.mktemp("parts") / "model").parent


@pytest.fixture
def folder(written, tmp_path):
    return tiny.link(written, tmp_path / "model")


def told(parts, folder):
    """The parts as paths in a folder."""
    found = {name: getattr(parts, name) for name in Parts.__dataclass_fields__}
    return {name: str(path.relative_to(folder)) for name, path in found.items() if path is not None}


def test_folders_of_parts_are_the_parts(tmp_path):
    folder = writers.write_diffusers(tmp_path / "diffusers")
    assert told(find(folder), folder) == SAVED | {"scheduler": "scheduler"}
    assert told(find(writers.write_mflux(tmp_path / "mflux")), tmp_path / "mflux") == SAVED


def test_files_are_told_by_what_is_in_them(folder):
    assert told(find(folder), folder) == FILES
    assert find(folder / "flux1-schnell.safetensors") == find(folder)
    (folder / "ae.safetensors").rename(folder / "some.sft")
    assert told(find(folder), folder)["vae"] == "some.sft"


def test_the_repository_of_diffusionkits_text_encoders_is_known(tmp_path):
    folder = writers.write_diffusionkit(tmp_path / "model", 4)
    (folder / "tokenizer").rename(folder / "tokenizer_l")
    found = told(find(folder), folder)
    assert (found["text_encoder"], found["text_encoder_2"], found["tokenizer"]) == (
        "clip_l",
        "t5",
        "tokenizer_l",
    )
    assert found["transformer"] == "flux-schnell-4bit-quantized.safetensors"


def test_the_parts_lie_where_comfyui_has_them(tmp_path):
    file = writers.write_comfyui(tmp_path / "models")
    found = told(find(file), tmp_path / "models")
    assert found["vae"] == "vae/ae.safetensors"
    assert found["text_encoder_2"] == "text_encoders/t5xxl_fp16.safetensors"


def test_one_file_may_hold_all_parts(tmp_path):
    folder = writers.write_checkpoint(tmp_path / "model")
    parts = find(folder)
    assert parts.transformer == parts.vae == parts.text_encoder == parts.text_encoder_2
    assert parts == find(parts.transformer)


def test_a_file_goes_before_the_folder_that_lies_beside_it(tmp_path):
    folder = writers.write_diffusers(tmp_path / "model")
    file = writers.write_files(tmp_path / "model-files").rename(folder / "flux1-schnell.safetensors")
    assert told(find(folder), folder)["transformer"] == "transformer"
    assert told(find(file), folder) == SAVED | {"transformer": file.name, "scheduler": "scheduler"}


def test_what_is_not_there_is_none(folder):
    (folder / "ae.safetensors").unlink()
    assert find(folder).vae is None
    assert find(folder).missing() == ("vae",)
    assert find(folder / "clip_l.safetensors").missing() == ("vae",)


def test_of_several_files_the_usual_name_counts(folder):
    tiny.save(folder / "another.safetensors", writers.bfl_vae(writers.original("vae")))
    assert told(find(folder), folder)["vae"] == "ae.safetensors"
    (folder / "ae.safetensors").rename(folder / "one.safetensors")
    refused(folder, "another.safetensors and one.safetensors can both be the vae; move all but one")


def test_of_several_transformers_one_has_to_be_given(folder):
    tiny.save(folder / "flux1-dev.safetensors", writers.original("transformer"))
    refused(folder, "flux1-dev.safetensors and flux1-schnell.safetensors", "give the one that you mean")
    assert find(folder / "flux1-dev.safetensors").transformer == folder / "flux1-dev.safetensors"


def refused(path, *words):
    """Finds no parts; the message is one line that holds the words."""
    with pytest.raises(CheckpointError) as caught:
        find(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


OTHERS = {
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "holds a Stable Diffusion 3",
    "model.diffusion_model.input_blocks.0.0.weight": "holds a Stable Diffusion with a UNet",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.bias": "holds a Stable Diffusion with a UNet",
    "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": "holds a LoRA",
    "redux_down.bias": "holds a FLUX.1-Redux",
    "layers.0.weight": "holds nothing known (layers.0.weight, ...)",
}


@pytest.mark.parametrize(("name", "what"), OTHERS.items())
def test_a_file_of_something_else_is_called_what_it_is(tmp_path, name, what):
    file = tmp_path / "model.safetensors"
    tiny.save(file, {name: mx.zeros(2)})
    refused(file, str(file), what, "give a FLUX.1-schnell or FLUX.1-dev")
    refused(tmp_path, str(file), what)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_a_pickle_is_never_opened(tmp_path, suffix):
    file = tmp_path / f"flux{suffix}"
    file.write_bytes(b"\x80\x04")
    refused(file, str(file), "is a pickle, which can run any code, and is not opened")
    refused(tmp_path, str(file), "is a pickle")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a Git LFS pointer of 63 bytes",
        ),
        (b"\x09\0\0\0\0\0\0\0", "is cut off within its head"),
        (b"<html>404", "is no safetensors file"),
    ],
)
def test_a_broken_file_is_called_what_it_is(folder, content, words):
    file = folder / "flux1-schnell.safetensors"
    file.unlink()
    file.write_bytes(content)
    refused(file, str(file), words)
    refused(folder, str(file), words)


def test_what_lies_beside_and_is_broken_counts_only_where_something_is_missing(folder):
    (folder / "some_lora.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (folder / "a folder.safetensors").mkdir()
    assert find(folder / "flux1-schnell.safetensors") == find(folder)
    assert told(find(folder), folder) == FILES
    (folder / "ae.safetensors").unlink()
    assert find(folder).missing() == ("vae",)
    (folder / "ae.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    refused(folder, "ae.safetensors", "is a Git LFS pointer")


def test_a_folder_of_one_part_is_that_part(tmp_path):
    folder = writers.write_diffusers(tmp_path / "model")
    assert told(find(folder / "transformer"), folder) == {"transformer": "transformer"}
    assert told(find(folder / "vae"), folder) == {"vae": "vae"}


def test_a_config_beside_folders_of_parts_makes_no_part_of_the_whole(tmp_path):
    folder = writers.write_diffusionkit(tmp_path / "model", 4)
    before = told(find(folder), folder)
    (folder / "config.json").write_text("{}")
    for file in folder.glob("ae*.safetensors"):
        file.unlink()
    assert told(find(folder), folder) == {part: path for part, path in before.items() if part != "vae"}


def test_a_file_cut_off_is_refused(folder):
    file = folder / "flux1-schnell.safetensors"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-1])
    refused(file, f"{file} is cut off: {len(whole) - 1} bytes, expected {len(whole)}")


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "flux.gguf"
    file.write_bytes(b"GGUF")
    refused(file, "is no safetensors file; give one")
    refused(tmp_path / "nowhere", "there is no")
