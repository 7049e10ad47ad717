"""Claims about `fluxnb generate`, on the demo model and a tiny checkpoint of the user's own."""

import os
import re
import signal
import subprocess
import sys
from functools import cache

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoint
from PIL import Image
from test_disk import full_after

from fluxnb import cli, recipe
from fluxnb.checkpoints import store
from fluxnb.checkpoints.adapters import Adapter, places
from fluxnb.model.lora import LowRank
from fluxnb.pipeline import FluxPipeline

PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 50, 3), np.uint8))
SHORT = ["generate", "--prompt", "a photo of a cat", "--steps", "2"]


read_once = cache(store.load)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test stands in an empty folder, and the same networks are not read again for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "load", read_once)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_checkpoint.write(tmp_path_factory.mktemp("own") / "my-flux")


@pytest.fixture
def no_model(monkeypatch):
    """Fails a test that comes as far as loading a model."""
    monkeypatch.setattr(FluxPipeline, "__init__", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.fixture
def loaded(monkeypatch):
    """The arguments that pipelines were loaded with; all get the demo model."""
    calls, load = [], FluxPipeline.__init__

    def note(self, **arguments):
        calls.append(arguments)
        load(self)

    monkeypatch.setattr(FluxPipeline, "__init__", note)
    return calls


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def one_error(capsys):
    """The line that the command ended with."""
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fluxnb: ") and err.count("\n") == 1
    return err


def test_the_call_of_diffusionkit_users_draws_and_prints_the_path(capsys):
    words = ["generate", "--prompt", "a photo of a cat", "--steps", "3", "--output-path", "featured.png"]
    assert cli.main([*words, "--seed", "7"]) == 0
    out, err = capsys.readouterr()
    assert out == "featured.png\n"
    assert "3/3" in err and "seed 7, 128 x 128 pixels, 3 steps" in err
    expected, _ = FluxPipeline().generate_image("a photo of a cat", num_steps=3, seed=7)
    assert np.array_equal(pixels("featured.png"), np.asarray(expected))
    assert os.listdir() == ["featured.png"]


def test_every_flag_of_diffusionkit_is_taken(capsys):
    PICTURE.save("cat.jpg")
    words = [
        *("generate", "--prompt", "a cat", "--image-path", "cat.jpg", "--model-version", "fluxnb/demo"),
        *("--steps", "5", "--cfg", "2.5", "--negative_prompt", "dog", "--preload-models", "-o", "a.png"),
        *("--seed", "3", "--verbose", "--shift", "2", "--t5", "--height", "96", "--width", "128"),
        *("--no-low-memory-mode", "--benchmark-mode", "--denoise", "0.4"),
    ]
    assert cli.main(words) == 0
    err = capsys.readouterr().err
    assert err.count("GB at most") == 3 and "128 x 96 pixels, 2 steps" in err
    expected, _ = FluxPipeline().generate_image(
        "a cat", 5, 2.5, "dog", (12, 16), 3, image_path="cat.jpg", denoise=0.4, shift=2
    )
    assert np.array_equal(pixels("a.png"), np.asarray(expected))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"model_version": "fluxnb/demo", "low_memory_mode": False, "w16": False, "a16": False}),
        (["--model-version", "a/b", "--w16", "--a16"], {"low_memory_mode": True, "w16": True, "a16": True}),
        (["--model-version", "a/b", "--no-low-memory-mode"], {"low_memory_mode": False}),
        (["--model-version", "a/b", "--benchmark-mode"], {"low_memory_mode": False}),
        (
            ["--local-ckpt", "x", "--quantize", "4"],
            {"local_ckpt": "x", "low_memory_mode": True, "quantize": 4},
        ),
        (["--model-version", "a/b", "--revision", "v1"], {"model_version": "a/b", "revision": "v1"}),
    ],
)
def test_flags_of_the_model_reach_the_pipeline(flags, expected, loaded):
    assert cli.main([*SHORT, *flags]) == 0
    assert expected.items() <= loaded[0].items()


