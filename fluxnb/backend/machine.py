"""What MLX needs to run well on this machine, done once; knows nothing of ops and networks."""

import functools
import os
import sys
import threading
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from fluxnb.backend import blas
from fluxnb.errors import FluxnbWarning

GIB = 2**30
WIDE = 1024  # from this hidden width on, products are large enough to share among threads
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
FAST_GFLOPS = 15.0  # the reference BLAS gives 3 to 7 of them on one core, any tuned one more than this


@dataclass(frozen=True, slots=True)
class Machine:
    """What `setup` made of this machine: the BLAS under MLX and its GFLOP/s; None and 0 on a Mac or a GPU."""

    blas: blas.Blas | None
    gflops: float


_lock = threading.Lock()


def on_linux_cpu() -> bool:
    """Says whether MLX computes on a Linux CPU, where its wheels are slow."""
    return sys.platform == "linux" and mx.default_device().type == mx.cpu


def setup() -> None:
    """Makes MLX ready for this machine; the first call does the work, later ones return at once.

    On a Linux CPU: a fast BLAS on one thread (see `fit_threads`); no `mx.compile`, which takes a second per
    kernel and needs g++; a larger cache of freed memory, since with MLX's 32 MiB every large array is paged
    in anew. On a Mac: a bound on that cache, which has none. With CUDA: nothing. Any thread may call it.

    FLUXNB_BLAS=none keeps MLX's own BLAS, FLUXNB_BLAS=/path/to/lib.so names another.

    Warns:
        FluxnbWarning: products stay slow, and why.
    """
    _machine()


def fit_threads(width: int) -> None:
    """Gives the products of a network of this hidden width one thread below 1024, else all of this process.

    Threads bring little to narrow networks, and where another process keeps a core busy two are up to 20
    times slower than one, since OpenBLAS's threads wait by spinning. Where OPENBLAS_NUM_THREADS is set, that
    number stays.
    """
    machine = _machine()
    if machine.blas is not None and "OPENBLAS_NUM_THREADS" not in os.environ:
        blas.set_threads(machine.blas, machine.blas.threads if width >= WIDE else 1)


def beside(width: int) -> AbstractContextManager:
    """Gives a context for work that may be done at the same time as what stands outside of it.

    On a Linux CPU that is another stream, which has a core of its own if one is free; but not for networks of
    a hidden width from 1024 on, whose products already take all cores. The results are the same bits.
    """
    return mx.stream(_second_stream()) if on_linux_cpu() and width < WIDE else nullcontext()


@functools.cache
def _second_stream() -> mx.ThreadLocalStream:
    """Makes a stream, in each thread that uses it one."""
    return mx.new_thread_local_stream(mx.cpu)


def describe() -> str:
    """Says in one line what computes: "MLX 0.32.4 on CPU, OpenBLAS 0.3.34 (scipy-openblas32), 98 GFLOP/s"."""
    machine = _machine()
    if machine.blas is not None:
        return f"MLX {mx.__version__} on CPU, {machine.blas.name}, {machine.gflops:.0f} GFLOP/s"
    if mx.default_device().type == mx.cpu:
        return f"MLX {mx.__version__} on CPU"
    return f"MLX {mx.__version__} on GPU ({'Metal' if sys.platform == 'darwin' else 'CUDA'})"


def measure_gflops(size: int = 256, repeats: int = 5) -> float:
    """Returns the speed in GFLOP/s of MLX's float32 product on the CPU, the best of some repeats."""
    with mx.stream(mx.cpu):
        square = mx.ones((size, size))
        mx.eval(square @ square)
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            mx.eval(square @ square)
            seconds.append(time.perf_counter() - begin)
    return 2e-9 * size**3 / min(seconds)


def _machine() -> Machine:
    """Returns what was made of this machine; the lock lets only one thread make it."""
    with _lock:
        return _prepare()


@functools.cache
def _prepare() -> Machine:
    """Does the work of `setup`."""
    if sys.platform == "darwin" or on_linux_cpu():
        mx.set_cache_limit(min(2 * GIB, memory_bytes() // 8))
    if not on_linux_cpu():
        return Machine(None, 0.0)
    mx.disable_compile()
    installed = blas.install()
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        blas.set_threads(installed, 1)
    machine = Machine(installed, measure_gflops())
    asked = os.environ.get("FLUXNB_BLAS", "")
    if installed.path is None and asked != "none" and (asked or machine.gflops < FAST_GFLOPS):
        reason = installed.trouble or 'no OpenBLAS was found; run pip install "fluxnb[cpu]"'
        warnings.warn(
            f"MLX keeps its own slow BLAS ({machine.gflops:.0f} GFLOP/s): {reason}",
            FluxnbWarning,
            stacklevel=4,
        )
    return machine


def memory_bytes() -> int:
    """Returns how much memory arrays may take: with CUDA the GPU's, else the machine's or its container's."""
    if sys.platform == "linux" and mx.default_device().type == mx.gpu:
        on_device = mx.device_info().get("total_memory")
        if on_device is not None:
            return on_device
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in CGROUP_LIMITS:
        if limit.exists() and (text := limit.read_text().strip()).isdigit():  # "max" where there is none
            sizes.append(int(text))
    return min(sizes)
