"""The layouts of checkpoints, one table of rules each; knows nothing of files or configs.

Our parameters bear the names of black-forest-labs' files, those of the text encoders transformers' names, so
that the tables of these say little. Letters of the shapes: see `fluxnb.model`.
"""

import re
from collections.abc import Iterable

from fluxnb.checkpoints.kinds import Kind
from fluxnb.checkpoints.layouts import (
    Rule,
    Table,
    abreast,
    channels_last,
    first,
    flat,
    pointwise,
    same,
    stack,
    stack_keyless,
    swap_halves,
)


def table(kind: Kind, names: Iterable[str]) -> Table:
    """Gives the rules for tensors of a kind.

    Args:
        kind: component and layout.
        names: of the tensors, without the prefix of the kind: an autoencoder's depth is in them, and whether
            a file of DiffusionKit has the biases of its keys.
    """
    match kind.component, kind.layout:
        case "transformer", "diffusionkit":
            return diffusionkit_mmdit(names)
        case "vae", "diffusers":
            return diffusers_vae(levels(names))
        case "vae", "mflux":
            return mflux_vae(levels(names))
    return TABLES[kind.component, kind.layout]


def lacks_key_biases(names: Iterable[str]) -> bool:
    """Tells whether DiffusionKit saved a transformer without any bias of a key, as it did at first."""
    return not any(name.endswith("attn.k_proj.bias") for name in names)


def levels(names: Iterable[str]) -> int:
    """Counts the levels of an autoencoder in diffusers' names."""
    found = (re.match(r"(?:en|de)coder\.(?:down|up)_blocks\.(\d+)\.", name) for name in names)
    return 1 + max((int(fit[1]) for fit in found if fit), default=0)


def _mmdit(feed: tuple[str, str]) -> Table:
    """Gives the transformer in diffusers' names; `feed`: what the two layers of an MLP are called."""
    rules = [
        Rule("img_in.*", ("x_embedder.*",)),
        Rule("txt_in.*", ("context_embedder.*",)),
        Rule("time_in.in_layer.*", ("time_text_embed.timestep_embedder.linear_1.*",)),
        Rule("time_in.out_layer.*", ("time_text_embed.timestep_embedder.linear_2.*",)),
        Rule("guidance_in.in_layer.*", ("time_text_embed.guidance_embedder.linear_1.*",)),
        Rule("guidance_in.out_layer.*", ("time_text_embed.guidance_embedder.linear_2.*",)),
        Rule("vector_in.in_layer.*", ("time_text_embed.text_embedder.linear_1.*",)),
        Rule("vector_in.out_layer.*", ("time_text_embed.text_embedder.linear_2.*",)),
    ]
    for ours, norm, qkv, qk_norm, proj, mlp in (
        ("img", "norm1", ("to_q", "to_k", "to_v"), "norm_{}", "to_out.0", "ff"),
        (
            "txt",
            "norm1_context",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            "norm_added_{}",
            "to_add_out",
            "ff_context",
        ),
    ):
        block, theirs = f"double_blocks.*.{ours}", "transformer_blocks.*"
        rules += [
            Rule(f"{block}_mod.lin.*", (f"{theirs}.{norm}.linear.*",)),
            Rule(f"{block}_attn.qkv.*", tuple(f"{theirs}.attn.{part}.*" for part in qkv), stack),
            Rule(f"{block}_attn.norm.query_norm.scale", (f"{theirs}.attn.{qk_norm.format('q')}.weight",)),
            Rule(f"{block}_attn.norm.key_norm.scale", (f"{theirs}.attn.{qk_norm.format('k')}.weight",)),
            Rule(f"{block}_attn.proj.*", (f"{theirs}.attn.{proj}.*",)),
            Rule(f"{block}_mlp.0.*", (f"{theirs}.{mlp}.{feed[0]}.*",)),
            Rule(f"{block}_mlp.2.*", (f"{theirs}.{mlp}.{feed[1]}.*",)),
        ]
    block, theirs = "single_blocks.*", "single_transformer_blocks.*"
    qkv_mlp = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    rules += [
        Rule(f"{block}.modulation.lin.*", (f"{theirs}.norm.linear.*",)),
        Rule(f"{block}.linear1.*", tuple(f"{theirs}.{part}.*" for part in qkv_mlp), stack),
        Rule(f"{block}.linear2.*", (f"{theirs}.proj_out.*",)),
        Rule(f"{block}.norm.query_norm.scale", (f"{theirs}.attn.norm_q.weight",)),
        Rule(f"{block}.norm.key_norm.scale", (f"{theirs}.attn.norm_k.weight",)),
        Rule("final_layer.adaLN_modulation.1.*", ("norm_out.linear.*",), swap_halves),
        Rule("final_layer.linear.*", ("proj_out.*",)),
    ]
    return tuple(rules)


