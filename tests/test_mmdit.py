import dataclasses

import mlx.core as mx
import numpy as np
import pytest
from full_size import parameters, released
from mlx.utils import tree_map
from references import MMDIT, TOLERANCE, distance, inputs, names, network, outputs, stored, stored_shapes

from fluxnb.errors import InputError
from fluxnb.model.config import MMDiTConfig, dev, schnell
from fluxnb.model.layers import attention, random_weights
from fluxnb.model.mmdit import MMDiT

DEMO, GUIDED = MMDIT
CONFIG = MMDiTConfig(
    in_channels=8,
    out_channels=8,
    txt_dim=12,
    vec_dim=10,
    heads=2,
    head_dim=16,
    depth=2,
    depth_single=1,
    mlp_ratio=2.0,
    axes_dim=(4, 6, 6),
)
CASE = dataclasses.replace(GUIDED, config=CONFIG, size=(3, 4), length=5)
TEXT, IMAGE = 5, 12  # tokens of CASE


def make(**changes):
    """Returns a tiny network and its inputs."""
    case = dataclasses.replace(CASE, config=dataclasses.replace(CONFIG, **changes))
    given = {name: mx.array(value) for name, value in inputs(case).items()}
    return random_weights(MMDiT(case.config), seed=0), given


@pytest.mark.parametrize("case", MMDIT, ids=names(MMDIT))
def test_velocity_is_that_of_diffusers(case):
    ours = outputs(case, network(case, stored_shapes(case)))["velocity"]
    assert distance(ours, stored()[f"{case.name}/velocity"]) < TOLERANCE


def test_parameters_are_those_of_the_released_files_and_occupy_no_memory():
    before = mx.get_active_memory()
    networks = MMDiT(schnell()), MMDiT(dev())
    assert mx.get_active_memory() - before < 2**20  # filled they would be 95 GB
    tensors = released("bfl-dev")
    assert parameters(networks[1]) == tensors
    guidance = {name for name in tensors if name.startswith("guidance_in.")}
    assert len(guidance) == 4
    assert parameters(networks[0]) == {name: tensors[name] for name in tensors.keys() - guidance}


def test_attend_sees_every_block_in_order_and_all_tokens():
    model, given = make()
    seen = []

    def listen(q, k, v, layer):
        seen.append((layer, q.shape, k.shape, v.shape))
        return attention(q, k, v, layer)

    heard = model(**given, attend=listen)
    shape = (2, 2, TEXT + IMAGE, 16)
    assert seen == [(layer, shape, shape, shape) for layer in (0, 1, 2)]
    assert mx.array_equal(heard, model(**given))


@pytest.mark.parametrize("layer", [0, 2], ids=["double", "single"])
def test_attend_gets_the_text_first(layer):
    model, given = make(depth=2 if layer else 1)

    def values(**changed):
        kept = []

        def listen(q, k, v, number):
            kept.append(v)
            # no exchange between tokens: each keeps its own value
            return v

        model(**{**given, **changed}, attend=listen)
        return np.array(kept[layer])

    changed = np.abs(values(img=given["img"] + 1) - values()).max(axis=(0, 1, 3))  # per token
    assert (changed[:TEXT] == 0).all() and (changed[TEXT:] > 0).all()


def test_attend_decides_what_is_mixed():
    model, given = make()
    silent = model(**given, attend=lambda q, k, v, layer: mx.zeros_like(v))
    assert distance(np.array(silent), np.array(model(**given))) > 0.1
    other_text = model(**{**given, "txt": given["txt"] + 1}, attend=lambda q, k, v, layer: mx.zeros_like(v))
    assert mx.array_equal(silent, other_text)  # the text reaches the image by attention alone


def test_image_tokens_know_their_places_by_rope_alone():
    order = np.random.RandomState(0).permutation(IMAGE)
    for axes_dim, knows in (((4, 6, 6), True), ((), False)):
        model, given = make(axes_dim=axes_dim)
        velocity = np.array(model(**given))
        moved = np.array(model(**{**given, "img": given["img"][:, mx.array(order)]}))
        assert (distance(moved, velocity[:, order]) > 1e-3) == knows


def test_network_without_single_blocks_runs_its_double_blocks():
    model, given = make(depth_single=0)
    layers = []
    velocity = model(**given, attend=lambda q, k, v, layer: layers.append(layer) or attention(q, k, v, layer))
    assert layers == [0, 1] and velocity.shape == (2, IMAGE, 8)


def test_mlps_are_as_wide_as_their_ratio_says():
    shapes = parameters(make(mlp_ratio=1.5)[0])  # the streams are 32 wide
    assert shapes["double_blocks.0.txt_mlp.2.weight"] == (32, 48)
    assert shapes["single_blocks.0.linear1.weight"] == (3 * 32 + 48, 32)


def test_a_batch_is_its_rows():
    model, given = make()
    both = np.array(model(**given))
    for row in (0, 1):
        one = {name: value if name.endswith("ids") else value[row : row + 1] for name, value in given.items()}
        assert distance(np.array(model(**one)), both[row : row + 1]) < 1e-5


def test_16_bit_weights_give_what_the_same_weights_give_in_float32():
    model, given = make()
    model.update(tree_map(lambda value: value.astype(mx.bfloat16), model.parameters()))
    narrow = np.array(model(**given))
    model.update(tree_map(lambda value: value.astype(mx.float32), model.parameters()))
    assert distance(narrow, np.array(model(**given))) < 1e-6


def test_streams_run_in_the_dtype_of_the_image_and_times_stay_apart():
    model, given = make()
    wide = np.array(model(**given))
    model.update(tree_map(lambda value: value.astype(mx.bfloat16), model.parameters()))
    dtypes = set()

    def listen(q, k, v, layer):
        dtypes.update((q.dtype, k.dtype, v.dtype))
        return attention(q, k, v, layer)

    narrow = {**given, "img": given["img"].astype(mx.bfloat16)}
    velocity = model(**narrow, attend=listen)
    assert velocity.dtype == mx.bfloat16 and dtypes == {mx.bfloat16}
    assert distance(np.array(velocity.astype(mx.float32)), wide) < 0.05
    close = [
        model(**{**narrow, "t": mx.array([t, t])}) for t in (0.7500, 0.7503)
    ]  # 750 and 750.3: bf16 has 752
    assert not mx.array_equal(*close)


def test_guidance_must_be_there_exactly_if_the_network_takes_it():
    with_guidance, given = make(guidance=True)
    without, _ = make()
    guidance = given.pop("guidance")
    with pytest.raises(InputError, match="guidance missing, but this network takes a guidance strength"):
        with_guidance(**given)
    with pytest.raises(InputError, match="guidance given, but this network takes no guidance"):
        without(**given, guidance=guidance)


@pytest.mark.parametrize("axes_dim", [(4, 6, 4), (5, 5, 6)])
def test_axes_that_do_not_fit_the_head_are_refused(axes_dim):
    with pytest.raises(InputError, match="axes_dim"):
        dataclasses.replace(CONFIG, axes_dim=axes_dim)
