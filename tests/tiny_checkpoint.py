"""A tiny checkpoint in the layout of diffusers, with names and outputs that are the reference's own.

The networks are the first cases of `references`: what the loader makes of the files has to give the stored
outputs. The folder is written once a session; a test gets hard links to its files, and may replace them.
"""

import json
import os
import shutil
import string
from functools import cache
from pathlib import Path

import mlx.core as mx
from references import CLIP, MMDIT, T5, VAES, Case, stored_shapes, weights

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CASES: dict[str, Case] = {
    "transformer": MMDIT[0],
    "vae": VAES[0],
    "text_encoder": CLIP[0],
    "text_encoder_2": T5[0],
}
WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
CONFIGS = {
    "transformer": {"_class_name": "FluxTransformer2DModel", "patch_size": 1, "out_channels": None},
    "vae": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.5,
        "shift_factor": 0.1,
    },
    "text_encoder": {"model_type": "clip_text_model", "hidden_act": "quick_gelu"},
    "text_encoder_2": {"model_type": "t5", "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new"},
}
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0, "use_dynamic_shifting": False}


@cache
def _weights(component: str) -> dict[str, mx.array]:
    return {name: mx.array(value) for name, value in weights(stored_shapes(CASES[component])).items()}


def tensors(component: str) -> dict[str, mx.array]:
    """Gives the weights of a component under the reference's names."""
    return dict(_weights(component))


def save(path: Path, arrays: dict[str, mx.array]) -> None:
    """Writes a safetensors file in place of what is there; the copy that it was linked to keeps its own."""
    path.unlink(missing_ok=True)
    mx.save_safetensors(str(path), arrays)


def save_json(path: Path, value: dict) -> None:
    """Writes a JSON file in place of what is there."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def change(path: Path, **settings) -> None:
    """Changes settings of a JSON file; None takes one out."""
    values = json.loads(path.read_text(encoding="utf-8")) | settings
    save_json(path, {key: value for key, value in values.items() if value is not None})


def write_clip_tokenizer(folder: Path) -> None:
    """Writes a byte-pair tokenizer of 81 ids: letters, digits, comma, end of a word, two merges."""
    folder.mkdir(parents=True)
    letters = [*string.ascii_lowercase, *string.digits, ","]
    vocab = [
        "!",
        CLIP_START,
        "!</w>",
        CLIP_END,
        *letters,
        *(letter + "</w>" for letter in letters),
        "ca",
        "cat</w>",
    ]
    save_json(folder / "vocab.json", {token: i for i, token in enumerate(vocab)})
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n", encoding="utf-8")
    roles = {"bos_token": CLIP_START, "eos_token": CLIP_END, "unk_token": CLIP_END, "pad_token": CLIP_END}
    save_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **roles},
    )


def write_t5_tokenizer(folder: Path) -> None:
    """Writes a unigram tokenizer of 48 ids: letters, digits, some words, a sun and a flower."""
    folder.mkdir(parents=True)
    words = ["▁a", "▁cat", "▁dog", "▁sun", "flower", "...", ","]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(word, -2.0) for word in words]
    pieces += [(letter, -4.0) for letter in [*string.ascii_lowercase, *string.digits, "."]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": pieces[i][0], **flags} for i in range(3)],
        "normalizer": None,
        "pre_tokenizer": metaspace,
        "post_processor": None,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }
    save_json(folder / "tokenizer.json", tokenizer)
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 12, "extra_ids": 0}
    save_json(folder / "tokenizer_config.json", config | {"eos_token": "</s>", "pad_token": "<pad>"})


def write(folder: Path) -> Path:
    """Writes the checkpoint and returns its folder."""
    for component, case in CASES.items():
        (folder / component).mkdir(parents=True)
        save_json(folder / component / "config.json", CONFIGS[component] | case.source)
        save(folder / component / WEIGHTS[component], tensors(component))
    write_clip_tokenizer(folder / "tokenizer")
    write_t5_tokenizer(folder / "tokenizer_2")
    (folder / "scheduler").mkdir()
    save_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    return folder


def link(folder: Path, to: Path) -> Path:
    """Copies a checkpoint as hard links."""
    return Path(shutil.copytree(folder, to, copy_function=os.link))
