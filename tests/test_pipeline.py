"""The four networks together: text, velocity, picture, `generate_image`; on the toy networks of stubs.py."""

from contextlib import nullcontext
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import stubs
from PIL import Image

from fluxnb import backend, flow
from fluxnb.errors import InputError, PromptWarning, UnknownModelError
from fluxnb.model.layers import attention
from fluxnb.pipeline import FluxPipeline
from fluxnb.session import FluxSession
from fluxnb.settings import fill_in

PROMPT = "a cat and a sunflower"
DEV = replace(stubs.ENTRY, shift=None, guidance=3.5)


@pytest.fixture(scope="module")
def pipe():
    return stubs.pipeline()


@pytest.fixture(scope="module")
def texts(pipe):
    return pipe.encode_text(PROMPT), pipe.encode_text("fog")


@pytest.fixture(scope="module")
def latents():
    return flow.noise(0, (8, 8))


def test_generate_image_draws_what_a_session_draws(pipe):
    arguments = {"seed": 3, "num_steps": 3, "cfg_weight": 2.0, "negative_text": "fog", "latent_size": (8, 12)}
    image, _ = pipe.generate_image(PROMPT, **arguments)
    run = FluxSession(pipe).start(PROMPT, **arguments).finish()
    assert isinstance(image, Image.Image) and image.size == (96, 64)
    assert image.tobytes() == run.image().tobytes()


def test_the_log_has_the_keys_that_diffusionkit_users_read(pipe):
    _, log = pipe.generate_image(PROMPT, num_steps=3)
    phases = ("text_encoding", "denoising", "decoding")
    assert set(log) == {*phases, "peak_memory", "total_time", "seed", "width", "height", "recipe"}
    for phase in phases:
        assert set(log[phase]["pre"]) == set(log[phase]["post"]) == {"peak_memory", "active_memory"}
        assert log[phase]["time"] >= 0
    assert len(log["denoising"]["iter_time"]) == 3
    assert log["total_time"] >= log["denoising"]["time"] >= sum(log["denoising"]["iter_time"]) - 0.003
    assert log["peak_memory"] == max(log[phase]["post"]["peak_memory"] for phase in phases)
    assert log["seed"] == 0
    assert (log["width"], log["height"]) == (64, 64)


def test_a_seed_that_was_drawn_is_in_the_log(pipe):
    image, log = pipe.generate_image(PROMPT, num_steps=1, seed=None)
    again, _ = pipe.generate_image(PROMPT, num_steps=1, seed=log["seed"])
    assert image.tobytes() == again.tobytes()


def test_arguments_stand_where_diffusionkit_has_them(pipe):
    by_place, _ = pipe.generate_image(PROMPT, 2, 2.0, "fog", (4, 4), 7, False, None, 1.0)
    by_name, _ = pipe.generate_image(
        text=PROMPT,
        num_steps=2,
        cfg_weight=2.0,
        negative_text="fog",
        latent_size=(4, 4),
        seed=7,
        verbose=False,
    )
    assert by_place.tobytes() == by_name.tobytes()


def test_progress_is_shown_only_when_asked_for(pipe, capfd):
    pipe.generate_image(PROMPT, num_steps=2)
    assert capfd.readouterr() == ("", "")
    pipe.generate_image(PROMPT, num_steps=2, verbose=True)
    assert "2/2" in capfd.readouterr().err


def test_an_interrupted_generate_image_leaves_the_pipeline_usable(pipe, monkeypatch):
    expected, _ = pipe.generate_image(PROMPT)

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipe, "velocity", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipe.generate_image(PROMPT)
    monkeypatch.undo()
    again, _ = pipe.generate_image(PROMPT)
    assert again.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"latent_size": (9, 8)}, r"latent_size \(9, 8\) is odd.*try \(10, 8\), which is 80 x 64 pixels"),
        ({"cfg_weight": float("nan")}, "cfg_weight is nan"),
        ({"shift": -1}, "shift is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"text": None}, "the prompt is None"),
        ({"image_path": "cat.png"}, "there is no picture cat.png"),
        ({"denoise": 0}, "denoise is 0; give a finite number above 0 and at most 1"),
    ],
)
def test_bad_input_says_what_was_wrong(pipe, arguments, message):
    with pytest.raises(InputError, match=message):
        pipe.generate_image(**{"text": PROMPT, **arguments})


def test_prompts_that_are_not_seen_whole_warn_where_the_user_called(pipe):
    for prompt in ("", "w " * 20):
        with pytest.warns(PromptWarning) as caught:
            pipe.generate_image(prompt, num_steps=1)
        assert caught[0].filename == __file__


def test_cfg_leads_away_from_the_negative_text(pipe, texts, latents):
    positive, negative = texts
    there, away = (np.array(pipe.velocity(latents, 0.7, text)) for text in (positive, negative))
    both = np.array(pipe.velocity(latents, 0.7, positive, negative=negative, cfg_weight=3.0))
    assert np.abs(both - (away + 3 * (there - away))).max() < 1e-5
    assert np.abs(both - there).max() > 1e-2


