"""The way of a run against closed forms: straight lines, circles, fields whose errors are known."""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb import flow, trajectory
from fluxnb.errors import InputError
from fluxnb.flow import Step

RNG = np.random.default_rng(0)
SHAPE = (1, 4, 4, 16)


def drawn(field, start, sigmas):
    """Euler's steps along a field, and the latents after them."""
    steps, latents = [], mx.array(start)
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        steps.append(Step(i, sigma, after, latents, field(latents, sigma), 0.0))
        latents = flow.euler(steps[-1])
    return steps, latents


def random(scale=1.0):
    return (scale * RNG.standard_normal(SHAPE)).astype(np.float32)


def rms(array):
    return np.sqrt(np.mean(np.asarray(array, np.float64) ** 2))


@pytest.fixture(scope="module")
def run():
    return stubs.session().start("a cat", seed=5).finish()


@pytest.fixture(scope="module")
def guided():
    run = stubs.session(guidance=True).start("a cat", cfg_weight=3.0, negative_text="fog").finish()
    return run.fork(2, prompt="a dog", guidance=2.0).finish()


def test_a_straight_line_does_not_turn():
    v = random()
    way = trajectory.trajectory(*drawn(lambda x, sigma: mx.array(v), random(), flow.schedule(5)))
    assert np.abs(way.angles).max() < 1e-5 and way.angles.shape == (4,)
    assert way.speeds == pytest.approx([rms(v)] * 5)
    assert way.explained == pytest.approx([1, 0], abs=1e-9)
    assert way.path[:, 1] == pytest.approx(0, abs=1e-6)
    assert np.ptp(way.clean, axis=0) == pytest.approx(0, abs=1e-6)


def test_angles_are_those_of_the_velocities():
    u, w = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    u[0, 0, 0, 0], w[0, 0, 0, 1] = 1, 1

    def field(x, sigma):
        turn = np.radians({1.0: 0, 0.75: 30, 0.5: 29.999, 0.25: -60}[sigma])
        return mx.array(np.float32(np.cos(turn)) * u + np.float32(np.sin(turn)) * w)

    way = trajectory.trajectory(*drawn(field, random(), flow.schedule(4)))
    assert way.angles == pytest.approx([30, 0.001, 89.999], abs=1e-4)


def test_angles_are_exact_at_both_ends():
    a = np.array([1.0, 0.0])
    assert trajectory.angle(a, np.array([1.0, 1e-9])) == pytest.approx(np.degrees(1e-9))
    assert trajectory.angle(a, -3 * a) == 180
    assert np.isnan(trajectory.angle(a, 0 * a))


def test_a_plane_keeps_the_distances_of_points_that_lie_in_one():
    flat = RNG.standard_normal((7, 2)) * [3, 1]
    axes = np.linalg.qr(RNG.standard_normal((50, 2)))[0]
    points, explained = trajectory.plane(flat @ axes.T + 5)
    assert explained.sum() == pytest.approx(1) and explained[0] > explained[1]
    apart = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (points * np.sqrt(50), flat)]
    assert apart[0] == pytest.approx(apart[1])


def test_explained_variance_is_that_of_a_known_cloud():
    cloud = np.zeros((6, 9))
    for axis, size in enumerate((3, 2, 1)):
        cloud[2 * axis, axis], cloud[2 * axis + 1, axis] = size, -size
    assert trajectory.plane(cloud)[1] == pytest.approx([9 / 14, 4 / 14])
    assert np.array_equal(trajectory.plane(np.ones((3, 4)))[1], [0, 0])
    assert trajectory.plane(np.array([[0.0], [2.0]]))[0].shape == (2, 2)


def test_a_run_lies_in_its_plane_from_left_to_right(run):
    way = run.trajectory()
    assert (way.path.shape, way.clean.shape, way.speeds.shape, way.angles.shape) == (
        (5, 2),
        (4, 2),
        (4,),
        (3,),
    )
    assert tuple(way.sigmas) == run.sigmas
    assert way.path[-1, 0] >= way.path[0, 0] and way.clean[-1, 1] >= way.clean[0, 1]
    assert way.path[-1] == pytest.approx(way.clean[-1])  # the last estimate is the picture
    far = rms(run.latents - run.steps[0].latents)
    assert 0 < np.linalg.norm(way.path[-1] - way.path[0]) <= far * (1 + 1e-6)
    with pytest.raises(ValueError, match="read-only"):
        way.path[0] = 0


