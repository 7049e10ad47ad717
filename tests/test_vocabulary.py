"""Claims about the words and sizes that a model says it was taught, and about those of the demo model."""

import json
import random
from dataclasses import asdict

import pytest
import stubs
import tiny_checkpoint

from fluxnb.checkpoints import vocabulary
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.errors import CheckpointError
from fluxnb.pipeline import FluxPipeline
from fluxnb.training import scenes
from fluxnb.training import vocabulary as taught

TOY = stubs.TAUGHT


@pytest.fixture(scope="module")
def demo():
    return vocabulary.read(DEMO_FOLDER / "transformer")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "transformer").mkdir()
    return tmp_path


def put(folder, tree):
    (folder / vocabulary.FILE).write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return vocabulary.read(folder / "transformer")


# ---- what is said


@pytest.mark.parametrize(
    ("prompt", "notes"),
    [
        ("", []),
        ("A Cat, on the left!", []),
        ("a small dog and a big dog on a red background", []),
        ("a photo of two cats", ["'photo'; it draws"]),
        ("a kitten", ["'kitten' (try cat)"]),
        ("two kittens", ["'kittens' (try cats)"]),
        ("puppies", ["'puppies' (try dogs)"]),
        ("a pet", ["'pet' (try cat or dog)"]),
        ("a catt", ["'catt' (try cat)"]),
        ("a fog", ["'fog'; it draws 3 objects: cat, dog, fish"]),
        ("a dog's fish", []),
        ("a cat + a <fish> & ~ ` $", []),
        ("a dragon and a dragon", ["'dragon'; it draws 3 objects"]),
        ("猫 🐱", ["'猫' and '🐱'; it draws"]),
        ("a red", ["names nothing that this model draws; it draws 3 objects: cat, dog, fish"]),
        ("two cats and a dog", ["names 3 objects (cats, dog), and this model was taught at most 2"]),
        ("two fish and a fish", ["names 3 objects"]),
        ("a fish and a fish", []),
        ("a blue dog", ["for 'blue dog' try 'dog on blue'"]),
        ("two big cats", ["without a size; for 'big cats' try 'two cats'"]),
        ("small fish", []),
        ("two small fish", ["for 'small fish' try 'two fish'"]),
        ("q w e r t y", ["'q', 'w', 'e', 'r', 't' and 1 more"]),
        ("x" * 1000, ["'" + "x" * 30 + "'"]),
    ],
)
def test_a_prompt_is_told_what_is_new_to_the_model(prompt, notes):
    found = TOY.notes(prompt)
    assert len(found) == len(notes)
    for sentence, part in zip(found, notes, strict=True):
        assert part in sentence and "\n" not in sentence


def test_a_negative_text_may_name_no_object():
    assert TOY.notes_on_words("a red") == () and "'fog'" in TOY.notes_on_words("fog")[0]


# ---- where it comes from


def test_it_is_read_as_it_was_written(folder):
    assert vocabulary.read(folder / "transformer") is None
    assert put(folder, asdict(TOY)) == TOY
    assert vocabulary.read(folder / vocabulary.FILE) is None  # a single file speaks for itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": []}, "more"),
        ({"objects": "cat"}, "objects is a str"),
        ({"objects": []}, "0 objects have 3 plurals"),
        ({"plurals": ["cats"]}, "3 objects have 1 plurals"),
        ({"colors": ["re\nd"]}, "no name"),
        ({"sizes": [1]}, "sizes is 1"),
        ({"near": ["kitten"]}, "near is list"),
        ({"near": {"kitten": "cat"}}, "kitten is a str"),
        ({"most_objects": 0}, "most_objects is 0"),
        ({"sides": [96]}, r"sides is \[96\]"),
        ({"sides": [96, 64]}, "the longest side is 64"),
    ],
)
def test_a_broken_one_is_refused_with_its_path(folder, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        put(folder, asdict(TOY) | change)
    assert str(folder / vocabulary.FILE) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_what_is_no_json_object_is_refused(folder, text):
    with pytest.raises(CheckpointError, match=vocabulary.FILE):
        put(folder, text)


def test_a_model_has_that_of_its_folder_and_its_saves_too(tmp_path):
    folder = tiny_checkpoint.write(tmp_path / "model")
    put(folder, asdict(TOY))
    pipeline = FluxPipeline(str(folder))
    assert pipeline.vocabulary == TOY
    pipeline.save(tmp_path / "save")
    assert FluxPipeline(str(tmp_path / "save"), low_memory_mode=True).vocabulary == TOY


# ---- the demo model's


def test_the_demo_says_what_its_scenes_teach(demo, tmp_path):
    """Write it again with `python -m fluxnb.training.vocabulary fluxnb/demo`."""
    assert demo == taught.vocabulary()
    assert taught.write(tmp_path).read_bytes() == (DEMO_FOLDER / vocabulary.FILE).read_bytes()


def test_no_caption_of_the_demos_scenes_is_warned_of(demo):
    rng = random.Random(1)
    for canvas in ((scenes.SIZE, scenes.SIZE), *scenes.CANVASES):
        for _ in range(40):
            scene = scenes.make_scene(rng, canvas=canvas, held_out=None)
            assert (demo.notes(scene.caption), scene.caption) == ((), scene.caption)
        assert demo.notes_on_size((canvas[1] // 8, canvas[0] // 8)) == ()


def test_words_of_like_meaning_lead_to_words_that_were_taught(demo):
    assert len(demo.objects) >= 60
    for word, near in demo.near.items():
        assert word not in demo.words
        assert all(part in demo.words for phrase in near for part in phrase.split())
    for word, near in {
        "kitten": "cat", "grey": "gray", "violet": "purple", "airplane": "plane", "elefant": "elephant",
        "bunnies": "rabbits", "🦉": "owl",
    }.items():  # fmt: skip
        assert near in demo.nearest(word)
    assert set(demo.nearest("bird")) == {"owl", "penguin"}
