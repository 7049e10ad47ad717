"""One small FLUX.1 in every layout that people have, written by code that knows nothing of our tables.

The networks are small, but of a kind that shapes of tensors tell without a config.json: heads of CLIP are 64
wide, norms have 32 groups, an end token ends the vocabulary. Rows are multiples of 64, so that every matrix
can be quantised. Source of the names: the reference code of each layout, see full_size.py.
"""

import json
import re
from functools import cache
from pathlib import Path

import mlx.core as mx
import tiny_checkpoint as tiny
from mlx.utils import tree_flatten

from fluxnb.model.clip import CLIPText
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, VAEConfig
from fluxnb.model.layers import random_weights
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.vae import VAE

SIZES = {
    "transformer": MMDiTConfig(
        txt_dim=64, vec_dim=64, heads=4, head_dim=32, depth=2, depth_single=3, axes_dim=(4, 14, 14)
    ),
    "vae": VAEConfig(channels=(32, 32, 64, 64), layers=1),
    "text_encoder": CLIPConfig(
        vocab_size=80, width=64, heads=1, mlp_width=128, depth=2, max_length=16, eos_token=79
    ),
    "text_encoder_2": T5Config(vocab_size=48, width=64, heads=64, head_dim=1, mlp_width=128, depth=3),
}
KINDS = {"transformer": MMDiT, "vae": VAE, "text_encoder": CLIPText, "text_encoder_2": T5Encoder}
CONFIGS = {
    "transformer": {
        "in_channels": 64,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 64,
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "num_layers": 2,
        "num_single_layers": 3,
        "axes_dims_rope": [4, 14, 14],
        "guidance_embeds": False,
    },
    "vae": {
        "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "text_encoder": {
        "vocab_size": 80,
        "hidden_size": 64,
        "num_attention_heads": 1,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "max_position_embeddings": 16,
        "eos_token_id": 79,
    },
    "text_encoder_2": {
        "vocab_size": 48,
        "d_model": 64,
        "num_heads": 64,
        "d_kv": 1,
        "d_ff": 128,
        "num_layers": 3,
    },
}
WIDTH, MLP_WIDTH = 128, 512  # of the transformer

Arrays = dict[str, mx.array]


@cache
def _original(component: str) -> Arrays:
    network = random_weights(KINDS[component](SIZES[component]), seed=len(component))
    return dict(tree_flatten(network.parameters()))


def original(component: str) -> Arrays:
    """Gives the weights under our names: black-forest-labs' and transformers', kernels (out, kh, kw, in)."""
    return dict(_original(component))


def bfl_vae(ours: Arrays) -> Arrays:
    """Gives ae.safetensors: kernels as PyTorch has them."""
    return {name: array.transpose(0, 3, 1, 2) if array.ndim == 4 else array for name, array in ours.items()}


def diffusers_mmdit(ours: Arrays) -> Arrays:
    """Takes the fused matrices apart, and swaps scale and shift of the last norm."""
    made = {}
    for name, array in ours.items():
        leaf = name.rpartition(".")[2]
        if fit := re.match(r"double_blocks\.(\d+)\.(img|txt)_(.*)", name):
            number, stream, rest = fit.groups()
            block, image = f"transformer_blocks.{number}", stream == "img"
            if rest.startswith("attn.qkv"):
                parts = ("to_q", "to_k", "to_v") if image else ("add_q_proj", "add_k_proj", "add_v_proj")
                for part, rows in zip(parts, mx.split(array, 3), strict=True):
                    made[f"{block}.attn.{part}.{leaf}"] = rows
                continue
            made[
                {
                    "mod.lin": f"{block}.{'norm1' if image else 'norm1_context'}.linear.{leaf}",
                    "attn.norm.query_norm": f"{block}.attn.{'norm_q' if image else 'norm_added_q'}.weight",
                    "attn.norm.key_norm": f"{block}.attn.{'norm_k' if image else 'norm_added_k'}.weight",
                    "attn.proj": f"{block}.attn.{'to_out.0' if image else 'to_add_out'}.{leaf}",
                    "mlp.0": f"{block}.{'ff' if image else 'ff_context'}.net.0.proj.{leaf}",
                    "mlp.2": f"{block}.{'ff' if image else 'ff_context'}.net.2.{leaf}",
                }[rest.rpartition(".")[0]]
            ] = array
        elif fit := re.match(r"single_blocks\.(\d+)\.(.*)\.", name):
            block = f"single_transformer_blocks.{fit[1]}"
            if fit[2] == "linear1":
                ends = [WIDTH, 2 * WIDTH, 3 * WIDTH]
                parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
                for part, rows in zip(parts, mx.split(array, ends), strict=True):
                    made[f"{block}.{part}.{leaf}"] = rows
                continue
            made[
                {
                    "linear2": f"{block}.proj_out.{leaf}",
                    "modulation.lin": f"{block}.norm.linear.{leaf}",
                    "norm.query_norm": f"{block}.attn.norm_q.weight",
                    "norm.key_norm": f"{block}.attn.norm_k.weight",
                }[fit[2]]
            ] = array
        elif name.startswith("final_layer.adaLN"):
            shift, scale = mx.split(array, 2)
            made[f"norm_out.linear.{leaf}"] = mx.concatenate([scale, shift])
        else:
            new = name.replace("final_layer.linear", "proj_out")
            new = new.replace("img_in", "x_embedder").replace("txt_in", "context_embedder")
            new = new.replace("in_layer", "linear_1").replace("out_layer", "linear_2")
            for ours_, theirs in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
                new = new.replace(f"{ours_}_in", f"time_text_embed.{theirs}_embedder")
            made[new] = array
    return made


