import mlx.core as mx
import pytest
import stubs
from mlx.utils import tree_flatten

from fluxnb.model.lora import LowRank, changed, merged

NAMES = ("double_blocks.1.img_attn.qkv", "single_blocks.0.linear2", "final_layer.adaLN_modulation.1")


@pytest.fixture
def network():
    return stubs.networks().mmdit


def change(layer, seed, rank=3):
    out, columns = layer.weight.shape
    keys = mx.random.split(mx.random.key(seed))
    return LowRank(
        mx.random.normal((rank, columns), key=keys[0]), 0.1 * mx.random.normal((out, rank), key=keys[1])
    )


@pytest.fixture
def changes(network):
    layers = dict(network.named_modules())
    return {name: change(layers[name], i) for i, name in enumerate(NAMES)}


def velocity(network):
    keys = mx.random.split(mx.random.key(9), 3)
    return network(
        mx.random.normal((1, 4, 64), key=keys[0]),
        mx.random.normal((1, 5, 16), key=keys[1]),
        mx.random.normal((1, 16), key=keys[2]),
        mx.array([0.5]),
        img_ids=mx.zeros((4, 3)),
        txt_ids=mx.zeros((5, 3)),
    )


def test_a_change_beside_a_matrix_is_the_matrix_with_the_product_added(network, changes):
    beside = velocity(changed(network, changes))
    whole = velocity(changed(network, merged(network, changes)))
    before = velocity(network)
    layers = dict(network.named_modules())
    for name, one in changes.items():
        layers[name].weight = layers[name].weight + one.up @ one.down
    expected = velocity(network)
    assert mx.abs(expected - before).max() > 0.1
    for found in (beside, whole):
        assert mx.abs(found - expected).max() < 1e-5 * mx.abs(expected).max()


def test_the_network_itself_stays_as_it_was(network, changes):
    before, parameters = velocity(network), dict(tree_flatten(network.parameters()))
    velocity(changed(network, changes))
    assert mx.array_equal(velocity(network), before)
    after = dict(tree_flatten(network.parameters()))
    assert all(after[name] is array for name, array in parameters.items())


def test_what_is_not_changed_is_shared(network, changes):
    other = changed(network, changes)
    assert other.img_in is network.img_in
    assert other.double_blocks[0] is network.double_blocks[0]
    assert other.double_blocks[1].txt_attn is network.double_blocks[1].txt_attn
    assert changed(network, {}) is network


@pytest.mark.parametrize("bits", [16, 4])
def test_weights_of_few_bits_are_changed_without_being_rounded(bits):
    from fluxnb.model.layers import Linear

    layer = Linear(128, 64)
    layer.weight = mx.random.normal((64, 128), key=mx.random.key(0))
    wide = layer.weight
    if bits == 16:
        layer.weight = layer.weight.astype(mx.bfloat16)
        wide = layer.weight.astype(mx.float32)
    else:
        layer.weight, layer.scales, layer.biases = mx.quantize(layer.weight, 64, bits)
        wide = mx.dequantize(layer.weight, layer.scales, layer.biases, 64, bits)
    small = LowRank(
        1e-3 * mx.random.normal((2, 128), key=mx.random.key(1)),
        mx.random.normal((64, 2), key=mx.random.key(2)),
    )
    network = type("Two", (type(layer).__mro__[1],), {})()
    network.layer = layer
    changes = merged(network, {"layer": small})
    assert changes["layer"] is small
    x = mx.random.normal((1, 3, 128), key=mx.random.key(3))
    found = changed(network, changes).layer(x)
    expected = x @ (wide + small.up @ small.down).T
    assert mx.abs(found - expected).max() < 1e-4
    assert mx.abs(found - layer(x)).max() > 1e-2
