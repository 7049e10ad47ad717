"""MLX made ready for this machine, and the ops that the networks call; knows nothing of networks.

    stock        the ops as MLX has them: for Metal and CUDA
    linux_cpu    the same functions in arithmetic that MLX's Linux CPU build does fast
    blas         a fast BLAS under MLX's products on Linux
    machine      setup(), describe(), and beside(), for two things at a time

Which ops are called `backend.gelu` and so on is settled when this module is imported, from the system and
MLX's default device, so that a call costs nothing more. Both forms are right on every device.
"""

from fluxnb.errors import BackendError

try:
    import mlx.core  # noqa: F401
except ImportError as error:
    raise BackendError(
        f'MLX cannot start here ({error}): run pip install "fluxnb[cpu]", '
        'or pip install "fluxnb[cuda]" on a machine with an NVIDIA GPU.'
    ) from error

from fluxnb.backend.machine import beside, describe, fit_threads, memory_bytes, on_linux_cpu, setup

if on_linux_cpu():
    from fluxnb.backend.linux_cpu import (
        attention,
        conv,
        gelu,
        group_norm,
        layer_norm,
        quick_gelu,
        rms_norm,
        silu,
        softmax,
        upsample_conv,
    )
else:
    from fluxnb.backend.stock import (
        attention,
        conv,
        gelu,
        group_norm,
        layer_norm,
        quick_gelu,
        rms_norm,
        silu,
        softmax,
        upsample_conv,
    )

__all__ = [
    "attention",
    "beside",
    "conv",
    "describe",
    "fit_threads",
    "gelu",
    "group_norm",
    "layer_norm",
    "memory_bytes",
    "on_linux_cpu",
    "quick_gelu",
    "rms_norm",
    "setup",
    "silu",
    "softmax",
    "upsample_conv",
]
