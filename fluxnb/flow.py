"""Rectified flow as pure functions: schedule, noise, Euler's step, packing; knows nothing of networks.

A path from noise (sigma 1) to a picture (sigma 0) is a straight line; the network estimates its direction:

    latents = (1 - sigma) * clean + sigma * noise            velocity = noise - clean

(Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206, section 2). Latents are float32,
(B, H, W, C), channels last, H and W in latent cells of 8 pixels; no size is written here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import numpy as np

from fluxnb import checks
from fluxnb.brief import Brief
from fluxnb.errors import InputError

SEEDS = (-(2**63), 2**64 - 1)
"""Lowest and highest seed that torch takes, hence the seeds there are."""

MAX_STEPS = 1000
"""Most steps of a run: each keeps its record, and no model gains from more."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Step(Brief):
    """One Euler step as it happened; what else there is to know of it is derived by the functions below.

    Args:
        index: Its number in the run, from 0.
        sigma: Noise level before it, 0..1.
        sigma_next: Noise level after it, 0..1.
        latents: Before it, float32 (1, H, W, C), evaluated. `numpy.array` copies it; `numpy.asarray` shares
            its memory, so write to no such array.
        velocity: At `latents` and `sigma`, guidance included; the same shape.
        seconds: Wall time that it took.
    """

    index: int
    sigma: float
    sigma_next: float
    latents: mx.array
    velocity: mx.array
    seconds: float


def clean(step: Step) -> mx.array:
    """Returns the clean picture (x0) that this step's straight line ends in, as latents like the step's."""
    return step.latents - step.sigma * step.velocity


def euler(step: Step) -> mx.array:
    """Returns the latents after the step: before it + (sigma_next - sigma) * velocity."""
    return step.latents + (step.sigma_next - step.sigma) * step.velocity


def add_noise(clean: mx.array, noise: mx.array, sigma: float) -> mx.array:
    """Returns the point of the line from `clean` to `noise` at `sigma`, all of one shape."""
    return (1 - sigma) * clean + sigma * noise