def test_a_seed_is_drawn_and_told(capsys):
    cli.main([*SHORT, "-o", "a.png"])
    cli.main([*SHORT, "-o", "b.png"])
    seeds = re.findall(r"seed (\d+),", capsys.readouterr().err)
    assert len(set(seeds)) == 2
    assert [str(recipe.read(name).settings.seed) for name in ("a.png", "b.png")] == seeds


def test_one_side_is_enough_and_a_picture_gives_the_other():
    PICTURE.save("cat.png")  # 50 x 70
    cli.main([*SHORT, "--width", "64", "-o", "a.png"])
    cli.main([*SHORT, "--width", "64", "-o", "b.png", "--image-path", "cat.png"])
    assert pixels("a.png").shape == (128, 64, 3) and pixels("b.png").shape == (64, 64, 3)
    assert recipe.read("b.png").settings.denoise == 0.6


@pytest.mark.parametrize("start", [[], ["--image-path", "cat.png", "--denoise", "0.7"]])
def test_a_picture_is_drawn_again_bit_for_bit(start, capsys):
    PICTURE.save("cat.png")
    first = [*SHORT, *start, "--cfg", "2", "--negative-prompt", "fog", "--shift", "1.7", "-o", "a.png"]
    assert cli.main(first) == 0
    assert cli.main(["generate", "--from", "a.png", *start[:2], "-o", "b.png"]) == 0
    with open("a.png", "rb") as a, open("b.png", "rb") as b:
        assert a.read() == b.read()
    assert cli.main(["generate", "--from", "a.png", *start[:2], "-o", "a.png", "--benchmark-mode"]) == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))


def test_a_picture_of_own_weights_is_drawn_again_if_they_are_named(tiny, capsys):
    own = ["--local-ckpt", str(tiny), "--no-low-memory-mode"]
    assert (
        cli.main(["generate", "--prompt", "a cat", "--steps", "2", "--height", "64", "-o", "a.png", *own])
        == 0
    )
    with open("a.png", "rb") as file:
        assert str(tiny.parent).encode() not in file.read()
    capsys.readouterr()
    assert cli.main(["generate", "--from", "a.png", "-o", "b.png"]) == 2
    assert "drawn with weights of its maker's own, 'my-flux'; name them: --local-ckpt" in one_error(capsys)
    assert cli.main(["generate", "--from", "a.png", "-o", "b.png", *own]) == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))


def changed(**change):
    """A picture of the demo model whose recipe says something else."""
    image, log = FluxPipeline().generate_image("a cat", num_steps=1)
    fields = {name: change.pop(name) for name in ("model", "is_own", "versions") if name in change}
    written = log["recipe"]
    settings = type(written.settings)(**{**_values(written.settings), **change})
    kept = {"loading": written.loading, "model": written.model, "is_own": False, "versions": written.versions}
    recipe.save(image, "a.png", recipe.Recipe(settings=settings, **{**kept, **fields}))


def _values(record):
    return {name: getattr(record, name) for name in record.__slots__}


def test_a_recipe_never_decides_what_is_downloaded_or_opened(capsys, request):
    changed(model="black-forest-labs/FLUX.1-dev")
    request.getfixturevalue("no_model")
    for more in ([], ["--model-version", "fluxnb/demo"], ["--model-version", "a/b"]):
        assert cli.main(["generate", "--from", "a.png", *more]) == 2
        assert "was drawn by 'black-forest-labs/FLUX.1-dev'; name it to have it loaded" in one_error(capsys)


def test_a_model_that_is_named_is_loaded_as_the_recipe_says(loaded):
    changed(model="black-forest-labs/FLUX.1-dev")
    loaded.clear()
    assert cli.main(["generate", "--from", "a.png", "--model-version", "black-forest-labs/flux.1-dev"]) == 0
    assert loaded[0]["model_version"] == "black-forest-labs/flux.1-dev"
    assert {"low_memory_mode": False, "a16": False, "w16": False}.items() <= loaded[0].items()


