"""One table of rules per layout: names in files -> name of a parameter, and what is done on the way.

A rule of a table holds for all parameters whose name fits its target; the first that fits counts. In a name,
`*` stands for one part between dots and `**` for all that is left; what they stand for in the target they
stand for in the sources, in order. So a table says only what differs, and holds for a network of any depth.
Knows nothing of files; sizes come in with the config. Letters of the shapes: see `fluxnb.model`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from fluxnb.errors import CheckpointError
from fluxnb.model.config import VAEConfig

SHOWN = 3  # names that an error message lists before it says how many there are


def same(x: mx.array) -> mx.array:
    """Takes a tensor as it is."""
    return x


def stack(*parts: mx.array) -> mx.array:
    """Puts the rows of several tensors below one another: q, k and v of a fused matrix."""
    return mx.concatenate(parts)


def swap_halves(x: mx.array) -> mx.array:
    """Swaps the two halves of the rows: (scale, shift) of diffusers to (shift, scale)."""
    return mx.concatenate(mx.split(x, 2)[::-1])


def channels_last(x: mx.array) -> mx.array:
    """Turns kernels (out, in, kh, kw) into (out, kh, kw, in); what is no kernel stays."""
    return mx.contiguous(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def pointwise(x: mx.array) -> mx.array:
    """Turns a matrix (out, in) into kernels of a single cell (out, 1, 1, in); a bias stays."""
    return x[:, None, None, :] if x.ndim == 2 else x


@dataclass(frozen=True, slots=True)
class Rule:
    """Where the parameters that fit `target` come from.

    Attributes:
        target: name of a parameter, with `*` and `**`.
        sources: names in the files, arguments of `transform` in this order.
        transform: makes the parameter.
        also: names that stand for `sources` in files of other origin, as many. Where a file has both, they
            have to be equal.
    """

    target: str
    sources: tuple[str, ...]
    transform: Callable[..., mx.array] = same
    also: tuple[str, ...] = ()


Table = tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What one parameter is made of.

    Attributes:
        target: name of the parameter.
        sources: names in the files.
        copies: names of further tensors that have to equal `sources`; empty but for files that say it twice.
        transform: makes the parameter of `sources`.
    """

    target: str
    sources: tuple[str, ...]
    copies: tuple[str, ...]
    transform: Callable[..., mx.array]


def plan(table: Table, targets: Iterable[str], names: Collection[str], origin: str) -> tuple[Part, ...]:
    """Finds for every parameter what it is made of, and uses up every name.

    Args:
        table: rules of the layout.
        targets: names of all the parameters.
        names: names of all the tensors in the files.
        origin: what to call the files in an error.

    Raises:
        CheckpointError: a tensor is missing, or is left over.
    """
    names = set(names)
    parts, missing, used = [], [], set()
    for target in targets:
        rule, stars = _rule(table, target)
        sources = tuple(_fill(source, stars) for source in rule.sources)
        also = tuple(_fill(source, stars) for source in rule.also)
        if also and not names.issuperset(sources) and names.issuperset(also):
            sources, also = also, ()
        copies = also if names.issuperset(also) else ()
        missing += [source for source in sources if source not in names]
        used.update(sources, copies)
        parts.append(Part(target, sources, copies, rule.transform))
    surplus = sorted(names - used)
    if missing or surplus:
        faults = [f"{len(missing)} missing ({listed(missing)})"] if missing else []
        faults += [f"{len(surplus)} without a place in the network ({listed(surplus)})"] if surplus else []
        raise CheckpointError(
            f"{origin}: among {len(names)} tensors, {' and '.join(faults)}; the weights do not belong to "
            "this config.json, or were saved by halves: download both again, or save them with diffusers"
        )
    return tuple(parts)


def shape(part: Part, arrays: Mapping[str, mx.array]) -> tuple[int, ...] | None:
    """Tells the shape that a parameter would have, without reading it; None if it cannot be made."""
    try:
        return part.transform(*(arrays[name] for name in part.sources)).shape
    except ValueError:  # MLX's word for shapes that do not go together
        return None


def listed(names: Collection[str]) -> str:
    """Lists the first names, and says how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more


def _rule(table: Table, target: str) -> tuple[Rule, tuple[str, ...]]:
    """Finds the rule of a parameter, and what the stars of its target stand for."""
    for rule in table:
        if fit := _expression(rule.target).fullmatch(target):
            return rule, fit.groups()
    raise LookupError(f"the table has no rule for {target}")  # our mistake


@cache
def _expression(pattern: str) -> re.Pattern:
    """Writes a name with stars as a regular expression."""
    escaped = re.escape(pattern)
    return re.compile(escaped.replace(r"\*\*", "(.+)").replace(r"\*", "([^.]+)"))


def _fill(pattern: str, stars: tuple[str, ...]) -> str:
    """Puts what the stars stand for into a pattern."""
    left = iter(stars)
    return re.sub(r"\*\*?", lambda _: next(left), pattern)


def _streams() -> Table:
    """Gives the double blocks in diffusers' names, for both streams."""
    rules = []
    for ours, norm, qkv, qk_norm, proj, ff in (
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
            Rule(f"{block}_mlp.0.*", (f"{theirs}.{ff}.net.0.proj.*",)),
            Rule(f"{block}_mlp.2.*", (f"{theirs}.{ff}.net.2.*",)),
        ]
    return tuple(rules)


