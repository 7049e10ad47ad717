"""What users of DiffusionKit write, call by call; on the toy networks of stubs.py."""

import numpy as np
import pytest
import stubs
from PIL import Image

from fluxnb.errors import InputError
from fluxnb.source import read

PROMPT = "a photo of a cat"
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 48, 3), np.uint8))


@pytest.fixture(scope="module")
def pipe():
    return stubs.pipeline()


def to_image(pixels):
    return np.rint(255 * np.array(pixels)[0]).astype(np.uint8)


def test_the_three_calls_draw_what_generate_image_draws(pipe):
    image, log = pipe.generate_image(PROMPT, cfg_weight=0.0, num_steps=3, latent_size=(8, 12), seed=4)
    conditioning, pooled = pipe.encode_text(PROMPT, 0.0, "")
    assert conditioning.shape == (1, stubs.LENGTH, 16) and pooled.shape == (1, 16)
    latents, seconds = pipe.denoise_latents(conditioning, pooled, 3, 0.0, (8, 12), 4, None, 1.0)
    assert latents.shape == (1, 8, 12, 16) and len(seconds) == len(log["denoising"]["iter_time"]) == 3
    pixels = pipe.decode_latents_to_image(latents)
    assert pixels.shape == (1, 64, 96, 3)
    assert np.array_equal(to_image(pixels), np.array(image))


def test_with_cfg_the_negative_text_is_a_second_row(pipe):
    image, _ = pipe.generate_image(PROMPT, cfg_weight=3.0, negative_text="fog", num_steps=2)
    conditioning, pooled = pipe.encode_text(PROMPT, 3.0, "fog")
    assert conditioning.shape == (2, stubs.LENGTH, 16) and pooled.shape == (2, 16)
    latents, _ = pipe.denoise_latents(conditioning, pooled, num_steps=2, cfg_weight=3.0, seed=0)
    assert np.array_equal(to_image(pipe.decode_latents_to_image(latents)), np.array(image))
    with pytest.raises(InputError, match=r"encode_text\(text, 3, negative_text\)"):
        pipe.denoise_latents(conditioning[:1], pooled[:1], cfg_weight=3.0)


def test_from_a_picture_they_draw_what_generate_image_draws(pipe, tmp_path):
    PICTURE.save(tmp_path / "cat.png")
    path = str(tmp_path / "cat.png")
    image, _ = pipe.generate_image(PROMPT, num_steps=5, image_path=path, denoise=0.6)
    latents, seconds = pipe.denoise_latents(
        *pipe.encode_text(PROMPT), num_steps=5, seed=0, image_path=path, denoise=0.6
    )
    assert len(seconds) == 3
    assert np.array_equal(to_image(pipe.decode_latents_to_image(latents)), np.array(image))


def test_a_picture_is_read_and_encoded_at_its_own_size(pipe):
    pixels = pipe.read_image(PICTURE)
    assert pixels.shape == (1, 64, 48, 3)
    assert np.abs(np.array(pixels)[0] - (np.asarray(PICTURE) / 127.5 - 1)).max() < 1e-6
    latents = pipe.encode_image_to_latents(PICTURE, seed=3)
    normal = np.array(pipe.encode(read(PICTURE), (8, 6), seed=3))
    config = pipe.networks.vae.config
    assert np.abs((np.array(latents) - config.shift_factor) * config.scale_factor - normal).max() < 1e-5
    mean = np.array(pipe.networks.vae.encode(pixels))
    assert np.abs(np.array(pipe.encode_image_to_latents(PICTURE)) - mean).max() < 1e-5
    assert np.abs(np.array(latents) - mean).max() > 1e-2


def test_models_can_be_asked_to_be_there(pipe):
    assert pipe.ensure_models_are_loaded() is None
