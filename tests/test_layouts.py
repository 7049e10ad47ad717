"""Tables of rules: at full size, all names and shapes of the released files go in and come out exactly."""

import mlx.core as mx
import pytest
from full_size import parameters, released

from fluxnb.checkpoints import layouts, tables
from fluxnb.checkpoints.layouts import Rule
from fluxnb.errors import CheckpointError
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import clip_l, dev, flux_vae, schnell, t5_xxl
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.vae import VAE

DEV = released("diffusers-dev")
FULL_SIZE = {
    "dev": (MMDiT(dev()), tables.DIFFUSERS_MMDIT, DEV),
    "schnell": (
        MMDiT(schnell()),
        tables.DIFFUSERS_MMDIT,
        {name: shape for name, shape in DEV.items() if "guidance" not in name},
    ),
    "vae": (VAE(flux_vae()), tables.diffusers_vae(4), released("diffusers-vae")),
    "clip": (CLIPText(clip_l()), tables.HUB_CLIP, released("hub-clip")),
    "clip of transformers 5": (
        CLIPText(clip_l()),
        tables.HUB_CLIP,
        {name.removeprefix("text_model."): shape for name, shape in released("hub-clip").items()},
    ),
    "t5": (T5Encoder(t5_xxl()), tables.HUB_T5, released("hub-t5xxl")),
    "t5 of transformers 5": (
        T5Encoder(t5_xxl()),
        tables.HUB_T5,
        released("hub-t5xxl") | {"encoder.embed_tokens.weight": (32128, 4096)},
    ),
}


@pytest.mark.parametrize(("network", "table", "held"), FULL_SIZE.values(), ids=FULL_SIZE)
def test_every_released_tensor_is_used_once_and_fills_the_network(network, table, held):
    shapes = parameters(network)
    arrays = {name: mx.zeros(shape) for name, shape in held.items()}  # never evaluated
    parts = layouts.plan(table, shapes, held, "the file")
    used = [name for part in parts for name in (*part.sources, *part.copies)]
    assert sorted(used) == sorted(held)
    assert {part.target: layouts.shape(part, arrays) for part in parts} == shapes


def test_no_rule_of_the_transformer_is_in_vain():
    network, table, held = FULL_SIZE["dev"]
    for rule in table:
        others = tuple(other for other in table if other is not rule)
        with pytest.raises(LookupError, match="has no rule for"):
            layouts.plan(others, parameters(network), held, "the file")


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
