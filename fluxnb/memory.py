"""Memory of a run: what it would take, told before it starts.

The estimates are those of a Linux CPU, where they come within a factor of 1.5 of what was measured on
networks of several widths; MLX allocates about ten results ahead there, and unfolds pictures for
convolutions. On a GPU they count only what has to be there at once, so that nothing is refused that fits.
"""

from __future__ import annotations

import mlx.core as mx

from fluxnb import backend
from fluxnb.checkpoints.networks import Networks, SwappedNetworks
from fluxnb.decoding import MANY_CELLS
from fluxnb.errors import InputError
from fluxnb.model import strips
from fluxnb.model.config import MMDiTConfig, VAEConfig

FLOAT = 4  # bytes
STEP_CPU, STEP_LEAST = 6.5, 2.0  # arrays as wide as the first layer of a single block, for every token
DECODE_CPU, DECODE_LEAST = 21.0, 2.0  # arrays as wide as the second level, for every pixel
STRIPS_ALL, STRIPS_ONE = 2.0, 12.0  # in strips: such arrays for every pixel, and for those of one strip


def step_bytes(config: MMDiTConfig, latent_size: tuple[int, int], text_length: int, on_cpu: bool) -> int:
    """Estimates what one pass of the transformer takes beside its weights.

    Args:
        config: of the transformer.
        latent_size: (H, W) in latent cells of 8 pixels.
        text_length: text tokens.
        on_cpu: on a Linux CPU; else what has to be there at once, in 16 bits.
    """
    tokens = latent_size[0] * latent_size[1] // 4 + text_length
    widest = tokens * (3 * config.width + config.mlp_width)
    return int(widest * (STEP_CPU * FLOAT if on_cpu else STEP_LEAST * FLOAT / 2))


def decode_bytes(config: VAEConfig, latent_size: tuple[int, int], on_cpu: bool) -> int:
    """Estimates what decoding latents of this size takes beside the weights; arguments as in `step_bytes`."""
    cells, side = latent_size[0] * latent_size[1], 2 ** (len(config.channels) - 1)
    width = config.channels[min(1, len(config.channels) - 1)]
    pixels = cells * side**2
    if not on_cpu:
        return int(pixels * width * DECODE_LEAST * FLOAT / 2)
    if cells <= MANY_CELLS:
        return int(pixels * width * DECODE_CPU * FLOAT)
    return int((pixels * STRIPS_ALL + strips.CELLS * side * STRIPS_ONE) * width * FLOAT)


def check(networks: Networks | SwappedNetworks, latent_size: tuple[int, int]) -> None:
    """Refuses a size that this machine has not the memory for.

    Args:
        networks: what is in use counts, but for weights that can be swapped.
        latent_size: (H, W) in latent cells of 8 pixels.

    Raises:
        InputError: it says what the size would take, what there is and which size would do.
    """
    used = 0 if isinstance(networks, SwappedNetworks) else mx.get_active_memory()
    there = backend.memory_bytes()
    needed = _needed(networks, latent_size)
    if used + needed <= there:
        return
    fitting = latent_size
    while fitting != (2, 2) and used + _needed(networks, fitting) > there:
        fitting = tuple(max(2, int(side * 0.95) // 2 * 2) for side in fitting)
    height, width = latent_size
    raise InputError(
        f"{8 * width} x {8 * height} pixels would take about {_gb(needed)} beside the {_gb(used)} in use, "
        f"and this machine has {_gb(there)}; try {8 * fitting[1]} x {8 * fitting[0]} pixels, "
        f"latent_size={fitting}, or quantize=4 or low_memory_mode=True"
    )


def _needed(networks: Networks | SwappedNetworks, latent_size: tuple[int, int]) -> int:
    """Estimates what a run takes beside the weights."""
    configs, on_cpu = networks.configs, backend.on_linux_cpu()
    step = step_bytes(configs.mmdit, latent_size, networks.entry.text_length, on_cpu)
    return max(step, decode_bytes(configs.vae, latent_size, on_cpu))


def _gb(count: float) -> str:
    """Writes bytes for people."""
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"
