"""Claims about runs that start from a picture: pipeline, session, forks; on the toy networks of stubs.py."""

import mlx.core as mx
import numpy as np
import pytest
import stubs
from PIL import Image

from fluxnb import flow
from fluxnb.errors import FluxnbWarning, InputError
from fluxnb.source import read

PROMPT = "a cat and a sunflower"
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 48, 3), np.uint8))


@pytest.fixture(scope="module")
def session():
    return stubs.session()


@pytest.fixture(scope="module")
def run(session):
    return session.start(PROMPT, seed=5, num_steps=10, image=PICTURE, denoise=0.6).finish()


def same_bits(a, b):
    return np.array(a).tobytes() == np.array(b).tobytes()


@pytest.mark.parametrize(
    ("steps", "denoise", "skipped"),
    [(10, 1.0, 0), (10, 0.6, 4), (10, 0.9, 1), (10, 0.95, 0), (4, 0.2, 3), (28, 0.6, 11), (1, 0.01, 0)],
)
def test_the_steps_left_out_are_those_of_diffusers(steps, denoise, skipped):
    assert flow.skipped_steps(steps, denoise) == skipped


def test_a_run_from_a_picture_makes_the_steps_that_are_left(run):
    assert run.sigmas == flow.schedule(10)[4:] and run.sigmas[0] == pytest.approx(0.6)
    assert (run.num_steps, len(run.steps)) == (6, 6)
    assert (run.settings.image, run.settings.denoise) == (read(PICTURE).digest, 0.6)


def test_it_starts_from_the_picture_in_noise(session, run):
    pipe, source = session.pipeline, read(PICTURE)
    clean = pipe.encode(source, (8, 6), seed=5)
    expected = 0.4 * np.array(clean) + 0.6 * np.array(flow.noise(5, (8, 6), draw=1))
    assert np.abs(np.array(run.steps[0].latents) - expected).max() < 1e-6
    mean = pipe.encode(source, (8, 6))
    assert not same_bits(mean, clean)
    config = pipe.networks.vae.config
    encoded = pipe.networks.vae.encode(mx.array(source.pixels((8, 6))))
    assert same_bits(mean, (encoded - config.shift_factor) * config.scale_factor)


def test_the_size_is_that_of_the_picture_unless_another_is_asked_for(session, run):
    assert run.latent_size == (8, 6) and run.image().size == PICTURE.size
    assert session.start(PROMPT, image=PICTURE, denoise=0.5, latent_size=(4, 10)).latent_size == (4, 10)


def test_generate_image_draws_what_a_session_draws_and_states_the_size(session, run, tmp_path):
    PICTURE.save(tmp_path / "cat.png")
    image, log = session.pipeline.generate_image(
        PROMPT, seed=5, num_steps=10, image_path=tmp_path / "cat.png", denoise=0.6
    )
    assert image.tobytes() == run.image().tobytes()
    assert (log["width"], log["height"]) == (48, 64) and len(log["denoising"]["iter_time"]) == 6


def test_less_denoise_keeps_more_of_the_picture(session):
    def way(denoise):
        run = session.start(PROMPT, num_steps=10, image=PICTURE, denoise=denoise).finish()
        return mx.abs(run.latents - session.pipeline.encode(read(PICTURE), (8, 6))).mean().item()

    assert way(0.1) < 0.5 * way(0.8)


@pytest.mark.parametrize("at", [0, 2, 6])
def test_a_fork_that_changes_nothing_ends_in_the_same_bits(run, at):
    fork = run.fork(at)
    assert same_bits(fork.finish().latents, run.latents)
    assert fork.settings == run.settings and fork.source is run.source


def test_a_fork_with_another_seed_is_the_run_with_that_seed(session, run):
    other = session.start(PROMPT, seed=6, num_steps=10, image=PICTURE, denoise=0.6).finish()
    assert same_bits(run.fork(0, seed=6).finish().latents, other.latents)
    late = run.fork(2, seed=6)
    expected = flow.add_noise(flow.clean(run.steps[1]), flow.noise(6, (8, 6), draw=1), run.sigmas[2])
    assert same_bits(late.latents, expected)


def test_a_fork_with_other_steps_goes_on_from_the_same_noise_level(run):
    fork = run.fork(0, num_steps=3)
    assert fork.sigmas == flow.schedule(3, start=run.sigmas[0]) and len(fork.sigmas) == 4


def test_another_picture_than_that_of_the_settings_is_refused(session, run):
    pipe = session.pipeline
    assert pipe.draw(run.settings, read(PICTURE))[0].tobytes() == run.image().tobytes()
    for source in (None, read(PICTURE.transpose(Image.Transpose.ROTATE_180))):
        with pytest.raises(InputError, match=f"with SHA-256 {run.settings.image}"):
            pipe.draw(run.settings, source)
    with pytest.raises(InputError, match="starts from noise, but a picture is given"):
        pipe.draw(session.start(PROMPT).settings, read(PICTURE))


def test_a_denoise_that_leaves_no_step_says_what_to_try(session):
    with pytest.raises(InputError, match=r"denoise 1e-20 leaves none of 4 steps; try denoise=0.25"):
        session.start(PROMPT, image=PICTURE, denoise=1e-20)


@pytest.mark.parametrize("denoise", [1.0, 0.9])
def test_a_picture_of_which_nothing_is_left_warns(session, denoise):
    with pytest.warns(
        FluxnbWarning, match=f"picture has no effect: denoise {denoise:g} of 4 steps"
    ) as caught:
        run = session.start(PROMPT, image=PICTURE, denoise=denoise)
    assert caught[0].filename == __file__ and run.sigmas[0] == 1
    run.fork(0, seed=1)  # nothing new to warn of


def test_denoise_without_a_picture_warns_and_changes_nothing(session):
    with pytest.warns(FluxnbWarning, match=r"denoise 0.5 has no effect without a picture"):
        run = session.start(PROMPT, denoise=0.5)
    assert run.settings == session.start(PROMPT).settings