def test_other_versions_are_a_warning(capsys):
    changed(versions=("0.0.1", "0.1"))
    assert cli.main(["generate", "--from", "a.png"]) == 0
    told = (
        "fluxnb: a.png was drawn by fluxnb '0.0.1', here is .* and mlx '0.1', .*; the last bits may differ\n"
    )
    assert re.match(told, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "half a \ud83d"], "--prompt is .* half a character"),
        (["--steps", "0"], "--steps is 0; give an integer in 1..1000"),
        (["--cfg", "nan"], "--cfg is nan"),
        (["--guidance", "-1"], "--guidance is -1.0"),
        (["--shift", "0"], "--shift is 0.0; give a finite number above 0"),
        (["--seed", str(2**64)], "--seed is 18446744073709551616"),
        (["--denoise", "0"], "--denoise is 0.0; give a finite number above 0 and at most 1"),
        (["--denoise", "1.5"], "--denoise is 1.5"),
        (["--height", "500"], "--height 500 is not a multiple of 16; try 496 or 512"),
        (["--width", "8"], "width is 8; give an integer in 16.."),
        (["--output-path", "missing/a.png"], "there is no folder .*missing to write a.png to"),
        (["--output-path", "."], r"\. ends in ''; name a file that ends in .png"),
        (["--output-path", "a.gif"], "ends in '.gif'"),
        (["--output-path", "a.jpg", "--metadata"], "only a PNG carries a recipe"),
        (["--image-path", "missing.png"], "there is no picture missing.png"),
        (["--image-path", "text.png"], "text.png is no picture that Pillow knows"),
        (["--image-path", "cut.png"], "cut.png cannot be decoded"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(words, message, capsys, no_model):
    with open("text.png", "w") as file:
        file.write("no picture")
    PICTURE.save("cut.png")
    os.truncate("cut.png", 2000)
    before = set(os.listdir())
    assert cli.main([*SHORT, *words]) == 2
    assert re.search(message, one_error(capsys))
    assert set(os.listdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--denoise", "1e-20", "--image-path", "cat.png"], "denoise 1e-20 leaves none of 2 steps"),
        (["--model-version", "fluxnb/dmo", "--no-low-memory-mode"], "no model named 'fluxnb/dmo'"),
        (["--local-ckpt", "nowhere", "--no-low-memory-mode"], "there is no nowhere"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_exit_code_2(words, message, capsys):
    PICTURE.save("cat.png")
    assert cli.main([*SHORT, *words]) == 2
    assert re.search(message, one_error(capsys))
    assert os.listdir() == ["cat.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guidance", "3"], "guidance has no effect: fluxnb/demo takes none"),
        (["--cfg", "0", "--negative_prompt", "fog"], "negative_text has no effect at cfg_weight 0"),
        (["--denoise", "0.5"], "denoise 0.5 has no effect without a picture"),
        (
            ["--denoise", "1", "--image-path", "cat.png", "--height", "96", "--width", "96"],
            "the picture has no",
        ),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "two kittens"], "this model was not taught 'kittens' (try cats)"),
        (["--height", "64"], "this model was taught pictures of 96 to 192 pixels a side; at 128 x 64 pixels"),
    ],
)
def test_what_has_no_effect_is_one_line_and_goes_on(words, message, capsys):
    PICTURE.save("cat.png")
    assert cli.main([*SHORT, *words]) == 0
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert err.count("fluxnb: ") == 1 and err.startswith(f"fluxnb: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "1"], "--from takes seed from a.png; leave out --seed"),
        (["--seed", "0"], "leave out --seed"),
        (["--w16"], "leave out --w16"),
        (["--negative_prompt", ""], "leave out --negative-prompt"),
        (["--image-path", "cat.png"], "a.png was drawn from no other picture; leave out --image-path"),
    ],
)
def test_a_recipe_leaves_nothing_to_choose(words, message, capsys):
    PICTURE.save("cat.png")
    cli.main([*SHORT, "-o", "a.png"])
    capsys.readouterr()
    assert cli.main(["generate", "--from", "a.png", *words]) == 2
    assert message in one_error(capsys)


