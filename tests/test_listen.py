"""The formulas of the readers against an explicit softmax in float64, and what they hold in memory."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from fluxnb import listen
from fluxnb.model.layers import attention

BATCH, HEADS, LENGTH, WIDTH = 2, 3, 20, 8
LONG = 4608  # tokens at 1024 pixels


def normal(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


@pytest.fixture(scope="module")
def qk():
    return [normal(BATCH, HEADS, LENGTH, WIDTH, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def explicit(qk):
    """(B, H, L, L), float64."""
    q, k = (np.array(x, np.float64) for x in qk)
    scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(WIDTH))
    return scores / scores.sum(-1, keepdims=True)


def one_hot(groups, length=LENGTH):
    made = np.zeros((length, len(groups)), np.float32)
    for i, positions in enumerate(groups):
        made[list(positions), i] = 1
    return made


GROUPS = one_hot([(0,), (1, 2), range(5, 20)])
MANY = one_hot([(i,) for i in range(LENGTH)])  # more than a head is wide


@pytest.mark.parametrize("scores", [1, 2**20], ids=["row by row", "at once"])
@pytest.mark.parametrize("positions", [(2, 3, 4), (0, 7, 19)], ids=["neighbours", "far apart"])
def test_rows_are_the_means_of_explicit_rows(qk, explicit, positions, scores, monkeypatch):
    monkeypatch.setattr(listen, "SCORES", scores)
    q, k = qk
    share = np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32)
    read = partial(listen.rows, listen.pick(q, positions), k, average=mx.array(share))
    expected = share @ explicit[:, :, list(positions)]
    assert np.abs(np.array(read(is_mean=False)) - expected).max() < 1e-6
    assert np.abs(np.array(read(is_mean=True)) - expected.mean(1)).max() < 1e-6


@pytest.mark.parametrize("groups", [GROUPS, MANY], ids=["few groups", "more groups than the head is wide"])
@pytest.mark.parametrize("scores", [1, 7 * BATCH * LENGTH, 2**20], ids=["row by row", "in sevens", "at once"])
@pytest.mark.parametrize("read", [listen.columns_by_chunks, listen.columns_by_kernel, listen.columns])
def test_columns_by_kernel_and_by_chunks_are_sums_of_explicit_columns(
    qk, explicit, read, scores, groups, monkeypatch
):
    monkeypatch.setattr(listen, "SCORES", scores)
    found = np.array(read(*qk, mx.array(groups)))
    assert np.abs(found - explicit @ groups).max() < 1e-6


@pytest.mark.parametrize(
    ("read", "limit"),  # MB; MLX prepares some ten operations ahead, and a head's explicit softmax is 85 MB
    [
        (lambda q, k, five: listen.rows(listen.pick(q, range(30)), k, average=mx.eye(30), is_mean=True), 15),
        (lambda q, k, five: listen.rows(q, k, average=mx.full((1, LONG), 1 / LONG), is_mean=True), 60),
        (listen.columns_by_chunks, 60),
    ],
    ids=["30 rows", "the mean of all rows", "5 columns"],
)
def test_memory_is_bounded_at_the_tokens_of_1024_pixels(read, limit):
    q, k = (normal(1, 2, LONG, 16, seed=seed) for seed in (0, 1))
    five = mx.array(one_hot([(i,) for i in range(5)], LONG))
    mx.eval(q, k, five)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(read(q, k, five))
    assert (mx.get_peak_memory() - before) / 1e6 < limit


def hear(reader, count, **options):
    listener = listen.Listener([reader], **options)
    for layer in range(count):
        q, k = (normal(1, HEADS, LENGTH, WIDTH, seed=2 * layer + i) for i in (0, 1))
        listener(q, k, k, layer)
    return reader.result()


@pytest.mark.parametrize("waiting", [0, 2**30], ids=["each for itself", "all together"])
@pytest.mark.parametrize("is_mean", [False, True])
def test_blocks_read_together_give_what_they_give_one_by_one(is_mean, waiting, monkeypatch):
    monkeypatch.setattr(listen, "WAITING", waiting)
    found = hear(listen.Reader((1, 2, 4), listen.weights, is_mean=is_mean), 6)
    each = [
        np.array(listen.weights(*(normal(1, HEADS, LENGTH, WIDTH, seed=2 * layer + i) for i in (0, 1))))[0]
        for layer in (1, 2, 4)
    ]
    assert np.abs(found - (np.mean(each, 0) if is_mean else each)).max() < 1e-6


def test_one_head_is_read_alone():
    all_heads = hear(listen.Reader((0,), listen.weights), 1)
    assert np.array_equal(hear(listen.Reader((0,), listen.weights, head=2), 1), all_heads[2:])


def test_a_listener_mixes_as_ever_bit_for_bit(qk):
    q, k = (x[:1] for x in qk)
    listener = listen.Listener([listen.Reader((0,), listen.weights)])
    assert mx.array_equal(listener(q, k, k, 0), attention(q, k, k, 0))


def test_a_replay_ends_the_pass_after_its_last_block():
    passed = []

    def forward():
        attend = listen.Listener(readers, is_replay=True)
        for layer in range(5):
            passed.append(layer)
            attend(*[normal(1, HEADS, LENGTH, WIDTH)] * 3, layer)

    readers = [listen.Reader(blocks, listen.weights) for blocks in ((0,), (1, 2))]
    listen.overhear(forward)
    assert passed == [0, 1, 2]
    assert readers[1].result().shape == (HEADS, LENGTH, LENGTH)


@pytest.mark.parametrize("is_replay", [False, True], ids=["captured", "replayed"])
def test_maps_of_a_network_in_16_bits_are_exact_for_its_queries_and_keys(is_replay):
    q, k = (normal(1, HEADS, LENGTH, WIDTH, seed=seed).astype(mx.bfloat16) for seed in (0, 1))
    readers = [
        listen.Reader((0, 1), lambda shares: shares, groups=mx.array(GROUPS)),
        listen.Reader((0, 1), listen.weights),
    ]
    listener = listen.Listener(readers, is_replay=is_replay)
    assert listener(q, k, q, 0).dtype == mx.bfloat16
    listen.overhear(lambda: listener(q, k, q, 1))
    x, y = (np.array(array.astype(mx.float32), np.float64)[0] for array in (q, k))
    scores = np.exp(x @ y.swapaxes(1, 2) / np.sqrt(WIDTH))
    expected = scores / scores.sum(-1, keepdims=True)
    assert np.abs(readers[0].result() - expected @ GROUPS).max() < 1e-6
    assert np.abs(readers[1].result() - expected).max() < 1e-6
