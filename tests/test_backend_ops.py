"""The ops of backend, in both forms, against float64 at odd shapes, huge values, zero rows and masks."""

import mlx.core as mx
import numpy as np
import pytest

from fluxnb import backend
from fluxnb.backend import linux_cpu, machine, stock


@pytest.fixture(scope="module", autouse=True)
def _set_up():
    backend.setup()


@pytest.fixture(params=[stock, linux_cpu], ids=["stock", "linux_cpu"])
def ops(request):
    return request.param


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def assert_close(got, expected, tolerance):
    """The largest error, relative to the largest expected value, is at most the tolerance."""
    assert got.shape == expected.shape
    got = np.array(got.astype(mx.float32)).astype(np.float64)
    assert np.isfinite(got).all()
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{error:.2g} > {tolerance}"


def float64_softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(0.5 * x)


ACTIVATIONS = {
    "gelu": lambda x: x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * sigmoid(x),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_right_to_a_millionth_from_tiny_to_huge(ops, name):
    x = np.concatenate([normal(1, 3, 37), normal(1, 3, 37, scale=8.0), normal(1, 3, 37, scale=1e-6)])
    x[:, 0, :4] = 0.0, -0.0, 60.0, -60.0
    huge = np.array([1e4, -1e4, 1e12, -1e12, 3e30, -3e30], np.float32)
    for values in (x, huge):
        got = np.array(getattr(ops, name)(mx.array(values))).astype(np.float64)
        expected = ACTIVATIONS[name](values.astype(np.float64))
        assert np.abs((got - expected) / np.maximum(np.abs(values), 1e-6)).max() <= 1e-6


def test_softmax_is_right_to_a_millionth(ops):
    x = normal(2, 3, 5, 41, scale=6.0)
    assert_close(ops.softmax(mx.array(x)), float64_softmax(x.astype(np.float64)), 1e-6)


def test_softmax_keeps_huge_scores_finite_and_forbidden_ones_at_zero(ops):
    x = np.array([[3e38, 3e38, -3e38], [0.0, -np.inf, 0.0], [-1e4, -1e4, -np.inf], [1e4, 0, 0]], np.float32)
    expected = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0.5, 0.5, 0], [1, 0, 0]]
    np.testing.assert_allclose(np.array(ops.softmax(mx.array(x))), expected, rtol=3e-7)


def test_softmax_is_right_in_small_weights_too(ops):
    x = np.linspace(-80, 0, 1001, dtype=np.float32)
    expected = float64_softmax(x.astype(np.float64))
    np.testing.assert_allclose(np.array(ops.softmax(mx.array(x))), expected, rtol=2e-5)


def test_softmax_passes_a_nan_on_instead_of_hiding_it(ops):
    assert np.isnan(np.array(ops.softmax(mx.array([0.0, float("nan"), 1.0])))).any()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("width", [1, 7, 256, 3072])
def test_layer_norm_is_right_to_a_hundred_thousandth(ops, width, affine):
    x = normal(2, 3, width, scale=50.0) + 20.0
    weight, bias = (normal(width, seed=1), normal(width, seed=2)) if affine else (None, None)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    if affine:
        expected = expected * weight + bias
    arrays = [None if a is None else mx.array(a) for a in (weight, bias)]
    if width == 1:  # one number is its own mean: what is left is the rounding, far below a normal value of 1
        assert np.abs(np.array(ops.layer_norm(mx.array(x), *arrays)) - expected).max() <= 1e-2
    else:
        assert_close(ops.layer_norm(mx.array(x), *arrays), expected, 1e-5)


def test_norms_of_a_zero_row_are_zero(ops):
    zeros, ones = mx.zeros((2, 16)), mx.ones((16,))
    assert not np.array(ops.layer_norm(zeros)).any()
    assert not np.array(ops.rms_norm(zeros, ones, 1e-6)).any()
    assert not np.array(ops.group_norm(zeros.reshape(1, 2, 1, 16), 4, ones, 0 * ones, 1e-6)).any()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e9])
@pytest.mark.parametrize("shape", [(3, 5), (1, 4, 9, 64), (2, 7, 4096)])
def test_rms_norm_is_right_to_a_hundred_thousandth(ops, shape, scale):
    x, weight = normal(*shape, scale=scale), normal(shape[-1], seed=1)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * weight
    assert_close(ops.rms_norm(mx.array(x), mx.array(weight), 1e-6), expected, 1e-5)