def shift_sigma(sigma: np.ndarray | float, shift: float) -> np.ndarray | float:
    """Moves noise levels towards noise (shift > 1) or picture (shift < 1); 0 and 1 stay.

    Esser et al. 2024, section 5.3.2, where `shift` is sqrt(m / n).
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def unshift_sigma(sigma: np.ndarray | float, shift: float) -> np.ndarray | float:
    """Undoes `shift_sigma`."""
    return sigma / (shift - (shift - 1) * sigma)


def schedule(num_steps: int, shift: float = 1.0, start: float = 1.0) -> tuple[float, ...]:
    """Returns the noise levels of a run: from `start` down to 0, evenly spaced before the shift.

    Args:
        num_steps: Steps, 1 to `MAX_STEPS`.
        shift: Static shift, above 0; 1 changes nothing.
        start: First noise level, 1 for a run from pure noise.

    Returns:
        num_steps + 1 numbers, falling; the last is 0.

    Raises:
        InputError: if `num_steps` or `shift` is none that a schedule can be made of.
    """
    num_steps = checks.whole("num_steps", num_steps, low=1, high=MAX_STEPS)
    shift = checks.number("shift", shift, above=0)
    even = np.linspace(unshift_sigma(start, shift), 0, num_steps + 1)
    inner = shift_sigma(even[1:-1], shift)
    return (float(start), *inner.tolist(), 0.0)


def own_schedule(sigmas: Iterable[float], start: float | None = None) -> tuple[float, ...]:
    """Returns noise levels of the caller's own, checked.

    Args:
        sigmas: 2 to `MAX_STEPS` + 1 numbers in 0..1, each smaller than the one before; the last is 0.
        start: What the first must be, to 1e-6; None for anything.

    Raises:
        InputError: if they are none that a run can follow.
    """
    try:
        levels = tuple(checks.number("a noise level in sigmas", sigma, low=0) for sigma in sigmas)
    except TypeError:
        raise InputError(f"sigmas is {sigmas!r}; give noise levels, e.g. (1, 0.8, 0.4, 0)") from None
    if not 2 <= len(levels) <= MAX_STEPS + 1:
        raise InputError(
            f"sigmas has {len(levels)} noise levels; give 2..{MAX_STEPS + 1}, one more than steps"
        )
    for i, (before, after) in enumerate(pairwise(levels)):
        if after >= before:
            raise InputError(
                f"sigmas[{i + 1}] is {after:g} after {before:g}; give levels that fall all the way"
            )
    if levels[0] > 1 or levels[-1] != 0:
        raise InputError(
            f"sigmas leads from {levels[0]:g} to {levels[-1]:g}; begin at 1 or below and end at 0"
        )
    if start is not None and abs(levels[0] - start) > 1e-6:
        raise InputError(
            f"sigmas begins at {levels[0]:g}, but the noise level reached is {start:g}; begin there"
        )
    return levels if start is None else (start, *levels[1:])


def skipped_steps(num_steps: int, denoise: float) -> int:
    """Returns how many steps of a schedule a run from a picture leaves out at its start.

    diffusers' rule for `strength` (`FluxImg2ImgPipeline.get_timesteps`), rounding of floats included.

    Args:
        num_steps: Steps of the schedule.
        denoise: How much of the picture to draw anew, above 0 (next to nothing) and at most 1 (everything).
    """
    return int(max(num_steps - min(num_steps * denoise, num_steps), 0))


def resolution_shift(
    latent_size: tuple[int, int],
    base_tokens: int = 256,
    base_shift: float = 0.5,
    max_tokens: int = 4096,
    max_shift: float = 1.15,
) -> float:
    """Returns the shift that suits a size: exp(mu), mu linear in the number of image tokens.

    With the defaults, which are FLUX.1-dev's (diffusers, `calculate_shift`), it is 1.649 at 256 pixels a
    side, 1.878 at 512 and 3.158 at 1024.

    Args:
        latent_size: (H, W) in latent cells.
        base_tokens: Image tokens at which mu is `base_shift`.
        base_shift: See `base_tokens`.
        max_tokens: Image tokens at which mu is `max_shift`.
        max_shift: See `max_tokens`.
    """
    tokens = (latent_size[0] // 2) * (latent_size[1] // 2)
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + (tokens - base_tokens) * slope)


def noise(seed: int, latent_size: tuple[int, int], channels: int = 16, draw: int = 0) -> mx.array:
    """Returns the noise that diffusers and BFL's code start from for a seed on a CPU, to 1e-6, without torch.

    Torch draws it by Box and Muller's transform in blocks of 16 from a Mersenne Twister, which takes the low
    32 bits of the seed: seeds that differ by 2**32 give the same noise, and -1 the same as 2**32 - 1.

    Args:
        seed: Within `SEEDS`.
        latent_size: (H, W) in latent cells, even.
        channels: Latent channels, a multiple of 4.
        draw: Which of the arrays that torch's generator gives in turn, all of this size.

    Returns:
        (1, H, W, channels), float32, evaluated.

    Raises:
        InputError: if `seed` or `latent_size` is none.
    """
    seed = checks.whole("seed", seed, *SEEDS)
    height, width = checks.latent_size(latent_size)
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    words = twister.randint(0, 2**32, size=(draw + 1, channels * height * width), dtype=np.uint32)[draw]
    uniform = (words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)  # 24 bits, in [0, 1)
    u1, u2 = uniform.reshape(-1, 2, 8).swapaxes(0, 1)  # each (n / 16, 8)
    radius = np.sqrt(np.float32(-2) * np.log1p(-u1))
    angle = np.float32(2 * np.pi) * u2
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)  # (n / 16, 2, 8)
    channels_first = normal.reshape(1, channels, height, width)  # torch's order
    return mx.array(np.ascontiguousarray(channels_first.transpose(0, 2, 3, 1)))


def pack(latents: mx.array) -> mx.array:
    """Gathers 2 x 2 cells into an image token: (B, H, W, C) -> (B, h*w, 4C), by rows, channel outermost."""
    batch, height, width, channels = latents.shape
    cells = latents.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return cells.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height * width // 4, 4 * channels)


def unpack(tokens: mx.array, latent_size: tuple[int, int]) -> mx.array:
    """Undoes `pack`: (B, h*w, 4C) -> (B, H, W, C)."""
    height, width = latent_size
    batch, _, depth = tokens.shape
    cells = tokens.reshape(batch, height // 2, width // 2, depth // 4, 2, 2)
    return cells.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height, width, depth // 4)


def image_ids(latent_size: tuple[int, int]) -> mx.array:
    """Returns where each image token stands, as RoPE reads it: (h*w, 3), rows (0, row, column)."""
    h, w = latent_size[0] // 2, latent_size[1] // 2
    rows, columns = np.divmod(np.arange(h * w), w)
    return mx.array(np.stack([np.zeros_like(rows), rows, columns], axis=1).astype(np.float32))
