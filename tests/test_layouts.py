"""Tables of rules: at full size, all names and shapes of the public layouts go in and come out exactly."""

from pathlib import Path

import full_size
import mlx.core as mx
import pytest
from full_size import parameters, released, unguided

from fluxnb.checkpoints import components, layouts, quantised, tables
from fluxnb.checkpoints.files import Tensors
from fluxnb.checkpoints.layouts import Rule
from fluxnb.errors import CheckpointError, FluxnbWarning
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import (
    CLIPConfig,
    MMDiTConfig,
    T5Config,
    VAEConfig,
    clip_l,
    dev,
    flux_vae,
    schnell,
    t5_xxl,
)
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.vae import VAE

FILE = Path("model.safetensors")
NETWORKS = {MMDiTConfig: MMDiT, VAEConfig: VAE, CLIPConfig: CLIPText, T5Config: T5Encoder}


def prefixed(prefix, tensors):
    return {prefix + name: shape for name, shape in tensors.items()}


FULL_SIZE = {
    **{
        f"{layout} dev": ("transformer", dev(), released(f"{layout}-dev"))
        for layout in ("bfl", "diffusers", "mflux", "mlx-examples")
    },
    **{
        f"{layout} schnell": ("transformer", schnell(), unguided(released(f"{layout}-dev")))
        for layout in ("bfl", "diffusers", "mflux", "mlx-examples")
    },
    "ComfyUI dev": ("transformer", dev(), prefixed("model.diffusion_model.", released("bfl-dev"))),
    "mflux schnell, 4 bits": ("transformer", schnell(), released("mflux-schnell-q4")),
    "DiffusionKit, 4 bits": ("transformer", schnell(), full_size.diffusionkit(has_key_biases=True)),
    **{
        f"{file}": ("vae", flux_vae(), released(file))
        for file in ("bfl-ae", "diffusers-vae", "mflux-vae", "mflux-vae-q4", "mlx-examples-ae")
    },
    "clip": ("text_encoder", clip_l(), released("hub-clip")),
    "clip of transformers 5": (
        "text_encoder",
        clip_l(),
        {name.removeprefix("text_model."): shape for name, shape in released("hub-clip").items()},
    ),
    "mflux clip, 4 bits": ("text_encoder", clip_l(), released("mflux-clip-q4")),
    "t5": ("text_encoder_2", t5_xxl(), released("hub-t5xxl")),
    "t5 of transformers 5": (
        "text_encoder_2",
        t5_xxl(),
        released("hub-t5xxl") | {"encoder.embed_tokens.weight": (32128, 4096)},
    ),
    "mflux t5": ("text_encoder_2", t5_xxl(), released("mflux-t5")),
    "mflux t5, 4 bits": ("text_encoder_2", t5_xxl(), released("mflux-t5-q4")),
}


def identified(name, held):
    arrays = full_size.arrays(held)
    return components.identify(name, Tensors(arrays, dict.fromkeys(arrays, FILE), FILE))


def check_exact(component, held, copies=0):
    """Every tensor is used once, but for copies left out before, and each parameter gets its shape."""
    shapes = parameters(NETWORKS[type(component.config)](component.config))
    assert len(component.tensors.arrays) == len(held) - copies
    sources = quantised.gather(component.tensors)
    parts = layouts.plan(component.table, shapes, sources, "the file")
    used = [name for part in parts for name in (*part.sources, *part.copies)]
    assert sorted(used) == sorted(sources)
    dense = {name: quantised.dense(source) for name, source in sources.items()}  # never evaluated
    assert {part.target: layouts.shape(part, dense) for part in parts} == shapes


@pytest.mark.parametrize("file", FULL_SIZE)
def test_every_released_tensor_is_used_once_and_fills_the_network(file):
    name, config, held = FULL_SIZE[file]
    component = identified(name, held)
    assert component.config == config
    copies = {"mflux t5": 23, "mflux t5, 4 bits": 3 * 23}
    check_exact(component, held, copies.get(file, 0))


def test_diffusionkits_file_may_lack_the_biases_of_all_keys():
    held = full_size.diffusionkit(has_key_biases=False)
    with pytest.warns(FluxnbWarning, match="lacks the bias of every key"):
        component = identified("transformer", held)
    check_exact(component, held)


