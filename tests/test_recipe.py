"""Claims about `fluxnb.recipe`: what is in the file, and that nothing else gets in."""

import json
from dataclasses import replace

import numpy as np
import pytest
import stubs
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fluxnb import recipe
from fluxnb.errors import InputError
from fluxnb.recipe import Loading
from fluxnb.session import FluxSession

PROMPT = 'a cat, "quoted", 猫 🐈'


@pytest.fixture(scope="module")
def pipe():
    return stubs.pipeline()


@pytest.fixture(scope="module")
def drawn(pipe):
    image, log = pipe.generate_image(
        PROMPT,
        seed=2**64 - 1,
        num_steps=3,
        shift=1 / 3,
        cfg_weight=2.5,
        negative_text="fog",
        latent_size=(8, 6),
    )
    return image, log["recipe"]


def with_text(path, text, key=recipe.KEY):
    notes = PngInfo()
    notes.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=notes)
    return path


def test_a_recipe_holds_all_that_was_drawn(pipe, drawn):
    _, written = drawn
    settings = written.settings
    assert (settings.prompt, settings.negative_text, settings.seed) == (PROMPT, "fog", 2**64 - 1)
    assert (settings.shift, settings.cfg_weight, settings.latent_size) == (1 / 3, 2.5, (8, 6))
    assert len(settings.sigmas) == 4 and settings.guidance is None
    assert (written.model, written.is_own, written.loading) == ("stub", True, Loading())


def test_from_text_undoes_to_text_to_the_last_bit(drawn):
    _, written = drawn
    full = replace(
        written,
        model="black-forest-labs/FLUX.1-dev",
        is_own=False,
        loading=Loading("0123abc", True, True, True, 4),
        settings=replace(written.settings, guidance=3.5, image="0f" * 32, denoise=0.1 + 0.2, shift=None),
    )
    for one in (written, full):
        text = recipe.to_text(one)
        assert text.isascii() and recipe.from_text(text) == one


def test_a_picture_is_drawn_again_from_its_file_bit_for_bit(pipe, drawn, tmp_path):
    image, written = drawn
    assert recipe.save(image, tmp_path / "a.png", written) == tmp_path / "a.png"
    again, log = pipe.draw(recipe.read(tmp_path / "a.png").settings)
    assert again.tobytes() == image.tobytes()
    recipe.save(again, tmp_path / "b.png", log["recipe"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "A.JPEG", "a.webp"])
