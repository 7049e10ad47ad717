"""What users of DiffusionKit write: call by call on toy networks, and whole scripts that load from a hub."""

from pathlib import Path

import layout_writers
import mlx.core as mx
import numpy as np
import pytest
import stubs
import tiny_checkpoint as tiny
from mlx.utils import tree_flatten
from PIL import Image

from fluxnb import cli, recipe
from fluxnb.errors import FluxnbWarning, InputError
from fluxnb.pipeline import FluxPipeline
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
    latents, _ = pipe.denoise_latents(np.array(conditioning), np.array(pooled), 2, cfg_weight=3.0, seed=0)
    assert np.array_equal(to_image(pipe.decode_latents_to_image(latents)), np.array(image))
    with pytest.raises(InputError, match=r"encode_text\(text, 3, negative_text\)"):
        pipe.denoise_latents(conditioning[:1], pooled[:1], cfg_weight=3.0)


@pytest.mark.parametrize("rows", [(0, 0), (1, 2), (3, 3)])
def test_conditionings_of_another_shape_are_refused(pipe, rows):
    txt, vec = mx.ones((rows[0], stubs.LENGTH, 16)), mx.ones((rows[1], 16))
    with pytest.raises(InputError, match=r"give what encode_text returns, \(1, L, 16\) and \(1, 16\)"):
        pipe.denoise_latents(txt, vec, num_steps=1)
    with pytest.raises(InputError, match=r"have the shapes \(1, 5, 8\) and \(\)"):
        pipe.denoise_latents(mx.ones((1, 5, 8)), None, num_steps=1)


@pytest.mark.parametrize(
    "latents", [None, mx.ones((1, 4, 4, 3)), mx.ones((4, 4, 16)), np.ones((1, 4, 4, 16))]
)
def test_what_is_no_latents_is_not_decoded(pipe, latents):
    for decode in (pipe.decode, pipe.decode_latents_to_image):
        with pytest.raises(InputError, match=r"give an array of MLX, \(B, H, W, 16\)"):
            decode(latents)


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


def test_leaving_t5_out_changes_nothing_and_says_so():
    with pytest.warns(FluxnbWarning, match="use_t5=False has no effect"):
        without = FluxPipeline(use_t5=False)
    drawn = [one.generate_image("a cat", num_steps=1)[0] for one in (without, FluxPipeline(use_t5=True))]
    assert drawn[0] == drawn[1]
    with pytest.raises(InputError, match="use_t5 is 'no'; give True or False"):
        FluxPipeline(use_t5="no")


def test_models_can_be_asked_to_be_there(pipe):
    assert pipe.ensure_models_are_loaded() is None


NAMES = ("argmaxinc/mlx-FLUX.1-schnell", "argmaxinc/mlx-FLUX.1-schnell-4bit-quantized")
FILES = ("flux-schnell.safetensors", "flux-schnell-4bit-quantized.safetensors")
TEXT = ("clip_l/model.fp16.safetensors", "t5/t5xxl.safetensors")
SCRIPT = """
from fluxnb import FluxPipeline
pipeline = FluxPipeline(
  shift=1.0,
  model_version=MODEL,
  low_memory_mode=True,
  a16=True,
  w16=True,
)

HEIGHT = 512
WIDTH = 512
NUM_STEPS = 4
CFG_WEIGHT = 0.

image, _ = pipeline.generate_image(
  "a photo of a cat",
  cfg_weight=CFG_WEIGHT,
  num_steps=NUM_STEPS,
  latent_size=(HEIGHT // 8, WIDTH // 8),
)
image.save("image.png")
"""


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The repositories that DiffusionKit reads, with small networks under its own names."""
    written = layout_writers.write_diffusionkit(tmp_path / "written", bits=4)
    own = layout_writers.diffusionkit_mmdit(layout_writers.original("transformer"))
    tiny.save(written / FILES[0], own)
    for name, file in zip(NAMES, FILES, strict=True):
        server.add(name, {part: (written / part).read_bytes() for part in (file, "ae.safetensors")})
    server.add("argmaxinc/stable-diffusion", {part: (written / part).read_bytes() for part in TEXT})
    server.add_folder("openai/clip-vit-large-patch14", written / "tokenizer")
    server.add_folder("google/flan-t5-xxl", written / "tokenizer_2")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return server


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*too long for T5")  # the tiny one takes twelve tokens
def test_a_script_of_theirs_runs_after_its_import_is_changed(hub, name):
    names = {"MODEL": name}
    exec(SCRIPT, names)
    with Image.open("image.png") as image:
        assert image.size == (512, 512) and np.asarray(image).std() > 0
    networks = names["pipeline"].networks
    dtypes = {array.dtype for _, array in tree_flatten(networks.mmdit.parameters())}
    assert dtypes == {mx.bfloat16} | ({mx.uint32} if "4bit" in name else set())
    hub.requests.clear()
    image, log = names["pipeline"].generate_image("a photo of a cat", num_steps=1, latent_size=(4, 4))
    assert image.size == (32, 32) and hub.requests == []
    assert log["recipe"].loading.revision == hub.repos[name].commit


def test_their_command_draws_from_the_hub_and_its_picture_is_drawn_again(hub, capsys):
    size = ("--height", "64", "--width", "64")
    words = ["--prompt", "a cat", "--steps", "3", "--output-path", "featured.png", "--seed", "0", *size]
    assert cli.main(["generate", "--model-version", NAMES[1], "--w16", "--a16", "--t5", *words]) == 0
    assert recipe.read("featured.png").loading.low_memory_mode
    hub.requests.clear()
    assert cli.main(["generate", "--from", "featured.png", "-o", "again.png"]) == 2
    assert hub.requests == []
    again = ["generate", "--from", "featured.png", "-o", "again.png", "--model-version", NAMES[1]]
    assert cli.main(again) == 0
    pictures = [np.asarray(Image.open(name)) for name in ("featured.png", "again.png")]
    assert np.array_equal(*pictures)
    assert "name it to have it loaded" in capsys.readouterr().err


def test_a_local_checkpoint_takes_the_rest_from_the_model_that_is_named(hub):
    tiny.save(Path("mine.safetensors"), layout_writers.original("transformer"))
    size = ("--height", "32", "--width", "32")
    words = ["generate", "--prompt", "a cat", "--steps", "1", *size, "--local-ckpt", "mine.safetensors"]
    assert cli.main(words) == 2
    assert hub.requests == []
    assert cli.main([*words, "--model-version", NAMES[0]]) == 0
    assert hub.got(FILES[0]) == [] and hub.got("ae.safetensors") == [None]
    assert recipe.read("out.png").is_own and recipe.read("out.png").model == "mine.safetensors"


def test_denoise_without_a_picture_is_told(pipe):
    with pytest.warns(FluxnbWarning, match="denoise 0.5 has no effect") as told:
        pipe.denoise_latents(*pipe.encode_text(PROMPT), num_steps=1, denoise=0.5)
    assert told[0].filename == __file__