@pytest.mark.parametrize(("width", "what"), [(384, "FLUX.1-Fill"), (128, "FLUX.1-Depth or -Canny")])
def test_flux_tools_are_called_what_they_are(width, what):
    held = released("bfl-dev") | {"img_in.weight": (3072, width)}
    with pytest.raises(CheckpointError, match=f"model.safetensors is {what}, .* have {width} numbers"):
        identified("transformer", held)


def test_no_rule_of_the_transformer_is_in_vain():
    held = released("diffusers-dev")
    for rule in tables.DIFFUSERS_MMDIT:
        others = tuple(other for other in tables.DIFFUSERS_MMDIT if other is not rule)
        with pytest.raises(LookupError, match="has no rule for"):
            layouts.plan(others, parameters(MMDiT(dev())), held, "the file")


def test_rows_of_a_fused_matrix_are_q_then_k_then_v():
    q, k, v = (mx.full((2, 3), value) for value in (1.0, 2.0, 3.0))
    assert layouts.stack(q, k, v)[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    block = "single_transformer_blocks.7"
    names = [f"{block}.{part}.bias" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    (part,) = layouts.plan(tables.DIFFUSERS_MMDIT, ["single_blocks.7.linear1.bias"], names, "")
    assert part.sources == tuple(names)


def test_scale_and_shift_of_the_last_norm_change_places():
    assert layouts.swap_halves(mx.array([1.0, 2.0, 3.0, 4.0])).tolist() == [3, 4, 1, 2]
    assert layouts.swap_halves(mx.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[3, 4], [1, 2]]


def test_kernels_get_their_channels_last():
    kernel = mx.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    assert layouts.channels_last(kernel)[1, 4, 6, 2].item() == kernel[1, 2, 4, 6].item()
    assert layouts.pointwise(mx.array([[1, 2], [3, 4]])).tolist() == [[[[1, 2]]], [[[3, 4]]]]


@pytest.mark.parametrize("transform", [layouts.channels_last, layouts.pointwise])
def test_a_bias_of_a_convolution_stays(transform):
    assert transform(mx.array([1, 2])).tolist() == [1, 2]


def test_the_decoder_of_diffusers_counts_its_levels_from_the_latents():
    table = tables.diffusers_vae(4)
    (part,) = layouts.plan(
        table, ["decoder.up.0.block.2.conv1.bias"], ["decoder.up_blocks.3.resnets.2.conv1.bias"], ""
    )
    assert part.sources == ("decoder.up_blocks.3.resnets.2.conv1.bias",)


TABLE = (Rule("a.*.w", ("x.*.w", "y.*.w"), layouts.stack), Rule("**", ("**",), also=("old.**",)))


def test_a_star_stands_for_one_part_and_two_for_the_rest():
    parts = layouts.plan(TABLE, ["a.3.w", "a.3.4.w"], ["x.3.w", "y.3.w", "a.3.4.w"], "")
    assert [part.sources for part in parts] == [("x.3.w", "y.3.w"), ("a.3.4.w",)]


def test_other_names_are_taken_where_they_are_all_there_is():
    (part,) = layouts.plan(TABLE, ["b"], ["old.b"], "")
    assert (part.sources, part.copies) == (("old.b",), ())


def test_a_tensor_under_both_names_is_used_up_as_a_copy():
    (part,) = layouts.plan(TABLE, ["b"], ["b", "old.b"], "")
    assert (part.sources, part.copies) == (("b",), ("old.b",))


def test_missing_and_surplus_tensors_are_told_at_once():
    with pytest.raises(CheckpointError) as caught:
        layouts.plan(TABLE, ["a.0.w", "b", "c"], ["x.0.w", "old.b", "d", "e", "f", "g"], "model.safetensors")
    message = str(caught.value)
    assert message.startswith(
        "model.safetensors: among 6 tensors, 2 missing (y.0.w, c) and 4 without a place"
    )
    assert "(d, e, f and 1 more)" in message


def test_sources_that_do_not_go_together_have_no_shape():
    (part,) = layouts.plan(TABLE, ["a.0.w"], ["x.0.w", "y.0.w"], "")
    assert layouts.shape(part, {"x.0.w": mx.zeros((2, 3)), "y.0.w": mx.zeros((2, 3))}) == (4, 3)
    assert layouts.shape(part, {"x.0.w": mx.zeros((2, 3)), "y.0.w": mx.zeros((2, 4))}) is None