DIFFUSERS_MMDIT: Table = (
    Rule("img_in.*", ("x_embedder.*",)),
    Rule("txt_in.*", ("context_embedder.*",)),
    Rule("time_in.in_layer.*", ("time_text_embed.timestep_embedder.linear_1.*",)),
    Rule("time_in.out_layer.*", ("time_text_embed.timestep_embedder.linear_2.*",)),
    Rule("guidance_in.in_layer.*", ("time_text_embed.guidance_embedder.linear_1.*",)),
    Rule("guidance_in.out_layer.*", ("time_text_embed.guidance_embedder.linear_2.*",)),
    Rule("vector_in.in_layer.*", ("time_text_embed.text_embedder.linear_1.*",)),
    Rule("vector_in.out_layer.*", ("time_text_embed.text_embedder.linear_2.*",)),
    *_streams(),
    Rule("single_blocks.*.modulation.lin.*", ("single_transformer_blocks.*.norm.linear.*",)),
    Rule(
        "single_blocks.*.linear1.*",
        (
            "single_transformer_blocks.*.attn.to_q.*",
            "single_transformer_blocks.*.attn.to_k.*",
            "single_transformer_blocks.*.attn.to_v.*",
            "single_transformer_blocks.*.proj_mlp.*",
        ),
        stack,
    ),
    Rule("single_blocks.*.linear2.*", ("single_transformer_blocks.*.proj_out.*",)),
    Rule("single_blocks.*.norm.query_norm.scale", ("single_transformer_blocks.*.attn.norm_q.weight",)),
    Rule("single_blocks.*.norm.key_norm.scale", ("single_transformer_blocks.*.attn.norm_k.weight",)),
    Rule("final_layer.adaLN_modulation.1.*", ("norm_out.linear.*",), swap_halves),
    Rule("final_layer.linear.*", ("proj_out.*",)),
)
"""diffusers' FluxTransformer2DModel."""

HUB_CLIP: Table = (Rule("**", ("**",), also=("text_model.**",)),)
"""transformers' CLIPTextModel, whose files begin every name with `text_model.` before version 5."""

HUB_T5: Table = (
    Rule("shared.weight", ("shared.weight",), also=("encoder.embed_tokens.weight",)),
    Rule("**", ("**",)),
)
"""transformers' T5EncoderModel, in whose files the embedding has either name or both."""


def diffusers_vae(config: VAEConfig) -> Table:
    """Gives the table of diffusers' AutoencoderKL, which numbers the decoder's levels from the latents on."""
    rules = []
    last = len(config.channels) - 1
    for side, level, theirs in (
        *(("encoder", f"down.{i}", f"down_blocks.{i}") for i in range(last + 1)),
        *(("decoder", f"up.{i}", f"up_blocks.{last - i}") for i in range(last + 1)),
    ):
        ours, theirs = f"{side}.{level}", f"{side}.{theirs}"
        rules += [
            Rule(f"{ours}.block.*.nin_shortcut.*", (f"{theirs}.resnets.*.conv_shortcut.*",), channels_last),
            Rule(f"{ours}.block.**", (f"{theirs}.resnets.**",), channels_last),
            Rule(f"{ours}.*sample.**", (f"{theirs}.*samplers.0.**",), channels_last),
        ]
    for side in ("encoder", "decoder"):
        ours, theirs = f"{side}.mid", f"{side}.mid_block"
        rules += [
            Rule(f"{ours}.block_1.**", (f"{theirs}.resnets.0.**",), channels_last),
            Rule(f"{ours}.block_2.**", (f"{theirs}.resnets.1.**",), channels_last),
            Rule(f"{ours}.attn_1.norm.*", (f"{theirs}.attentions.0.group_norm.*",)),
            Rule(f"{ours}.attn_1.proj_out.*", (f"{theirs}.attentions.0.to_out.0.*",), pointwise),
            Rule(f"{ours}.attn_1.*.*", (f"{theirs}.attentions.0.to_*.*",), pointwise),
            Rule(f"{side}.norm_out.*", (f"{side}.conv_norm_out.*",)),
            Rule(f"{side}.conv_*.*", (f"{side}.conv_*.*",), channels_last),
        ]
    return tuple(rules)
