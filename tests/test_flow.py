"""The mathematics of the flow, against numbers that torch and diffusers give."""

import mlx.core as mx
import numpy as np
import pytest

from fluxnb import flow
from fluxnb.errors import InputError

# torch.randn(1, 16, 2, 4, generator=torch.Generator().manual_seed(seed)), torch 2.13 on a CPU: the first
# channel row by row, and the very last number
TORCH_NOISE = {
    0: (-1.12584, -1.15236, -0.2505786, -0.4338788, 0.8487104, 0.6920092, -0.316013, -2.115219, 1.3872952),
    -1: (-2.664298, -1.091049, 0.4514474, 0.2283607, 1.8986179, 1.5642089, -1.2553997, 0.7936442, 0.8528697),
    2**40 + 3: (-0.076644, 0.359882, -0.782017, 0.071528, 0.664839, -0.28678, 1.620551, -1.596708, 0.1854096),
}  # fmt: skip


def step(seed=0, sigma=0.75, sigma_next=0.5, size=(4, 6)):
    latents, velocity = flow.noise(seed, size), flow.noise(seed + 1, size)
    return flow.Step(0, sigma, sigma_next, latents, velocity, 0.0)


@pytest.mark.parametrize("seed", TORCH_NOISE)
def test_noise_is_that_of_torch(seed):
    noise = np.array(flow.noise(seed, (2, 4)))
    *channel, last = TORCH_NOISE[seed]
    assert noise.shape == (1, 2, 4, 16) and noise.dtype == np.float32
    assert np.abs(noise[0, :, :, 0].ravel() - channel).max() < 1e-6
    assert abs(noise[0, -1, -1, -1] - last) < 1e-6


def test_noise_knows_the_low_32_bits_of_a_seed():
    assert mx.array_equal(flow.noise(-1, (2, 2)), flow.noise(2**32 - 1, (2, 2)))
    assert mx.array_equal(flow.noise(7, (2, 2)), flow.noise(2**63 + 7, (2, 2)))
    assert not mx.array_equal(flow.noise(7, (2, 2)), flow.noise(8, (2, 2)))


@pytest.mark.parametrize("seed", [1.0, "7", True, None, 2**64, -(2**63) - 1])
def test_noise_rejects_what_torch_takes_for_no_seed(seed):
    with pytest.raises(InputError, match="seed is"):
        flow.noise(seed, (2, 2))


def test_schedule_is_that_of_diffusers():
    # FlowMatchEulerDiscreteScheduler.set_timesteps(sigmas=np.linspace(1, 1/5, 5)), diffusers 0.42.1
    shifted = [1.0, 0.9230769872665405, 0.8181818127632141, 0.6666666865348816, 0.4285714626312256, 0.0]
    dynamic = [1.0, 0.882497251033783, 0.7379740476608276, 0.5558990240097046, 0.31945133209228516, 0.0]
    assert flow.schedule(5) == pytest.approx((1, 0.8, 0.6, 0.4, 0.2, 0), abs=1e-12)
    assert flow.schedule(5, 3.0) == pytest.approx(shifted, abs=1e-7)
    assert flow.schedule(5, flow.resolution_shift((64, 64))) == pytest.approx(dynamic, abs=1e-7)


def test_schedule_begins_and_ends_exactly():
    for shift in (0.3, 1.0, 3.158):
        sigmas = flow.schedule(7, shift, start=0.7)
        assert (sigmas[0], sigmas[-1], len(sigmas)) == (0.7, 0.0, 8)
        assert sorted(sigmas, reverse=True) == list(sigmas)


def test_schedule_continued_from_its_middle_is_its_rest():
    whole = flow.schedule(10, 3.0)
    assert flow.schedule(6, 3.0, start=whole[4]) == pytest.approx(whole[4:], abs=1e-12)


def test_resolution_shift_is_that_of_dev():
    sizes = {(32, 32): 1.649, (64, 64): 1.878, (128, 128): 3.158}
    assert all(flow.resolution_shift(size) == pytest.approx(s, abs=5e-4) for size, s in sizes.items())


@pytest.mark.parametrize("shift", [0.2, 1.0, 7.0])
def test_unshift_undoes_shift(shift):
    sigmas = np.linspace(0, 1, 11)
    there = flow.shift_sigma(sigmas, shift)
    assert there[0] == 0 and there[-1] == pytest.approx(1)
    assert flow.unshift_sigma(there, shift) == pytest.approx(sigmas, abs=1e-12)


@pytest.mark.parametrize(
    ("steps", "shift", "message"),
    [
        (0, 1.0, "num_steps is 0; give an integer in 1..1000"),
        (-3, 1.0, "num_steps is -3"),
        (2.0, 1.0, "num_steps is 2.0; give an integer"),
        (True, 1.0, "num_steps is True"),
        (4, 0.0, "shift is 0.0; give a finite number above 0"),
        (4, -1, "shift is -1"),
        (4, float("nan"), "shift is nan"),
        (4, float("inf"), "shift is inf"),
        (4, "3", "shift is '3'"),
    ],
)
def test_schedule_says_what_was_wrong(steps, shift, message):
    with pytest.raises(InputError, match=message):
        flow.schedule(steps, shift)


def test_unpack_undoes_pack():
    latents = flow.noise(0, (4, 6))
    tokens = flow.pack(latents)
    assert tokens.shape == (1, 6, 64)
    assert mx.array_equal(flow.unpack(tokens, (4, 6)), latents)


def test_pack_orders_rows_and_channels_as_flux_does():
    latents = flow.noise(0, (4, 6))
    tokens = flow.pack(latents)
    # token 4 is row 1, column 1; channel c of cell (ph, pw) stands at 4 c + 2 ph + pw
    assert tokens[0, 4, 4 * 5 + 2 * 1 + 0].item() == latents[0, 2 * 1 + 1, 2 * 1 + 0, 5].item()


def test_image_ids_count_rows_and_columns():
    assert flow.image_ids((4, 6)).tolist() == [[0, r, c] for r in range(2) for c in range(3)]


def test_euler_moves_along_the_line():
    one = step()
    expected = np.array(one.latents) + (0.5 - 0.75) * np.array(one.velocity)
    assert np.abs(np.array(flow.euler(one)) - expected).max() < 1e-6


def test_last_euler_step_ends_in_the_clean_estimate_bit_for_bit():
    last = step(sigma=0.3, sigma_next=0.0)
    assert mx.array_equal(flow.euler(last), flow.clean(last))


def test_clean_undoes_add_noise_given_the_true_velocity():
    picture, noise = flow.noise(5, (4, 4)), flow.noise(6, (4, 4))
    noisy = flow.add_noise(picture, noise, 0.4)
    one = flow.Step(0, 0.4, 0.2, noisy, noise - picture, 0.0)
    assert mx.abs(flow.clean(one) - picture).max().item() < 1e-6


def test_step_is_frozen():
    with pytest.raises(AttributeError):
        step().sigma = 1.0
