"""The judge: on real scenes it is right, what it reads out of cells is exact, and it can be trained."""

import csv
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from fluxnb.training import judge, scenes
from fluxnb.training.scenes import Scene, Sprite
from fluxnb.training.verdicts import QUESTIONS, answers

TWO = Scene("", "blue", (Sprite("cat", 0, 16, 48), Sprite("dog", 64, 32, 64)), 0.0, says_color=False)


@pytest.fixture(scope="module")
def shipped():
    return judge.load()


def seen_in(shipped, scene):
    return judge.judge_pictures(shipped, scenes.render(scene)[0][None])[0]


def exactly(scene):
    """The verdict on a scene by a network that makes no mistake."""
    classes, boxes = judge.label(scene, scenes.render(scene)[1])
    chances = (np.arange(judge.NOTHING)[:, None, None] == classes).astype(np.float32)
    return judge.verdict(chances, boxes, scene.color)


def test_the_shipped_judge_is_right_on_99_of_100_real_scenes(shipped):
    right = judge.accuracy(shipped, count=300)
    assert set(right) == set(QUESTIONS)
    assert {name: np.mean(one) for name, one in right.items() if np.mean(one) < 0.99} == {}


@pytest.mark.parametrize("canvas", [(96, 128), (192, 160)])
def test_it_is_right_on_other_canvases(shipped, canvas):
    right = judge.accuracy(shipped, 40, canvas)
    assert np.mean(right["exact"]) >= 0.95


def test_it_finds_where_objects_stand_and_how_big_they_are(shipped):
    verdict = seen_in(shipped, TWO)
    assert verdict.ground == "blue" and {one.name for one in verdict.found} == {"cat", "dog"}
    cat, dog = verdict.first("cat"), verdict.first("dog")
    assert (cat.x, cat.y, cat.side) == pytest.approx((1.5, 2.5, 3), abs=0.3)
    assert (dog.x, dog.y, dog.side) == pytest.approx((6, 4, 4), abs=0.3)


def test_it_counts_two_of_a_kind(shipped):
    twins = replace(TWO, sprites=(Sprite("owl", 0, 0, 48), Sprite("owl", 48, 0, 48)))
    assert [one.name for one in seen_in(shipped, twins).found] == ["owl", "owl"]


def test_it_finds_nothing_on_a_bare_ground(shipped):
    for color in scenes.COLORS:
        verdict = seen_in(shipped, Scene("", color, (), 10.0, says_color=False))
        assert (verdict.found, verdict.ground) == ((), color)


def test_pictures_are_judged_alone_and_in_order(shipped):
    rng = random.Random(2)
    pictures = np.stack([scenes.render(scenes.make_scene(rng))[0] for _ in range(3)])
    together = judge.judge_pictures(shipped, pictures)
    for picture, one in zip(pictures, together, strict=True):
        (alone,) = judge.judge_pictures(shipped, picture[None])
        assert [found.name for found in alone.found] == [found.name for found in one.found]


def test_labels_hold_all_that_is_asked():
    rng = random.Random(1)
    made = [scenes.make_scene(rng, held_out=None) for _ in range(200)]
    made += [scenes.make_scene(rng, canvas=canvas, held_out=None) for canvas in scenes.CANVASES * 4]
    right = answers(made, [exactly(scene) for scene in made])
    right.pop("place")  # on the smallest canvas a big object has hardly another place
    assert all(all(one) for one in right.values())


def test_labels_are_of_the_masks():
    classes, boxes = judge.label(TWO, scenes.render(TWO)[1])
    assert classes[2, 1] == judge.OBJECTS.index("cat") and boxes[:, 2, 1].tolist() == [0, 0, 3]
    assert classes[3, 5] == judge.OBJECTS.index("dog") and boxes[:, 3, 5].tolist() == [0.5, 0.5, 4]
    assert classes[7, 0] == judge.NOTHING and not boxes[:, 7, 0].any()
    assert (classes == judge.UNSURE).any()  # a corner of a box


def test_a_weaker_object_in_the_box_of_a_stronger_one_is_that_one():
    classes, boxes = judge.label(TWO, scenes.render(TWO)[1])
    chances = (np.arange(judge.NOTHING)[:, None, None] == classes).astype(np.float32)
    fox, cell = judge.OBJECTS.index("fox"), (2, 1)
    mixed = chances.copy()
    mixed[fox][cell], mixed[judge.OBJECTS.index("cat")][cell] = 0.7, 0.3
    assert {one.name for one in judge.verdict(mixed, boxes, "blue").found} == {"cat", "dog"}
    mixed[fox, 6, 1] = 0.7  # outside of both boxes
    assert {one.name for one in judge.verdict(mixed, boxes, "blue").found} == {"cat", "dog", "fox"}


def test_softened_pictures_keep_their_colours_and_their_size():
    torch.manual_seed(0)
    x = torch.full((16, 3, 48, 64), 0.3)
    y = judge.augment(x)
    assert y.shape == x.shape and y.mean().item() == pytest.approx(0.3, abs=0.01)
    assert y.std().item() == pytest.approx(0.05, rel=0.1)


def test_some_steps_lower_its_loss_and_what_is_saved_is_what_is_loaded(tmp_path):
    torch.manual_seed(0)
    rng, fresh = random.Random(0), judge.Judge()
    made = judge.lessons([scenes.make_scene(rng) for _ in range(4)])
    before = judge.loss_of(fresh, made).item()
    optimizer = torch.optim.AdamW(fresh.parameters(), lr=2e-3)
    for _ in range(8):
        loss = judge.loss_of(fresh, made)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * before
    judge.save(fresh, tmp_path / "judge.safetensors")
    loaded = judge.load(tmp_path / "judge.safetensors").state_dict()
    for name, value in fresh.state_dict().items():
        assert torch.allclose(loaded[name], value, atol=1e-2, rtol=1e-3)


def test_a_training_leaves_a_judge_and_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "accuracy", lambda model, count: {"object": [True, False]})
    judge.train(tmp_path, steps=2, batch=2)
    with (tmp_path / "judge.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["step"], row["object"]) == ("2", "0.5")
    assert judge.load(tmp_path / "judge.safetensors")
