"""What backend.setup does to MLX, and to nothing else: BLAS, threads, cache, the choice of ops, describe."""

import functools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from fluxnb import backend
from fluxnb.backend import blas, linux_cpu, machine, stock

ROOT = Path(__file__).parents[1]
LINUX_CPU = machine.on_linux_cpu()
only_linux_cpu = pytest.mark.skipif(not LINUX_CPU, reason="hardware: MLX on a Linux CPU")


def test_the_ops_are_those_of_this_machine():
    chosen = linux_cpu if LINUX_CPU else stock
    names = {name for name in backend.__all__ if not hasattr(machine, name)}
    assert names == {name for name in vars(stock) if callable(vars(stock)[name])}
    assert all(getattr(backend, name) is getattr(chosen, name) for name in names)


def run(code, **environment):
    """Runs code in a fresh process, without our settings, and returns the JSON that it prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FLUXNB_", "OPENBLAS_", "OMP_"))}
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBES + code],
        capture_output=True,
        text=True,
        env={**inherited, "PYTHONPATH": paths, **environment},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PROBES = """
import json, sys
from pathlib import Path

def has_openblas():
    maps = Path("/proc/self/maps")
    return maps.exists() and "openblas" in maps.read_text()

def product_error():
    import mlx.core as mx, numpy as np
    a, b = (np.random.default_rng(i).standard_normal((65, 65)).astype("f4") for i in (0, 1))
    got = np.array(mx.array(a) @ mx.array(b))
    return float(np.abs(got - a.astype("f8") @ b.astype("f8")).max())
"""


def test_importing_the_backend_changes_nothing():
    found = run("""
import mlx.core as mx
before = mx.set_cache_limit(12345)
from fluxnb import backend
print(json.dumps([mx.set_cache_limit(before), "numpy" in sys.modules, has_openblas()]))
""")
    assert found == [12345, False, False]


def test_without_mlx_one_sentence_names_the_extra():
    found = run("""
class NoMLX:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            raise ImportError("libmlx.so: cannot open shared object file: No such file or directory")
sys.meta_path.insert(0, NoMLX())
try:
    import fluxnb
except ImportError as error:
    print(json.dumps([str(error), type(error).__name__]))
""")
    message, name = found
    assert name == "BackendError"
    assert 'pip install "fluxnb[cpu]"' in message
    assert message.count(". ") == 0
    assert message.endswith(".")
    assert "libmlx.so: cannot open" in message


def test_on_a_mac_setup_leaves_everything_but_the_cache_limit():
    found = run("""
sys.platform = "darwin"  # for fluxnb; MLX is the one at hand
import mlx.core as mx
from fluxnb import backend
from fluxnb.backend import stock
backend.setup()
backend.fit_threads(3072)
chosen = backend.gelu is stock.gelu and backend.attention is stock.attention
print(json.dumps([chosen, backend.describe(), mx.set_cache_limit(0), has_openblas()]))
""")
    stock_ops, line, limit, openblas = found
    assert stock_ops
    assert line.startswith("MLX ")
    assert limit == min(2 * 2**30, machine.memory_bytes() // 8)
    assert not openblas


@only_linux_cpu
def test_setup_gives_mlx_the_openblas_of_the_extra_and_nobody_else():
    found = run("""
import ctypes
import mlx.core as mx
first = product_error()  # MLX's own BLAS was in use before
from fluxnb import backend
backend.setup()
backend.setup()
everybody = ctypes.CDLL(None)
print(json.dumps({
    "line": backend.describe(),
    "errors": [first, product_error()],
    "global": hasattr(everybody, "scipy_cblas_sgemm") or hasattr(everybody, "cblas_sgemm"),
    "imported": "scipy_openblas32" in sys.modules,
    "cache": mx.set_cache_limit(0),
}))
""")
    assert "(scipy-openblas32)" in found["line"]
    assert max(found["errors"]) < 1e-4
    assert not found["global"]
    assert not found["imported"]
    assert found["cache"] == min(2 * 2**30, machine.memory_bytes() // 8)


@only_linux_cpu
def test_a_library_with_wrong_products_is_undone():
    found = run(
        """
import ctypes, types
from fluxnb.backend import blas
mlx = next(m for m in blas._mappings() if m.offset == 0 and m.path.endswith("/libmlx.so"))
slots = sum(blas.find_slots(Path(mlx.path), blas.PRODUCTS).values(), [])
def held():
    return [ctypes.c_void_p.from_address(mlx.start + slot).value for slot in slots]
nothing = ctypes.CFUNCTYPE(None)(lambda: None)  # a "product" that writes no result
during = []
check = blas._check_products
blas._check_products = lambda: (during.extend(held()), check())
wrong, load = types.SimpleNamespace(**{n: nothing for n in blas.PRODUCTS}), ctypes.CDLL
ctypes.CDLL = lambda path, *a, **k: wrong if path == "/wrong.so" else load(path, *a, **k)
before = held()
installed = blas.install()
print(json.dumps([installed.path, installed.trouble, before == held(), before != during, product_error()]))
""",
        FLUXNB_BLAS="/wrong.so",
    )
    path, trouble, restored, changed, error = found
    assert path is None
    assert "product is off" in trouble
    assert restored
    assert changed
    assert error < 1e-4


@only_linux_cpu
@pytest.mark.parametrize("value", ["none", "/does/not/exist.so", "libm.so.6", "missing.so"])
def test_fluxnb_blas_that_is_none_or_unusable_leaves_mlx_its_own(value):
    found = run(
        """
