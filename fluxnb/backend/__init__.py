"""MLX made ready for this machine, and the ops that the networks call; knows nothing of networks."""

from fluxnb.errors import BackendError

try:
    import mlx.core as mx
except ImportError as error:
    raise BackendError(
        f'MLX cannot start here ({error}): run pip install "fluxnb[cpu]", or "fluxnb[cuda]" if there is an NVIDIA GPU.'
    ) from error

from fluxnb.backend.stock import (
    attention,
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
    "describe",
    "gelu",
    "group_norm",
    "layer_norm",
    "quick_gelu",
    "rms_norm",
    "setup",
    "silu",
    "softmax",
    "upsample_conv",
]


def setup() -> None:
    """Makes MLX ready for this machine; the first call does the work, later ones return at once."""


def describe() -> str:
    """Says in one line what the products run on."""
    return f"MLX {mx.__version__} on {mx.default_device()}"