def test_without_a_recipe_a_picture_is_saved_in_any_format(name, drawn, tmp_path):
    recipe.save(drawn[0], tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.size == (48, 64) and recipe.KEY not in image.info
    with pytest.raises(
        InputError, match="has no recipe" if name.endswith("png") else "cannot be read as a PNG"
    ):
        recipe.read(tmp_path / name)


def test_only_a_png_holds_a_recipe_and_only_of_its_own_size(drawn, tmp_path):
    image, written = drawn
    with pytest.raises(InputError, match=r"a jpeg file holds no text; save the picture as .png"):
        recipe.save(image, tmp_path / "a.jpg", written)
    with pytest.raises(InputError, match="has 32 x 32 pixels and the recipe draws 48 x 64"):
        recipe.save(image.resize((32, 32)), tmp_path / "a.png", written)
    for name in ("a", "a.gif", "a.png.exe"):
        with pytest.raises(InputError, match=r"ends in .*, .jpg, .jpeg, .webp"):
            recipe.save(image, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_path_of_own_weights_stays_out_of_the_file(drawn):
    entry = replace(stubs.ENTRY, name="/home/ada/secret/my-flux")
    written = recipe.write_down(entry, {"local_ckpt": entry.name, "w16": True}, drawn[1].settings)
    assert (written.model, written.loading) == ("my-flux", Loading(w16=True))
    assert "ada" not in recipe.to_text(written)


def test_what_a_recipe_cannot_hold_is_refused(pipe):
    run = FluxSession(pipe).start("a cat", latents=np.zeros((1, 8, 8, 16), np.float32))
    for settings in (run.settings, replace(run.settings, seed=0, embedding="0f" * 32)):
        with pytest.raises(InputError, match="are drawn by the run that has them"):
            pipe.draw(settings)


def test_settings_of_a_model_of_another_kind_are_refused(pipe, drawn):
    settings = drawn[1].settings
    with pytest.raises(InputError, match=r"guidance is 3.5, but stub takes none"):
        pipe.draw(replace(settings, guidance=3.5))
    with pytest.raises(InputError, match=r"guidance is None, but stub takes one, e.g. 3.5"):
        stubs.pipeline(guidance=True).draw(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, but fluxnb .* reads format 1"),
        ({"format": None}, "has format None"),
        ({"colour": 1}, "holds 'colour', which is unknown"),
        ({"model": 3}, "model is 3"),
        ({"model": "a\x1b[2Jb"}, r"model is 'a\\x1b\[2Jb', which is no name"),
        ({"is_own": 1}, "is_own is 1; give True or False"),
        ({"versions": ["0.1.0"]}, "versions"),
        ({"versions": [1, 2]}, "a version is 1"),
        ({"versions": None}, "the recipe is damaged"),
        ({"loading": []}, "the recipe is damaged"),
        ({"loading": {"w16": True}}, "the recipe is damaged"),
        ({"settings": "all"}, "the settings are a str"),
    ],
)
def test_a_recipe_with_anything_wrong_in_it_is_one_error(change, message, drawn, tmp_path):
    path = with_text(tmp_path / "a.png", json.dumps(json.loads(recipe.to_text(drawn[1])) | change))
    with pytest.raises(InputError, match=message) as raised:
        recipe.read(path)
    assert str(raised.value).startswith(f"{path}: ") and str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("loading", {"w16": "yes"}, "w16 is 'yes'"),
        ("loading", {"quantize": 4.0}, "quantize is 4.0"),
        ("loading", {"quantize": 1000}, "quantize is 1000"),
        ("loading", {"revision": 5}, "revision is 5"),
        ("loading", {"local_ckpt": "/etc/passwd"}, "the recipe is damaged .*local_ckpt"),
        ("settings", {"prompt": None}, "the prompt is None"),
        ("settings", {"prompt": "\ud800"}, "half a character"),
        ("settings", {"negative_text": ["fog"]}, "negative_text is"),
        ("settings", {"seed": 1.5}, "seed is 1.5"),
        ("settings", {"seed": 2**64}, "seed is 18446744073709551616"),
        ("settings", {"sigmas": []}, "sigmas has 0 noise levels"),
        ("settings", {"sigmas": [0.5, 1.0]}, "sigmas"),
        ("settings", {"sigmas": "10"}, "sigmas"),
        ("settings", {"sigmas": None}, "sigmas is None"),
        ("settings", {"sigmas": [1.0] * 100_000}, "sigmas has 100000"),
        ("settings", {"shift": 0}, "shift is 0"),
        ("settings", {"guidance": -1}, "guidance is -1"),
        ("settings", {"cfg_weight": None}, "cfg_weight is None"),
        ("settings", {"latent_size": [8, 7]}, "latent_size"),
        ("settings", {"latent_size": 8}, "latent_size is 8"),
        ("settings", {"image": "cat.png"}, "image is 'cat.png', which is no SHA-256"),
        ("settings", {"denoise": 0}, "denoise is 0"),
        ("settings", {"colour": "red"}, "the settings have an unknown 'colour'"),
        ("settings", {"intervention": "all"}, "no saved intervention"),
    ],
)
def test_a_value_that_cannot_be_drawn_with_is_one_error(part, change, message, drawn):
    tree = json.loads(recipe.to_text(drawn[1]))
    tree[part] |= change
    with pytest.raises(InputError, match=message):
        recipe.from_text(json.dumps(tree))


@pytest.mark.parametrize("key", ["format", "model", "versions", "loading", "settings"])
def test_a_recipe_that_lacks_anything_is_one_error(key, drawn):
    tree = json.loads(recipe.to_text(drawn[1]))
    del tree[key]
    with pytest.raises(InputError, match=f"damaged .*{key}"):
        recipe.from_text(json.dumps(tree))


@pytest.mark.parametrize("key", ["prompt", "denoise", "intervention"])
def test_settings_that_lack_anything_are_one_error(key, drawn):
    tree = json.loads(recipe.to_text(drawn[1]))
    del tree["settings"][key]
    with pytest.raises(InputError, match=f"the settings lack '{key}'"):
        recipe.from_text(json.dumps(tree))


@pytest.mark.parametrize("text", ["", "cat", "[]", "3", "null", "[" * 100_000, '{"format": NaN}', "{" * 9])
def test_a_text_that_is_no_recipe_is_one_error(text):
    with pytest.raises(InputError, match="the recipe is damaged"):
        recipe.from_text(text)


def test_files_without_a_recipe_are_one_error(drawn, tmp_path):
    with pytest.raises(InputError, match="there is no picture"):
        recipe.read(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(InputError, match="cannot be read as a PNG"):
        recipe.read(tmp_path / "a.png")
    with pytest.raises(InputError, match="has no recipe"):
        recipe.read(with_text(tmp_path / "a.png", "{}", key="parameters"))
    recipe.save(*drawn[:1], tmp_path / "a.png", drawn[1])
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a PNG"):
        recipe.read(tmp_path / "a.png")


def test_other_versions_are_named(drawn):
    assert recipe.differing(drawn[1]) == ""
    told = recipe.differing(replace(drawn[1], versions=("9.9", drawn[1].versions[1])))
    assert told.startswith("fluxnb '9.9', here is ") and "mlx" not in told