def diffusers_vae(ours: Arrays) -> Arrays:
    """Numbers the decoder's levels from the latents on, and makes matrices of the attention's kernels."""
    made = {}
    last = len(SIZES["vae"].channels) - 1
    for name, array in bfl_vae(ours).items():
        new = name.replace("norm_out", "conv_norm_out").replace("nin_shortcut", "conv_shortcut")
        new = re.sub(r"\.down\.(\d)\.block", r".down_blocks.\1.resnets", new)
        new = re.sub(r"\.down\.(\d)\.downsample", r".down_blocks.\1.downsamplers.0", new)
        new = re.sub(r"\.up\.(\d)\.block", lambda fit: f".up_blocks.{last - int(fit[1])}.resnets", new)
        new = re.sub(
            r"\.up\.(\d)\.upsample", lambda fit: f".up_blocks.{last - int(fit[1])}.upsamplers.0", new
        )
        new = new.replace("mid.block_1", "mid_block.resnets.0").replace("mid.block_2", "mid_block.resnets.1")
        if ".attn_1." in new:
            array = array[:, :, 0, 0] if array.ndim == 4 else array
            new = new.replace("mid.attn_1.norm", "mid_block.attentions.0.group_norm")
            new = new.replace("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0")
            new = re.sub(r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1.", new)
        made[new] = array
    return made


def hub_clip(ours: Arrays) -> Arrays:
    """Gives the names that the hub's files have."""
    return {f"text_model.{name}": array for name, array in ours.items()}


def mflux_mmdit(ours: Arrays) -> Arrays:
    """Renames the layers of the MLPs."""
    return {
        name.replace(".net.0.proj.", ".linear1.").replace(".net.2.", ".linear2."): array
        for name, array in diffusers_mmdit(ours).items()
    }


def mflux_vae(ours: Arrays) -> Arrays:
    """Puts the layers at either end one deeper, and channels last."""
    made = {}
    for name, array in diffusers_vae(ours).items():
        new = re.sub(r"(coder\.conv_(?:in|out))\.", r"\1.conv2d.", name)
        new = new.replace("conv_norm_out.", "conv_norm_out.norm.")
        made[new] = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    return made


def mflux_t5(ours: Arrays) -> Arrays:
    """Renames the blocks, and gives each the table of biases."""
    made = {}
    for name, array in ours.items():
        new = name.replace("encoder.final_layer_norm", "final_layer_norm")
        new = re.sub(r"encoder\.block\.(\d+)\.layer\.0\.", r"t5_blocks.\1.attention.", new)
        made[re.sub(r"encoder\.block\.(\d+)\.layer\.1\.", r"t5_blocks.\1.ff.", new)] = array
        if "relative" in name:
            for i in range(1, SIZES["text_encoder_2"].depth):
                made[f"t5_blocks.{i}.attention.SelfAttention.relative_attention_bias.weight"] = array
    return made


def mlx_examples_mmdit(ours: Arrays) -> Arrays:
    """Renames norms and layers of MLPs."""
    return {
        re.sub(r"(_mlp|adaLN_modulation)\.", r"\1.layers.", name).replace(".scale", ".weight"): array
        for name, array in ours.items()
    }


def mlx_examples_vae(ours: Arrays) -> Arrays:
    """Makes matrices of the kernels of a single cell."""
    return {
        name: array[:, 0, 0] if array.ndim == 4 and array.shape[1] == 1 else array
        for name, array in ours.items()
    }


def diffusionkit_mmdit(ours: Arrays, has_key_biases: bool = True) -> Arrays:
    """Takes apart what is fused, in rows and in columns, and renames the rest."""
    made = {}
    for name, array in ours.items():
        leaf = name.rpartition(".")[2]
        new = name.replace("double_blocks", "multimodal_transformer_blocks")
        new = new.replace("img_", "image_transformer_block.").replace("txt_", "text_transformer_block.")
        new = re.sub(r"single_blocks\.(\d+)", r"unified_transformer_blocks.\1.transformer_block", new)
        stem = new.rpartition(".")[0]
        if stem.endswith("attn.qkv"):
            for part, rows in zip("qkv", mx.split(array, 3), strict=True):
                made[f"{stem.removesuffix('qkv')}{part}_proj.{leaf}"] = rows
        elif stem.endswith("linear1"):
            parts = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc1")
            ends = [WIDTH, 2 * WIDTH, 3 * WIDTH]
            for part, rows in zip(parts, mx.split(array, ends), strict=True):
                made[f"{stem.removesuffix('linear1')}{part}.{leaf}"] = rows
        elif stem.endswith("linear2"):
            block = stem.removesuffix("linear2")
            mixed, mlp = (array, array) if leaf == "bias" else mx.split(array, [WIDTH], axis=1)
            made[f"{block}attn.o_proj.{leaf}"], made[f"{block}mlp.fc2.{leaf}"] = mixed, mlp
        elif name in ("img_in.weight", "img_in.bias"):
            made[f"x_embedder.proj.{leaf}"] = array[:, None, None] if leaf == "weight" else array
        else:
            new = name if name.endswith("_in") else new
            for ours_, theirs in (
                ("text_transformer_block.in.", "context_embedder."),
                ("time_in.", "t_embedder."),
                ("vector_in.", "y_embedder."),
                ("in_layer.", "mlp.layers.0."),
                ("out_layer.", "mlp.layers.2."),
                ("adaLN_modulation.1", "adaLN_modulation.layers.1"),
                ("block.mod.lin", "block.adaLN_modulation.layers.1"),
                ("block.modulation.lin", "block.adaLN_modulation.layers.1"),
                ("attn.norm.query_norm.scale", "qk_norm.q_norm.weight"),
                ("attn.norm.key_norm.scale", "qk_norm.k_norm.weight"),
                ("norm.query_norm.scale", "qk_norm.q_norm.weight"),
                ("norm.key_norm.scale", "qk_norm.k_norm.weight"),
                ("attn.proj.", "attn.o_proj."),
                ("mlp.0.", "mlp.fc1."),
                ("mlp.2.", "mlp.fc2."),
            ):
                new = new.replace(ours_, theirs)
            made[new] = array
    return {name: array for name, array in made.items() if has_key_biases or not name.endswith("k_proj.bias")}


def quantised(arrays: Arrays, bits: int) -> Arrays:
    """Quantises every matrix, as `nn.quantize` does, embeddings too."""
    made = {}
    for name, array in arrays.items():
        if name.endswith(".weight") and array.ndim == 2:
            stem = name.removesuffix("weight")
            for part, value in zip(("weight", "scales", "biases"), mx.quantize(array, 64, bits), strict=True):
                made[stem + part] = value
        else:
            made[name] = array
    return made


def rounded(arrays: Arrays, bits: int) -> Arrays:
    """Gives the floats that quantising leaves of every matrix."""
    return {
        name: mx.dequantize(*mx.quantize(array, 64, bits), 64, bits)
        if name.endswith(".weight") and array.ndim == 2
        else array
        for name, array in arrays.items()
    }


def write_tokenizers(folder: Path) -> None:
    """Writes tokenizers that fit, CLIP's end token the last one."""
    tiny.write_clip_tokenizer(folder / "tokenizer")
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    tokens = [token for token in vocab if token != tiny.CLIP_END] + [tiny.CLIP_END]
    tiny.save_json(folder / "tokenizer" / "vocab.json", {token: i for i, token in enumerate(tokens)})
    tiny.write_t5_tokenizer(folder / "tokenizer_2")


def write_diffusers(folder: Path, weights: dict[str, Arrays] | None = None) -> Path:
    """Writes a folder of diffusers; `weights`: those of each component under our names."""
    weights = weights or {component: original(component) for component in SIZES}
    theirs = {"transformer": diffusers_mmdit, "vae": diffusers_vae, "text_encoder": hub_clip}
    for component, arrays in weights.items():
        (folder / component).mkdir(parents=True)
        tiny.save_json(folder / component / "config.json", tiny.CONFIGS[component] | CONFIGS[component])
        tiny.save(folder / component / tiny.WEIGHTS[component], theirs.get(component, dict)(arrays))
    write_tokenizers(folder)
    (folder / "scheduler").mkdir()
    tiny.save_json(folder / "scheduler" / "scheduler_config.json", tiny.SCHEDULER)
    return folder


def write_files(folder: Path, transformer: Arrays | None = None, prefix: str = "") -> Path:
    """Writes the files that black-forest-labs and ComfyUI have; returns the transformer's."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "flux1-schnell.safetensors"
    arrays = original("transformer") if transformer is None else transformer
    tiny.save(file, {prefix + name: array for name, array in arrays.items()})
    tiny.save(folder / "ae.safetensors", bfl_vae(original("vae")))
    tiny.save(folder / "clip_l.safetensors", hub_clip(original("text_encoder")))
    tiny.save(folder / "t5xxl_fp16.safetensors", original("text_encoder_2"))
    write_tokenizers(folder)
    return file


def write_comfyui(folder: Path) -> Path:
    """Writes ComfyUI's folders of models; returns the transformer's file."""
    file = write_files(folder / "diffusion_models", prefix="model.diffusion_model.")
    for name, other in (("ae", "vae"), ("clip_l", "text_encoders"), ("t5xxl_fp16", "text_encoders")):
        (folder / other).mkdir(exist_ok=True)
        (file.parent / f"{name}.safetensors").rename(folder / other / f"{name}.safetensors")
    return file


def write_checkpoint(folder: Path) -> Path:
    """Writes ComfyUI's one file of everything, tensors of no use to FLUX.1 among it."""
    folder.mkdir(parents=True)
    parts = {
        "model.diffusion_model.": original("transformer"),
        "vae.": bfl_vae(original("vae")),
        "text_encoders.clip_l.transformer.": hub_clip(original("text_encoder"))
        | {"text_projection.weight": mx.eye(64)},
        "text_encoders.t5xxl.transformer.": original("text_encoder_2"),
        "text_encoders.": {"clip_l.logit_scale": mx.ones(1), "t5xxl.logit_scale": mx.ones(1)},
    }
    arrays = {prefix + name: array for prefix, part in parts.items() for name, array in part.items()}
    tiny.save(folder / "flux1-schnell-all.safetensors", arrays)
    write_tokenizers(folder)
    return folder


def write_diffusionkit(folder: Path, bits: int | None = None, has_key_biases: bool = True) -> Path:
    """Writes DiffusionKit's file, and the repository of its text encoders, into one folder."""
    own = diffusionkit_mmdit(original("transformer"), has_key_biases)
    file = write_files(folder, quantised(own, bits) if bits else own)
    file.rename(folder / "flux-schnell-4bit-quantized.safetensors")
    for name, place in (("clip_l", "clip_l/model.fp16"), ("t5xxl_fp16", "t5/t5xxl")):
        (folder / place).parent.mkdir()
        (folder / f"{name}.safetensors").rename(folder / f"{place}.safetensors")
    tiny.save_json(folder / "clip_l" / "config.json", tiny.CONFIGS["text_encoder"] | CONFIGS["text_encoder"])
    return folder


def write_mflux(folder: Path, bits: int | None = None, has_index: bool = True) -> Path:
    """Writes what `mflux-save` does, in two shards; older versions wrote no index."""
    theirs = {
        "transformer": mflux_mmdit,
        "vae": mflux_vae,
        "text_encoder": hub_clip,
        "text_encoder_2": mflux_t5,
    }
    for component, named in theirs.items():
        (folder / component).mkdir(parents=True)
        arrays = named(original(component))
        arrays = quantised(arrays, bits) if bits else arrays
        placed = {name: f"{i * 2 // len(arrays)}.safetensors" for i, name in enumerate(arrays)}
        for file in set(placed.values()):
            shard = {name: array for name, array in arrays.items() if placed[name] == file}
            tiny.save(folder / component / file, shard)
        if has_index:
            index = {"metadata": {"quantization_level": str(bits)}, "weight_map": placed}
            tiny.save_json(folder / component / "model.safetensors.index.json", index)
    write_tokenizers(folder)
    return folder


def write_mlx_examples(folder: Path) -> Path:
    """Writes the networks of mlx-examples' flux as files."""
    file = write_files(folder, mlx_examples_mmdit(original("transformer")))
    tiny.save(folder / "ae.safetensors", mlx_examples_vae(original("vae")))
    return file