@pytest.mark.parametrize("number", range(3))
def test_the_local_error_of_a_velocity_linear_in_sigma_is_exact(number):
    a, b = random(), random()
    steps, _ = drawn(lambda x, sigma: mx.array(a + sigma * b), random(), (1.0, 0.7, 0.4, 0.0))
    step = steps[number]
    s, t = step.sigma, step.sigma_next
    exact = a * (t - s) + b * (t**2 - s**2) / 2  # the integral of the velocity
    error = rms(exact - (t - s) * np.array(step.velocity))
    assert trajectory.local_error(step, lambda x, sigma: mx.array(a + sigma * b)) == pytest.approx(
        error, rel=1e-4
    )


def test_the_local_error_of_a_curved_field_falls_as_the_square_of_the_step():
    start = random()

    def field(x, sigma):
        return -x  # x(sigma) = x(1) exp(1 - sigma)

    for width in (0.1, 0.05, 0.025):
        (step,), after = drawn(field, start, (1.0, 1.0 - width))
        true = rms(start * np.exp(width) - np.array(after))
        assert trajectory.local_error(step, field) == pytest.approx(true, rel=width)


def test_the_local_errors_of_a_run_are_told_with_their_cost(run, guided):
    found = run.local_errors()
    assert found.evaluations == 4 and tuple(found.sigmas) == run.sigmas[:-1]
    step = run.steps[2]
    middle = step.latents - 0.125 * step.velocity
    change = run.session.pipeline.velocity(middle, 0.375, run.text) - step.velocity
    assert found.errors[2] == pytest.approx(0.25 * rms(change))
    assert guided.local_errors().evaluations == 8


def test_the_local_error_of_a_shared_step_is_that_of_its_maker(guided):
    assert guided.local_errors().errors[:2] == pytest.approx(guided.parent.local_errors().errors[:2])
    assert guided.local_errors().errors[2] != pytest.approx(guided.parent.local_errors().errors[2], rel=1e-3)


def test_the_lens_measures_what_cfg_and_guidance_do(guided):
    lens = guided.guidance_lens(delta=0.5)
    assert lens.evaluations == 16 and tuple(lens.sigmas) == guided.sigmas[:-1]
    pipeline, step = guided.session.pipeline, guided.steps[3]
    fog = guided.session.encode_text("fog")

    def velocity(text, guidance):
        return np.array(pipeline.velocity(step.latents, step.sigma, text, guidance), np.float64)

    pull = velocity(guided.text, 2.0) - velocity(fog, 2.0)
    slope = velocity(guided.text, 2.5) - velocity(guided.text, 1.5)
    assert lens.cfg[3] == pytest.approx(rms(pull)) and lens.guidance[3] == pytest.approx(rms(slope))
    cosine = np.sum(pull * slope) / np.linalg.norm(pull) / np.linalg.norm(slope)
    assert lens.cosine[3] == pytest.approx(cosine)


def test_the_lens_of_a_model_without_guidance_shows_cfg_against_the_empty_text(run):
    lens = run.guidance_lens()
    assert (lens.guidance, lens.cosine, lens.evaluations) == (None, None, 8)
    step, empty = run.steps[0], run.session.encode_text("")
    other = run.session.pipeline.velocity(step.latents, step.sigma, empty)
    assert lens.cfg[0] == pytest.approx(rms(step.velocity - other))


def test_directions_that_are_known_have_known_norms_and_cosines():
    steps, _ = drawn(lambda x, sigma: mx.zeros(SHAPE), random(), (1.0, 0.5, 0.0))
    a, b = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    a[..., :8], b[..., 8:] = 2, 3
    lens = trajectory.guidance_lens(steps, [(mx.array(a), mx.array(b)), (mx.array(a), mx.array(-a))], 0)
    assert lens.cfg == pytest.approx([np.sqrt(2)] * 2) and lens.guidance[0] == pytest.approx(3 * np.sqrt(0.5))
    assert lens.cosine == pytest.approx([0, -1], abs=1e-6)


def test_a_run_without_steps_has_no_way(run):
    new = run.session.start("a cat")
    for ask in (new.trajectory, new.local_errors, new.guidance_lens):
        with pytest.raises(InputError, match="no step yet"):
            ask()
    with pytest.raises(InputError, match="delta is 0"):
        run.guidance_lens(delta=0)
