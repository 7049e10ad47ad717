import mlx.core as mx
import numpy as np
import pytest
from references import normal

from fluxnb.model import layers
from fluxnb.model.layers import GROUP, Linear, linear, random_weights, rope, rotate, sinusoid


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_linear_with_16_bit_weights_equals_linear_with_the_same_weights_in_float32(dtype):
    x, weight, bias = (
        mx.array(normal(name, shape)) for name, shape in (("x", (3, 8)), ("w", (5, 8)), ("b", (5,)))
    )
    weight, bias = weight.astype(dtype), bias.astype(dtype)
    wide = linear(x, weight.astype(mx.float32), bias.astype(mx.float32))
    assert mx.array_equal(linear(x, weight, bias), wide)
    assert mx.array_equal(linear(x, weight), x @ weight.astype(mx.float32).T)


def drawn(rows=200, inner=128, tokens=3):
    """Gives x, a matrix and a bias, normal."""
    return [
        mx.array(normal(name, shape))
        for name, shape in (("x", (tokens, inner)), ("w", (rows, inner)), ("b", (rows,)))
    ]


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_linear_with_a_quantised_weight_equals_linear_with_what_it_stands_for(bits):
    x, weight, bias = drawn()
    packed = mx.quantize(weight, GROUP, bits)
    wide = mx.dequantize(*packed, GROUP, bits)
    assert layers.bits(*packed[:2]) == bits
    for extra in (None, bias):
        assert mx.allclose(linear(x, packed[0], extra, *packed[1:]), linear(x, wide, extra), 1e-5, 1e-5)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_scales_of_16_bits_do_not_round_the_numbers_of_a_quantised_weight(dtype, bits):
    x, weight, _ = drawn()
    packed, *scales = mx.quantize(weight, GROUP, bits)
    scales = [array.astype(dtype) for array in scales]
    wide = mx.dequantize(packed, *(array.astype(mx.float32) for array in scales), GROUP, bits)
    assert mx.allclose(linear(x, packed, None, *scales), x @ wide.T, 1e-5, 1e-5)


@pytest.mark.parametrize("form", ["bfloat16", "4 bits"])
def test_the_pieces_of_a_product_give_what_the_whole_gives(form, monkeypatch):
    x, weight, bias = drawn()
    packed = [weight.astype(mx.bfloat16), None, None] if form == "bfloat16" else mx.quantize(weight, GROUP, 4)
    whole = linear(x, packed[0], bias, *packed[1:])
    for widened in (1, 7 * 128, 128 * 199):  # a row, seven rows, all but one
        monkeypatch.setattr(layers, "PIECE", widened)
        assert mx.allclose(linear(x, packed[0], bias, *packed[1:]), whole, 1e-6, 1e-5)


def test_a_float32_weight_is_multiplied_in_one_piece(monkeypatch):
    x, weight, bias = drawn()
    monkeypatch.setattr(layers, "PIECE", 1)
    assert mx.array_equal(linear(x, weight), x @ weight.T)
    assert mx.array_equal(linear(x, weight, bias), mx.addmm(bias, x, weight.T))


def test_a_single_vector_gets_the_same_from_a_large_weight_in_pieces():
    x, weight, bias = (
        mx.random.normal(shape, key=mx.random.key(0)) for shape in ((1, 1, 64), (999, 64), (999,))
    )
    whole = mx.addmm(bias, x, weight.T)
    for piece in (64 * 100, 64 * 999):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, "PIECE", piece)
            assert mx.allclose(linear(x, weight, bias), whole, 1e-6, 1e-5)
            assert mx.allclose(linear(x, weight), x @ weight.T, 1e-6, 1e-5)


@pytest.mark.parametrize("form", ["bfloat16", "4 bits"])
def test_a_chain_of_products_never_widens_more_than_some_pieces(form):
    size, count = 2048, 12
    weight = mx.random.normal((size, size), key=mx.random.key(0)) / size**0.5
    packed = [weight.astype(mx.bfloat16), None, None] if form == "bfloat16" else mx.quantize(weight, GROUP, 4)
    matrices = [[None if part is None else part + 0 for part in packed] for _ in range(count)]
    x = mx.ones((1, size))
    mx.eval(x, matrices)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    y = x
    for weight, scales, biases in matrices:
        y = linear(y, weight, None, scales, biases)
    mx.eval(y)
    assert mx.get_peak_memory() - before < 24 * 4 * layers.PIECE  # 96 MiB; all wide are 192 MiB


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_linear_answers_in_the_dtype_of_its_input(dtype):
    layer = random_weights(Linear(8, 5), seed=0)
    x = mx.array(normal("x", (3, 8)))
    assert layer(x).dtype == mx.float32
    narrow = layer(x.astype(dtype))
    assert narrow.dtype == dtype
    assert np.allclose(narrow.astype(mx.float32), layer(x), atol=0.05)


def test_sinusoid_is_the_cosine_and_sine_of_a_thousand_times_sigma():
    sigma = np.array([0.0, 0.25, 1.0], np.float32)
    angle = 1000 * sigma[:, None] * 10000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    assert np.allclose(sinusoid(mx.array(sigma), 256), expected, atol=5e-4)  # float32: 1000 rad * 5e-7


def test_sinusoid_is_float32_for_a_16_bit_time():
    exact = sinusoid(mx.array([0.75]), 256)  # 0.75 is exact in bf16, 750 is not
    narrow = sinusoid(mx.array([0.75], dtype=mx.bfloat16), 256)
    assert narrow.dtype == mx.float32
    assert mx.array_equal(narrow, exact)


def test_rope_leaves_position_zero_alone():
    x = mx.array(normal("x", (1, 2, 1, 16)))
    assert mx.array_equal(rotate(x, rope(mx.zeros((1, 3)), (4, 6, 6), 10000.0)), x)


def test_rope_turns_neighbouring_pairs_by_position_times_frequency():
    pe = rope(mx.array([[0, 3, 0]]), (4, 6, 6), 100.0)
    x = mx.zeros((1, 1, 1, 16)).at[..., 6].add(1.0)  # the second pair of the second axis
    turned = np.array(rotate(x, pe)).ravel()
    angle = 3 * 100.0 ** (-2 / 6)
    expected = np.zeros(16)
    expected[6:8] = np.cos(angle), np.sin(angle)
    assert np.allclose(turned, expected, atol=1e-6)


def test_rope_makes_scores_hang_on_differences_of_positions_only():
    q, k = mx.array(normal("q", (1, 1, 1, 16))), mx.array(normal("k", (1, 1, 1, 16)))

    def score(query, key):
        turn = [rope(mx.array([place]), (4, 6, 6), 10000.0) for place in (query, key)]
        return float((rotate(q, turn[0]) * rotate(k, turn[1])).sum())

    assert score([0, 5, 2], [0, 3, 7]) == pytest.approx(score([1, 15, 22], [1, 13, 27]), abs=1e-4)
    assert score([0, 5, 2], [0, 3, 7]) != pytest.approx(score([0, 5, 2], [0, 3, 8]), abs=1e-2)


def test_random_weights_hang_on_the_seed_only_and_leave_no_zeros():
    one, same, other = (random_weights(Linear(8, 5), seed) for seed in (1, 1, 2))
    assert mx.array_equal(one.weight, same.weight) and mx.array_equal(one.bias, same.bias)
    assert not mx.array_equal(one.weight, other.weight)
    assert bool(mx.all(one.weight != 0)) and bool(mx.all(one.bias != 0))
