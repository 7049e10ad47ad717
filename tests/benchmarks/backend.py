"""Measures what the backend brings on a Linux CPU: `python tests/benchmarks/backend.py [rounds]`.

Three setups, each in processes of its own, take turns, so that another load on the machine meets all of them:

    wheel    MLX as its wheel is, with MLX's own ops
    blas     after backend.setup(), with MLX's own ops
    ours     after backend.setup(), with backend's ops

Printed are milliseconds of process CPU time, minimum and median over all rounds, which another load disturbs
less than the time on the clock; how many times faster ours is than the wheel, by minima and by medians; and
the largest error relative to the largest result in float64, of MLX's own op and of ours. It is not a part of
pytest, and takes about a minute on an idle machine.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SETUPS = ("wheel", "blas", "ours")
TOKENS, WIDTH, HEADS, TEXT = 256, 256, 4, 64  # the tiny block: image tokens, hidden width, heads, text tokens


def milliseconds(compute, budget=0.5, most=40):
    """Returns the CPU milliseconds of evaluations of what compute returns, for about budget seconds."""
    import mlx.core as mx

    mx.eval(compute())
    spent, begin = [], time.perf_counter()
    while len(spent) < 3 or (len(spent) < most and time.perf_counter() - begin < budget):
        start = time.process_time()
        mx.eval(compute())
        spent.append((time.process_time() - start) * 1e3)
    return spent


def ops(backend):
    """Yields every op at the sizes of the demo model: name, what to compute, the result in float64."""
    import mlx.core as mx

    random = np.random.default_rng(0)

    def both(*shape, scale=1.0):
        array = (random.standard_normal(shape) * scale).astype(np.float32)
        return mx.array(array), array.astype(np.float64)

    def softmax(s):
        weights = np.exp(s - s.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def norm(x, axes):
        centred = x - x.mean(axes, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-6)

    x, x64 = both(TOKENS + TEXT, 4 * WIDTH, scale=3.0)
    inner = np.sqrt(2 / np.pi) * (x64 + 0.044715 * x64**3)
    yield "gelu", lambda: backend.gelu(x), x64 * (1 + np.tanh(inner)) / 2
    yield "silu", lambda: backend.silu(x), x64 / (1 + np.exp(-x64))
    yield "quick_gelu", lambda: backend.quick_gelu(x), x64 / (1 + np.exp(-1.702 * x64))
    s, s64 = both(1, HEADS, TOKENS + TEXT, TOKENS + TEXT, scale=4.0)
    yield "softmax", lambda: backend.softmax(s), softmax(s64)
    q, q64 = both(1, HEADS, TOKENS + TEXT, WIDTH // HEADS)
    k, k64 = both(1, HEADS, TOKENS + TEXT, WIDTH // HEADS)
    v, v64 = both(1, HEADS, TOKENS + TEXT, WIDTH // HEADS)
    mixed = softmax(q64 @ k64.swapaxes(-1, -2) / 8) @ v64
    yield "attention", lambda: backend.attention(q, k, v, scale=1 / 8), mixed
    h, h64 = both(1, TOKENS + TEXT, WIDTH)
    yield "layer_norm", lambda: backend.layer_norm(h), norm(h64, -1)
    w, w64 = both(WIDTH // HEADS)
    root = np.sqrt((q64**2).mean(-1, keepdims=True) + 1e-6)
    yield "rms_norm", lambda: backend.rms_norm(q, w, 1e-6), q64 / root * w64
    image, image64 = both(1, 128, 128, 32)
    one, zero = mx.ones((32,)), mx.zeros((32,))
    grouped = norm(image64.reshape(1, 128 * 128, 8, 4), (1, 3)).reshape(image64.shape)
    yield "group_norm", lambda: backend.group_norm(image, 8, one, zero, 1e-6), grouped
    large, large64 = both(1, 512, 512, 16)
    large, large64 = large + 0.5, (np.array(large) + np.float32(0.5)).astype(np.float64)
    grouped = norm(large64.reshape(1, 512 * 512, 1, 16), (1, 3)).reshape(large64.shape)
    many, none = mx.ones((16,)), mx.zeros((16,))
    yield "group_norm 4 M", lambda: backend.group_norm(large, 1, many, none, 1e-6), grouped
    small, small64 = both(1, 64, 64, 32)
    kernel, kernel64 = both(32, 3, 3, 32, scale=0.06)
    padded = np.pad(small64.repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    convolved = sum(padded[:, i : i + 128, j : j + 128] @ kernel64[:, i, j].T for i, j in taps)
    yield "upsample_conv", lambda: backend.upsample_conv(small, kernel, zero), convolved


def block():
    """Returns a function that runs one double block of the demo model's kind, on random weights."""
    import mlx.core as mx

    from fluxnb.model import layers

    network = layers.random_weights(layers.DoubleBlock(WIDTH, WIDTH // HEADS, 4 * WIDTH), seed=0)
    shapes = ((1, TOKENS, WIDTH), (1, TEXT, WIDTH), (1, WIDTH))
    img, txt, vec = (mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes))
    ids = [(0, 0, 0)] * TEXT + [(0, i // 16, i % 16) for i in range(TOKENS)]
    pe = layers.rope(mx.array(ids), (16, 24, 24), 10000.0)
    mx.eval(network.parameters(), img, txt, vec, pe)
    return lambda: network(img, txt, vec, pe, layers.attention, 0)


def measure(setup):
    """Measures one setup and prints the figures as JSON."""
    import mlx.core as mx

    from fluxnb import backend
    from fluxnb.backend import stock

    if setup != "wheel":
        backend.setup()
    if setup != "ours":
        for name in set(backend.__all__) & set(vars(stock)):
            setattr(backend, name, getattr(stock, name))
    found = {"gflops": {}, "ms": {}, "error": {}}
    for rows, inner, columns in ((256, 256, 256), (320, 256, 1024), (320, 1024, 256), (1024, 1024, 1024)):
        a, b = mx.ones((rows, inner)), mx.ones((inner, columns))
        work = 2e-6 * rows * inner * columns  # 1e-3 GFLOP, since the time is in ms
        spent = milliseconds(lambda a=a, b=b: a @ b, 0.2)
        found["gflops"][f"sgemm {rows} x {inner} x {columns}"] = [work / t for t in spent]
    for name, compute, expected in ops(backend):
        error = np.abs(np.array(compute()) - expected).max() / np.abs(expected).max()
        found["error"][name] = float(error)
        found["ms"][name] = milliseconds(compute)
    found["ms"]["double block"] = milliseconds(block(), 1.0)
    print(json.dumps(found))


def main(rounds):
    """Lets the setups take turns and prints their figures side by side."""
    gathered = {setup: {"gflops": {}, "ms": {}, "error": {}} for setup in SETUPS}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(rounds):
        for setup in SETUPS:
            command = [sys.executable, __file__, "--measure", setup]
            text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            for kind, rows in json.loads(text).items():
                for name, values in rows.items():
                    if kind == "error":
                        gathered[setup]["error"][name] = values
                    else:
                        gathered[setup][kind].setdefault(name, []).extend(values)
    titles = "".join(f"{setup:>17}" for setup in SETUPS)
    print(f"{rounds} rounds: best and median of each, ours over wheel in both\n")
    print(f"{'GFLOP/s':23}{titles}{'ours/wheel':>16}")
    for name in gathered["ours"]["gflops"]:
        print_row(name, [gathered[setup]["gflops"][name] for setup in SETUPS], best=max)
    print(f"\n{'CPU ms':23}{titles}{'ours/wheel':>16}   error of stock, of ours")
    for name in gathered["ours"]["ms"]:
        errors = [gathered[setup]["error"].get(name) for setup in ("blas", "ours")]
        shown = "" if None in errors else "   {:.1e} {:.1e}".format(*errors)
        print_row(name, [gathered[setup]["ms"][name] for setup in SETUPS], best=min, after=shown)


def print_row(name, figures, best, after=""):
    """Prints best and median of each setup, and how many times better the last is than the first."""
    pairs = [(best(values), statistics.median(values)) for values in figures]
    columns = "".join(f"{top:9.2f} {middle:7.2f}" for top, middle in pairs)
    wheel, ours = pairs[0], pairs[-1]
    ratios = [b / a if best is max else a / b for a, b in zip(wheel, ours, strict=True)]
    print(f"{name:23}{columns}" + "".join(f"{ratio:7.1f}x" for ratio in ratios) + after)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3)