import warnings
from fluxnb import backend
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    backend.setup()
print(json.dumps([backend.describe(), [str(w.message) for w in caught], product_error()]))
""",
        FLUXNB_BLAS=value,
    )
    line, warned, error = found
    assert "MLX's own BLAS" in line
    assert error < 1e-4
    if value == "none":
        assert warned == []
    else:
        assert len(warned) == 1
        assert value in warned[0]


@only_linux_cpu
def test_where_no_library_is_found_products_are_right_and_a_warning_says_they_are_slow():
    found = run("""
import warnings
from fluxnb import backend
from fluxnb.backend import blas, machine
blas._candidates = lambda: iter(())
machine.measure_gflops = lambda: 4.0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    backend.setup()
print(json.dumps([backend.describe(), [str(w.message) for w in caught], product_error()]))
""")
    line, warned, error = found
    assert line.endswith("on CPU, MLX's own BLAS, 4 GFLOP/s")
    assert len(warned) == 1
    assert 'pip install "fluxnb[cpu]"' in warned[0]
    assert error < 1e-4


THREADS = """
import ctypes, os
from fluxnb import backend
from fluxnb.backend import machine
backend.setup()
used = machine._machine().blas
library = ctypes.CDLL(used.path)
counts = [library.scipy_openblas_get_num_threads()]
for width in (3072, 1024, 1023):
    backend.fit_threads(width)
    counts.append(library.scipy_openblas_get_num_threads())
print(json.dumps([counts, len(os.sched_getaffinity(0))]))
"""


@only_linux_cpu
def test_narrow_networks_get_one_thread_and_wide_ones_every_core():
    counts, cores = run(THREADS)
    assert counts == [1, cores, cores, 1]


@only_linux_cpu
def test_openblas_num_threads_is_respected():
    counts, cores = run(THREADS, OPENBLAS_NUM_THREADS="2")
    assert counts == [min(2, cores)] * 4


@only_linux_cpu
def test_a_library_that_was_there_before_keeps_its_threads():
    somebody_else = """
import ctypes, importlib.util
folder = Path(importlib.util.find_spec("scipy_openblas32").origin).parent
ctypes.CDLL(str(folder / "lib" / "libscipy_openblas.so"))
"""
    counts, cores = run(somebody_else + THREADS)
    assert counts == [cores] * 4


@only_linux_cpu
def test_many_threads_set_up_once(monkeypatch):
    calls = []

    def install():
        calls.append(threading.get_ident())
        time.sleep(0.05)
        return blas.Blas(path="x", name="a library")

    monkeypatch.setattr(machine, "measure_gflops", lambda: 1.0)
    monkeypatch.setattr(blas, "install", install)
    monkeypatch.setattr(machine, "_prepare", functools.cache(machine._prepare.__wrapped__))
    threads = [threading.Thread(target=backend.setup) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert backend.describe() == f"MLX {mx.__version__} on CPU, a library, 1 GFLOP/s"


@only_linux_cpu
def test_products_of_odd_shapes_are_right_to_a_hundred_thousandth():
    backend.setup()
    random = np.random.default_rng(0)
    for rows, inner, columns in ((1, 1, 1), (1, 513, 7), (67, 3, 1), (129, 255, 65)):
        a, b = (random.standard_normal(shape).astype("f4") for shape in ((rows, inner), (inner, columns)))
        expected = a.astype("f8") @ b.astype("f8")
        left, right, onto = mx.array(a), mx.array(b), mx.array(expected.astype("f4"))
        for got, wanted in (
            (left @ right, expected),
            (right.T @ left.T, expected.T),
            (mx.addmm(onto, left, right), 2 * expected),
        ):
            assert np.abs(np.array(got) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@only_linux_cpu
def test_find_slots_finds_each_product_of_libmlx_and_refuses_other_files(tmp_path):
    path = next(m.path for m in blas._mappings() if m.path.endswith("/libmlx.so"))
    slots = blas.find_slots(Path(path), (*blas.PRODUCTS, "no_such_function"))
    assert all(slots[name] for name in blas.PRODUCTS)
    assert slots["no_such_function"] == []
    other = tmp_path / "not_elf.so"
    other.write_bytes(b"MZ" + bytes(100))
    with pytest.raises(OSError, match="not a 64-bit little-endian ELF file"):
        blas.find_slots(other, blas.PRODUCTS)


@only_linux_cpu
def test_a_slot_outside_of_the_library_is_refused():
    elsewhere = np.ones(4, np.uint64)
    with pytest.raises(OSError, match="not laid out as its file says"):
        blas._exchange(elsewhere.ctypes.data, 1, "/some/libmlx.so")
    assert (elsewhere == 1).all()


@pytest.mark.parametrize(("text", "expected"), [("max", None), ("1073741824", 2**30), ("", None)])
def test_memory_bytes_is_what_a_container_allows(monkeypatch, tmp_path, text, expected):
    limit = tmp_path / "memory.max"
    limit.write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (tmp_path / "missing",))
    whole = machine.memory_bytes()
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (limit, tmp_path / "missing"))
    assert machine.memory_bytes() == (expected or whole)


def test_with_cuda_memory_bytes_is_the_gpu_s_whatever_the_container_allows(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (limit,))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "NVIDIA", "total_memory": 80 * 2**30})
    assert machine.memory_bytes() == 80 * 2**30


def test_describe_is_one_line_with_the_version():
    line = backend.describe()
    assert line.startswith(f"MLX {mx.__version__} on ")
    assert "\n" not in line


def test_narrow_networks_have_a_second_stream_in_every_thread_and_wide_ones_none():
    def streams(width):
        with backend.beside(width):
            return mx.default_stream(mx.cpu)

    usual = mx.default_stream(mx.cpu)
    assert (streams(machine.WIDE - 1) != usual) == LINUX_CPU
    assert streams(machine.WIDE) == usual
    found = []

    def elsewhere():
        with backend.beside(64):
            found.append((mx.ones((2,)) + 1).tolist())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [[2, 2]]