def test_a_recipe_from_a_picture_asks_for_that_picture(capsys):
    PICTURE.save("cat.png")
    PICTURE.rotate(180).save("other.png")
    cli.main([*SHORT, "--image-path", "cat.png", "-o", "a.png"])
    capsys.readouterr()
    for words in ([], ["--image-path", "other.png"]):
        assert cli.main(["generate", "--from", "a.png", *words]) == 2
        assert re.search(
            r"drawn from another picture, .* [0-9a-f]{12}\.\.\.; name that one", one_error(capsys)
        )


@pytest.mark.parametrize(
    ("words", "carries"), [([], True), (["--metadata"], True), (["--no-metadata"], False)]
)
def test_the_recipe_can_be_left_out(words, carries):
    cli.main([*SHORT, *words])
    with Image.open("out.png") as image:
        assert (recipe.KEY in image.info) is carries
    cli.main([*SHORT, "-o", "out.jpg"])
    with Image.open("out.jpg") as image:
        assert image.format == "JPEG" and recipe.KEY not in image.info


def test_a_full_disk_leaves_no_half_file(capsys):
    with full_after(1000):
        assert cli.main(SHORT) == 2
    assert "out.png could not be written" in capsys.readouterr().err
    assert os.listdir() == []


@pytest.mark.parametrize(
    "words", [["generate"], ["generate", "--prompt", "a", "--from", "b"], [*SHORT, "--steps", "many"]]
)
def test_a_bad_argument_is_one_sentence_and_exit_code_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert re.fullmatch(r"fluxnb generate: .+; see `fluxnb generate --help`\n", capsys.readouterr().err)


def test_ctrl_c_ends_a_real_run_with_one_line_and_no_file():
    command = subprocess.Popen(
        [sys.executable, "-m", "fluxnb.cli", "generate", "--prompt", "a cat", "--steps", "1000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a test in the background ignores it
    )
    try:
        seen = ""
        while not re.search(r"[1-9]\d*/1000", seen):  # a step is made
            seen += command.stderr.read(1)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=60)
    finally:
        command.kill()
    assert (command.returncode, out) == (130, "")
    assert err.endswith("fluxnb: interrupted\n") and "Traceback" not in err
    assert os.listdir() == []


def test_an_adapter_draws_and_its_recipe_asks_for_it(tmp_path, capsys):
    file = one_change().save(tmp_path / "thing.safetensors")
    assert cli.main([*SHORT, "--seed", "1", "-o", "plain.png"]) == 0
    adapted = ["--lora-paths", str(file), "--lora-scales", "2"]
    assert cli.main([*SHORT, "--seed", "1", *adapted, "-o", "adapted.png"]) == 0
    assert Image.open("plain.png").tobytes() != Image.open("adapted.png").tobytes()
    assert cli.main(["generate", "--from", "adapted.png", "--lora-paths", str(file), "-o", "again.png"]) == 0
    assert Image.open("again.png").tobytes() == Image.open("adapted.png").tobytes()
    capsys.readouterr()
    for arguments, message in (
        (["--from", "adapted.png"], "with the adapters 'thing'; name them: --lora-paths FILE"),
        (["--from", "plain.png", "--lora-paths", str(file)], "without the adapter 'thing'; leave it out"),
        (["--from", "adapted.png", *adapted], "leave out --lora-scales"),
        (["--prompt", "a cat", *adapted, "3"], "2 strengths for 1 adapters"),
    ):
        assert cli.main(["generate", *arguments, "-o", "other.png"]) == 2
        assert message in capsys.readouterr().err


def one_change():
    """An adapter of the demo model that changes one matrix."""
    place = next(one for one in places(FluxPipeline().networks.configs.mmdit) if "linear2" in one.layer)
    change = LowRank(mx.ones((1, place.columns)), mx.full((place.rows[0], 1), 1e-3))
    return Adapter("thing", {place.sources[0]: change})