def test_two_passes_at_a_time_give_the_bits_of_two_in_turn(pipe, texts, latents, monkeypatch):
    positive, negative = texts
    arguments = {"negative": negative, "cfg_weight": 3.0}
    together = [pipe.velocity(latents, 0.7, positive, **arguments) for _ in range(3)]
    monkeypatch.setattr(backend, "beside", lambda width: nullcontext())
    in_turn = pipe.velocity(latents, 0.7, positive, **arguments)
    assert all(mx.array_equal(one, in_turn) for one in together)


@pytest.mark.parametrize(("weight", "passes"), [(0.0, 1), (1.0, 1), (0.5, 2), (3.0, 2)])
def test_only_a_cfg_weight_that_counts_costs_a_second_pass(pipe, weight, passes, monkeypatch):
    calls = []
    mmdit = pipe.networks.mmdit
    counting = replace(
        pipe.networks,
        mmdit=type(
            "Counting",
            (),
            {"__call__": lambda self, *a, **k: calls.append(1) or mmdit(*a, **k), "config": mmdit.config},
        )(),
    )
    monkeypatch.setattr(pipe, "networks", counting)
    pipe.generate_image(PROMPT, num_steps=2, cfg_weight=weight)
    assert len(calls) == 2 * passes


def test_attend_reaches_every_block_of_the_first_pass_only(pipe, texts, latents):
    layers = []

    def attend(q, k, v, layer):
        layers.append((layer, q.shape))
        return attention(q, k, v, layer)

    pipe.velocity(latents, 0.7, texts[0], negative=texts[1], cfg_weight=3.0, attend=attend)
    assert layers == [(i, (1, 2, stubs.LENGTH + 16, 16)) for i in range(4)]
    assert pipe.blocks == (2, 2)


def test_velocity_depends_on_sigma_text_and_guidance(texts, latents):
    pipe = stubs.pipeline(guidance=True)
    positive, negative = texts
    velocities = [
        np.array(pipe.velocity(latents, sigma, text, guidance))
        for sigma, text, guidance in [
            (0.7, positive, 3.5),
            (0.2, positive, 3.5),
            (0.7, negative, 3.5),
            (0.7, positive, 1.0),
        ]
    ]
    assert all(np.abs(other - velocities[0]).max() > 1e-3 for other in velocities[1:])


def test_decode_undoes_the_scale_and_shift_of_the_latents(pipe, latents):
    config, vae = pipe.networks.vae.config, pipe.networks.vae
    pixels = np.array(vae.decode(latents / config.scale_factor + config.shift_factor))[0]
    expected = np.rint(255 * np.clip(pixels / 2 + 0.5, 0, 1))
    assert np.array_equal(np.array(pipe.decode(latents)), expected)


def test_an_encoded_text_knows_its_words_and_its_end(pipe):
    text = pipe.encode_text(PROMPT)
    assert text.txt.shape == (1, stubs.LENGTH, 16) and text.vec.shape == (1, 16)
    assert text.words[-1].text == "sunflower" and text.words[-1].tokens == (4, 5)
    assert text.end == 6 and text.notes == ()
    with pytest.raises(InputError, match="the text is 3"):
        pipe.encode_text(3)


def test_a_shift_of_the_run_goes_before_that_of_the_pipeline_and_that_before_the_models():
    own = stubs.pipeline(entry=replace(stubs.ENTRY, shift=2.0))
    other = stubs.pipeline(entry=replace(stubs.ENTRY, shift=2.0), shift=5.0)
    assert FluxSession(own).start(PROMPT).shift == 2.0
    assert FluxSession(other).start(PROMPT).shift == 5.0
    assert FluxSession(other).start(PROMPT, shift=1.5).shift == 1.5
    with pytest.raises(InputError, match="shift is 0"):
        stubs.pipeline(shift=0)


def test_a_model_without_a_shift_takes_that_of_the_size():
    assert fill_in(DEV, PROMPT, latent_size=(128, 128)).shift == pytest.approx(3.158, abs=5e-4)
    assert fill_in(DEV, PROMPT, latent_size=(32, 32)).shift == pytest.approx(1.649, abs=5e-4)


def test_guidance_is_the_models_own_unless_given():
    assert fill_in(DEV, PROMPT).guidance == 3.5
    assert fill_in(DEV, PROMPT, guidance=0).guidance == 0


def test_integers_and_numbers_of_numpy_are_welcome(pipe):
    settings = fill_in(
        pipe.entry,
        PROMPT,
        seed=np.int64(3),
        num_steps=np.int32(2),
        shift=np.float32(2),
        latent_size=np.array([8, 12]),
    )
    assert (settings.seed, settings.num_steps, settings.shift, settings.latent_size) == (3, 2, 2.0, (8, 12))
    assert type(settings.seed) is int and type(settings.shift) is float


def test_an_unknown_model_is_answered_with_the_names_that_exist():
    with pytest.raises(UnknownModelError, match="fluxnb/demo"):
        FluxPipeline("fluxnb/dmo")
    with pytest.raises(UnknownModelError, match="fluxnb/demo"):
        FluxSession.from_pretrained("fluxnb/dmo")


def test_a_bad_shift_is_said_before_anything_is_loaded():
    with pytest.raises(InputError, match="shift is nan"):
        FluxPipeline("fluxnb/dmo", shift=float("nan"))