def diffusionkit_mmdit(names: Iterable[str]) -> Table:
    """Gives the table of the transformer as DiffusionKit's own modules name it, in its 4-bit file.

    There the matrices are apart that black-forest-labs fused. DiffusionKit's layers of the keys have no bias,
    which FLUX.1's have, so that a file may lack them all: zeros then. The bias of `linear2` stands in
    `o_proj`; `mlp.fc2` may have one, which DiffusionKit multiplies by zero before it draws.
    """
    names = set(names)
    keyless = lacks_key_biases(names)
    rules = [
        Rule("img_in.weight", ("x_embedder.proj.weight",), flat),
        Rule("img_in.bias", ("x_embedder.proj.bias",)),
        Rule("txt_in.*", ("context_embedder.*",)),
    ]
    for ours, theirs in (("time", "t_embedder"), ("vector", "y_embedder"), ("guidance", "guidance_in")):
        rules += [
            Rule(f"{ours}_in.in_layer.*", (f"{theirs}.mlp.layers.0.*",)),
            Rule(f"{ours}_in.out_layer.*", (f"{theirs}.mlp.layers.2.*",)),
        ]

    def fused(target: str, block: str, parts: tuple[str, ...]) -> list[Rule]:
        q, _, *others = biases = tuple(f"{block}.{part}.bias" for part in parts)
        bias = Rule(f"{target}.bias", (q, *others), stack_keyless) if keyless else None
        return [
            bias or Rule(f"{target}.bias", biases, stack),
            Rule(f"{target}.*", tuple(f"{block}.{part}.*" for part in parts), stack),
        ]

    qkv = ("attn.q_proj", "attn.k_proj", "attn.v_proj")
    for ours, stream in (("img", "image"), ("txt", "text")):
        block = f"double_blocks.*.{ours}"
        theirs = f"multimodal_transformer_blocks.*.{stream}_transformer_block"
        rules += [
            Rule(f"{block}_mod.lin.*", (f"{theirs}.adaLN_modulation.layers.1.*",)),
            *fused(f"{block}_attn.qkv", theirs, qkv),
            Rule(f"{block}_attn.norm.query_norm.scale", (f"{theirs}.qk_norm.q_norm.weight",)),
            Rule(f"{block}_attn.norm.key_norm.scale", (f"{theirs}.qk_norm.k_norm.weight",)),
            Rule(f"{block}_attn.proj.*", (f"{theirs}.attn.o_proj.*",)),
            Rule(f"{block}_mlp.0.*", (f"{theirs}.mlp.fc1.*",)),
            Rule(f"{block}_mlp.2.*", (f"{theirs}.mlp.fc2.*",)),
        ]
    block, theirs = "single_blocks.*", "unified_transformer_blocks.*.transformer_block"
    bias = (f"{theirs}.attn.o_proj.bias", f"{theirs}.mlp.fc2.bias")
    is_there = any(re.fullmatch(r"unified_.*\.mlp\.fc2\.bias", name) for name in names)
    return (
        *rules,
        Rule(f"{block}.modulation.lin.*", (f"{theirs}.adaLN_modulation.layers.1.*",)),
        *fused(f"{block}.linear1", theirs, (*qkv, "mlp.fc1")),
        Rule(f"{block}.linear2.bias", bias if is_there else bias[:1], first),
        Rule(f"{block}.linear2.*", (f"{theirs}.attn.o_proj.*", f"{theirs}.mlp.fc2.*"), abreast),
        Rule(f"{block}.norm.query_norm.scale", (f"{theirs}.qk_norm.q_norm.weight",)),
        Rule(f"{block}.norm.key_norm.scale", (f"{theirs}.qk_norm.k_norm.weight",)),
        Rule("final_layer.adaLN_modulation.1.*", ("final_layer.adaLN_modulation.layers.1.*",)),
        Rule("final_layer.linear.*", ("final_layer.linear.*",)),
    )


def diffusers_vae(levels: int) -> Table:
    """Gives the table of diffusers' AutoencoderKL, which numbers the decoder's levels from the latents on."""
    return _vae(levels, channels_last, {})


def mflux_vae(levels: int) -> Table:
    """Gives the table of mflux's autoencoder: diffusers' names but at the ends, channels last in kernels."""
    return _vae(levels, same, {"conv_in": ".conv2d", "conv_out": ".conv2d", "norm_out": ".norm"})