def float64_group_norm(x, groups, weight, bias, eps):
    batch, *_, channels = x.shape
    grouped = x.astype(np.float64).reshape(batch, -1, groups, channels // groups)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    normed = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + eps)
    return normed.reshape(x.shape) * weight + bias


@pytest.mark.parametrize(("shape", "groups"), [((2, 5, 3, 12), 3), ((1, 1, 1, 8), 2), ((3, 7, 9, 6), 6)])
def test_group_norm_groups_neighbouring_channels_of_each_image(ops, shape, groups):
    x, weight, bias = normal(*shape, scale=3.0) + 1, normal(shape[-1], seed=1), normal(shape[-1], seed=2)
    got = ops.group_norm(mx.array(x), groups, mx.array(weight), mx.array(bias), 1e-6)
    assert_close(got, float64_group_norm(x, groups, weight, bias, 1e-6), 1e-5)


@pytest.mark.skipif(not machine.on_linux_cpu(), reason="hardware: sums are exact by the CPU's BLAS")
def test_group_norm_of_a_million_values_is_right_to_a_hundred_thousandth():
    x, weight, bias = normal(1, 512, 512, 8) + 0.5, np.ones(8, np.float32), np.zeros(8, np.float32)
    got = linux_cpu.group_norm(mx.array(x), 2, mx.array(weight), mx.array(bias), 1e-6)
    assert_close(got, float64_group_norm(x, 2, weight, bias, 1e-6), 1e-5)


def float64_attention(q, k, v, scale, mask=0.0):
    q, k, v = (array.astype(np.float64) for array in (q, k, v))
    return float64_softmax(scale * q @ k.swapaxes(-1, -2) + mask) @ v


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in blocks"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1.0, 12.0])
def test_attention_is_right_to_a_hundred_thousandth(ops, monkeypatch, size, masked, at_once):
    monkeypatch.setattr(linux_cpu, "MANY_SCORES", 2**22 if at_once else 4 * 2 * 13)
    q, k, v = (
        normal(2, 3, 11, 16, scale=size),
        normal(2, 3, 13, 16, seed=1, scale=size),
        normal(2, 3, 13, 16, seed=2),
    )
    mask = np.triu(np.full((11, 13), -np.inf, np.float32), 3) if masked else None
    arrays = [mx.array(a) for a in (q, k, v)]
    got = ops.attention(*arrays, scale=0.25, mask=None if mask is None else mx.array(mask))
    assert_close(got, float64_attention(q, k, v, 0.25, 0.0 if mask is None else mask), 1e-5)


def test_attention_takes_a_mask_of_each_shape_that_broadcasts(ops, monkeypatch):
    monkeypatch.setattr(linux_cpu, "MANY_SCORES", 1)
    q, k, v = (normal(2, 3, 4, 8, seed=seed) for seed in range(3))
    for shape in ((4, 4), (2, 1, 1, 4), (1, 3, 4, 4)):
        mask = normal(*shape, seed=5, scale=3.0)
        got = ops.attention(*(mx.array(a) for a in (q, k, v)), scale=0.3, mask=mx.array(mask))
        assert_close(got, float64_attention(q, k, v, 0.3, mask), 1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (2, 5, 4, 3)])
def test_upsample_conv_is_a_convolution_of_doubled_pixels(ops, shape):
    x, weight, bias = normal(*shape), normal(7, 3, 3, shape[-1], seed=1), normal(7, seed=2)
    padded = np.pad(x.astype(np.float64).repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (B, 2H, 2W, C, 3, 3)
    expected = np.einsum("bhwcij,oijc->bhwo", windows, weight.astype(np.float64)) + bias
    assert_close(ops.upsample_conv(mx.array(x), mx.array(weight), mx.array(bias)), expected, 1e-5)


@pytest.mark.parametrize("edge", [1, 0])
@pytest.mark.parametrize("shape", [(1, 3, 1, 2), (2, 5, 4, 3)])
def test_conv_has_zeros_around_the_image_but_for_rows_without_an_edge(ops, shape, edge):
    x, weight, bias = normal(*shape), normal(7, 3, 3, shape[-1], seed=1), normal(7, seed=2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (edge, edge), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (B, H, W, C, 3, 3)
    expected = np.einsum("bhwcij,oijc->bhwo", windows, weight.astype(np.float64)) + bias
    assert_close(ops.conv(mx.array(x), mx.array(weight), mx.array(bias), edge), expected, 1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_every_op_returns_the_type_of_its_first_argument(ops, dtype):
    x, weight = mx.array(normal(1, 2, 4, 8)).astype(dtype), mx.ones((8,))
    results = [ops.gelu(x), ops.silu(x), ops.quick_gelu(x), ops.softmax(x), ops.layer_norm(x, weight, weight)]
    results += [ops.rms_norm(x, weight, 1e-6), ops.group_norm(x, 2, weight, weight, 1e-6)]
    results += [op(x, mx.ones((4, 3, 3, 8)), mx.ones((4,))) for op in (ops.conv, ops.upsample_conv)]
    results += [ops.attention(x, x, x, scale=0.3)]
    assert {result.dtype for result in results} == {dtype}


def gradients(ops):
    """The gradients of each op, by all its arrays, of a sum of its squared results."""
    x, q, k, v = (mx.array(normal(2, 3, 5, 8, seed=seed, scale=2.0)) for seed in range(4))
    weight, bias, kernel = (mx.array(normal(*shape, seed=9)) for shape in ((8,), (8,), (6, 3, 3, 8)))
    calls = {
        "gelu": (ops.gelu, x),
        "silu": (ops.silu, x),
        "quick_gelu": (ops.quick_gelu, x),
        "softmax": (ops.softmax, x),
        "layer_norm": (ops.layer_norm, x, weight, bias),
        "rms_norm": (lambda x, w: ops.rms_norm(x, w, 1e-6), x, weight),
        "group_norm": (lambda x, w, b: ops.group_norm(x, 4, w, b, 1e-6), x, weight, bias),
        "attention": (lambda q, k, v: ops.attention(q, k, v, 0.3), q, k, v),
        "conv": (ops.conv, x, kernel, bias[:6]),
        "upsample_conv": (ops.upsample_conv, x, kernel, bias[:6]),
    }
    for name, (op, *arrays) in calls.items():
        loss = lambda *arrays, op=op: (op(*arrays) ** 2).sum()  # noqa: E731
        yield name, mx.grad(loss, argnums=list(range(len(arrays))))(*arrays)


@pytest.mark.parametrize("scores", [2**20, 3 * 2 * 5], ids=["at once", "in blocks"])
def test_gradients_are_those_of_the_stock_ops(monkeypatch, scores):
    monkeypatch.setattr(linux_cpu, "MANY_SCORES", scores)
    for (name, ours), (_, theirs) in zip(gradients(linux_cpu), gradients(stock), strict=True):
        for got, expected in zip(ours, theirs, strict=True):
            error = mx.abs(got - expected).max() / mx.abs(expected).max()
            assert error.item() <= 1e-4, f"{name}: {error.item():.1e}"