def _vae(levels: int, kernel, inside: dict[str, str]) -> Table:
    """Gives the autoencoder in diffusers' names; `inside`: what stands below the layers at either end."""
    rules = []
    for side, level, theirs in (
        *(("encoder", f"down.{i}", f"down_blocks.{i}") for i in range(levels)),
        *(("decoder", f"up.{i}", f"up_blocks.{levels - 1 - i}") for i in range(levels)),
    ):
        ours, theirs = f"{side}.{level}", f"{side}.{theirs}"
        rules += [
            Rule(f"{ours}.block.*.nin_shortcut.*", (f"{theirs}.resnets.*.conv_shortcut.*",), kernel),
            Rule(f"{ours}.block.**", (f"{theirs}.resnets.**",), kernel),
            Rule(f"{ours}.*sample.**", (f"{theirs}.*samplers.0.**",), kernel),
        ]
    for side in ("encoder", "decoder"):
        ours, theirs = f"{side}.mid", f"{side}.mid_block"
        rules += [
            Rule(f"{ours}.block_1.**", (f"{theirs}.resnets.0.**",), kernel),
            Rule(f"{ours}.block_2.**", (f"{theirs}.resnets.1.**",), kernel),
            Rule(f"{ours}.attn_1.norm.*", (f"{theirs}.attentions.0.group_norm.*",)),
            Rule(f"{ours}.attn_1.proj_out.*", (f"{theirs}.attentions.0.to_out.0.*",), pointwise),
            Rule(f"{ours}.attn_1.*.*", (f"{theirs}.attentions.0.to_*.*",), pointwise),
            Rule(f"{side}.norm_out.*", (f"{side}.conv_norm_out{inside.get('norm_out', '')}.*",)),
            *(
                Rule(f"{side}.{end}.*", (f"{side}.{end}{inside.get(end, '')}.*",), kernel)
                for end in ("conv_in", "conv_out")
            ),
        ]
    return tuple(rules)


AS_NAMED: Table = (Rule("**", ("**",)),)
"""Our own names: black-forest-labs' transformer, and everything that fluxnb saves."""

DIFFUSERS_MMDIT = _mmdit(("net.0.proj", "net.2"))
"""diffusers' FluxTransformer2DModel."""

MFLUX_MMDIT = _mmdit(("linear1", "linear2"))
"""mflux's transformer."""

MLX_EXAMPLES_MMDIT: Table = (
    Rule("double_blocks.*.*_mlp.**", ("double_blocks.*.*_mlp.layers.**",)),
    Rule("final_layer.adaLN_modulation.1.*", ("final_layer.adaLN_modulation.layers.1.*",)),
    Rule("double_blocks.*.*_attn.norm.*.scale", ("double_blocks.*.*_attn.norm.*.weight",)),
    Rule("single_blocks.*.norm.*.scale", ("single_blocks.*.norm.*.weight",)),
    *AS_NAMED,
)
"""mlx-examples' transformer."""

BFL_VAE: Table = (Rule("**", ("**",), channels_last),)
"""black-forest-labs' ae.safetensors: our names, kernels with channels before the cells."""

MLX_EXAMPLES_VAE: Table = (Rule("**", ("**",), pointwise),)
"""mlx-examples' autoencoder: our names and kernels, but matrices for those of a single cell."""

HUB_CLIP: Table = (Rule("**", ("**",), also=("text_model.**",)),)
"""transformers' CLIPTextModel, whose files begin every name with `text_model.` before version 5."""

HUB_T5: Table = (
    Rule("shared.weight", ("shared.weight",), also=("encoder.embed_tokens.weight",)),
    Rule("**", ("**",)),
)
"""transformers' T5EncoderModel, in whose files the embedding has either name or both."""

MFLUX_T5: Table = (
    Rule("encoder.block.*.layer.0.**", ("t5_blocks.*.attention.**",)),
    Rule("encoder.block.*.layer.1.**", ("t5_blocks.*.ff.**",)),
    Rule("encoder.final_layer_norm.weight", ("final_layer_norm.weight",)),
    Rule("**", ("**",)),
)
"""mflux's T5, without the copies of the table of biases that it has in each block but the first."""

TABLES: dict[tuple[str, str], Table] = {
    ("transformer", "diffusers"): DIFFUSERS_MMDIT,
    ("transformer", "mflux"): MFLUX_MMDIT,
    ("transformer", "bfl"): AS_NAMED,
    ("transformer", "mlx-examples"): MLX_EXAMPLES_MMDIT,
    ("vae", "bfl"): BFL_VAE,
    ("vae", "native"): AS_NAMED,
    ("vae", "mlx-examples"): MLX_EXAMPLES_VAE,
    ("text_encoder", "transformers"): HUB_CLIP,
    ("text_encoder_2", "transformers"): HUB_T5,
    ("text_encoder_2", "mflux"): MFLUX_T5,
}
"""(component, layout) -> its rules, where they hang on nothing else."""
