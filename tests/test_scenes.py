"""Scenes: their captions are true, boxes lie on the grid of tokens, what is held out is not shown."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from fluxnb.training import scenes
from fluxnb.training.scenes import TOKEN


@pytest.fixture(scope="module")
def made():
    rng = random.Random(3)
    return [scenes.make_scene(rng) for _ in range(1500)]


@pytest.fixture(scope="module")
def elsewhere():
    """Scenes of other canvases."""
    rng = random.Random(4)
    return [scenes.make_scene(rng, canvas=canvas) for canvas in scenes.CANVASES for _ in range(60)]


def middle(sprite):
    return sprite.left + sprite.side / 2, sprite.top + sprite.side / 2


def test_a_seed_names_the_same_scenes():
    one, other = ([scenes.make_scene(rng) for _ in range(3)] for rng in (random.Random(5), random.Random(5)))
    assert one == other
    assert np.array_equal(scenes.render(one[0])[0], scenes.render(other[0])[0])
    assert scenes.make_scene(random.Random(6)) != one[0]


def test_the_caption_names_each_object_and_its_ground(made):
    plurals = {scenes.plural(name): name for name in scenes.OBJECTS}
    for scene in made:
        words = re.findall(r"\w+", scene.caption)
        names = [sprite.name for sprite in scene.sprites]
        if scene.relation == "two":
            assert names[0] == names[1] and [plurals[w] for w in words if w in plurals] == names[:1]
        else:
            assert sorted(w for w in words if w in scenes.OBJECTS) == sorted(names)
        named = [word for word in words if word in scenes.COLORS]
        assert named == ([scene.color] if scene.says_color else [])


def test_relations_are_true_of_the_boxes(made):
    counts = Counter()
    for scene in (scene for scene in made if scene.relation not in ("", "two")):
        first, second = scene.sprites
        axis = int(scene.relation == "above")
        assert middle(first)[axis] + first.side / 2 <= middle(second)[axis] - second.side / 2
        stand = [re.search(rf"\b{sprite.name}\b", scene.caption) for sprite in scene.sprites]
        said = stand[0].start() < stand[1].start()
        between = scene.caption[stand[not said].end() :]
        words = scenes.RELATIONS[scene.relation][not said]
        assert any(f" {one} " in between for one in words)
        counts[scene.relation, said] += 1
    assert len(counts) == 6 and min(counts.values()) > 50


def test_places_are_true_of_the_boxes(made):
    half, counts = scenes.SIZE / 2, Counter()
    for scene in (scene for scene in made if scene.place):
        (x, y), side = middle(scene.sprites[0]), scene.sprites[0].side
        if scene.place == "middle":
            assert max(abs(x - half), abs(y - half)) <= TOKEN / 2
        else:
            beyond = {"left": half - x, "right": x - half, "top": half - y, "bottom": y - half}
            assert beyond[scene.place] >= TOKEN, (scene, side)
        assert any(scene.caption.find(words) > 0 for words in scenes.PLACES[scene.place])
        counts[scene.place] += 1
    assert set(counts) == set(scenes.PLACES) and min(counts.values()) > 40


def test_size_words_are_true_of_the_boxes_and_stand_before_their_objects(made):
    counts = Counter()
    of_word = {word: size for size, words in scenes.SIZE_WORDS.items() for word in words}
    for scene in (scene for scene in made if scene.relation != "two"):
        for sprite in scene.sprites:
            before = re.search(rf"(\w+) {sprite.name}\b", scene.caption)
            assert of_word.get(before[1] if before else "", "") == sprite.size
            if len(scene.sprites) == 1:
                assert sprite.side == scenes.SIDES[sprite.size]
            counts[sprite.size] += 1
        sides = {sprite.size: sprite.side for sprite in scene.sprites}
        ordered = [sides[size] for size in ("small", "", "big") if size in sides]
        assert ordered == sorted(set(ordered))  # one of two that is said to be bigger is
    assert min(counts[size] for size in ("small", "", "big")) > 100


def test_masks_cover_just_what_differs_from_the_ground(made):
    for scene in made[:40]:
        picture, masks = scenes.render(scene)
        bare, _ = scenes.render(scenes.Scene("", scene.color, (), scene.light, says_color=False))
        painted = np.any(picture != bare, axis=-1)
        covered = np.any(list(masks.values()), axis=0)
        assert not (covered & ~painted).sum() > 0.02 * covered.sum()  # a sprite may share the ground's colour
        assert set(masks) == {sprite.name for sprite in scene.sprites}


def test_a_mask_fills_the_longer_side_of_its_box_and_no_pixel_outside(made):
    for scene in made[:60]:
        masks = scenes.render(scene)[1]
        allowed = {name: np.zeros_like(mask) for name, mask in masks.items()}
        for sprite in scene.sprites:
            box = slice(sprite.top, sprite.top + sprite.side), slice(sprite.left, sprite.left + sprite.side)
            allowed[sprite.name][box] = True
            extents = (np.ptp(np.nonzero(masks[sprite.name][box])[axis]) + 1 for axis in (0, 1))
            assert max(extents) >= 0.8 * sprite.side
        assert not any((masks[name] & ~allowed[name]).any() for name in masks)


def test_boxes_lie_on_the_grid_of_image_tokens_inside_the_picture_and_apart(made, elsewhere):
    for scene in made + elsewhere:
        taken = np.zeros((scene.height // TOKEN, scene.width // TOKEN), int)
        for sprite in scene.sprites:
            left, top, side = (length // TOKEN for length in (sprite.left, sprite.top, sprite.side))
            assert (left * TOKEN, top * TOKEN, side * TOKEN) == (sprite.left, sprite.top, sprite.side)
            assert 0 <= left <= taken.shape[1] - side and 0 <= top <= taken.shape[0] - side
            taken[top : top + side, left : left + side] += 1
        assert taken.max() == 1


def test_a_scene_of_another_canvas_is_painted_in_its_size(elsewhere):
    for scene in elsewhere[::60]:
        picture, masks = scenes.render(scene)
        assert picture.shape == (scene.height, scene.width, 3)
        assert all(mask.shape == picture.shape[:2] for mask in masks.values())
    assert {(scene.width, scene.height) for scene in elsewhere} == set(scenes.CANVASES)


def test_what_is_held_out_is_never_shown_and_can_be_asked_for(made, elsewhere):
    assert not any(scenes.is_held_out(scene) for scene in made + elsewhere)
    rng = random.Random(1)
    assert all(scenes.is_held_out(scenes.make_scene(rng, held_out=True)) for _ in range(30))
    either = [scenes.is_held_out(scenes.make_scene(rng, held_out=None)) for _ in range(600)]
    assert 0.02 < np.mean(either) < 0.15


def test_held_out_pairs_do_not_hang_on_the_order_or_place_of_objects():
    rng = random.Random(2)
    for scene in (scenes.make_scene(rng, pairs=1, held_out=True) for _ in range(30)):
        turned = scenes.Scene("", scene.color, scene.sprites[::-1], 0.0, says_color=False)
        assert scenes.is_held_out(turned)


def test_each_object_and_each_ground_is_shown_with_most_of_the_others():
    grounds = {
        (name, color): scenes.is_held_out(
            scenes.Scene("", color, (scenes.Sprite(name, 0, 0, 64),), 0.0, says_color=False)
        )
        for name in scenes.OBJECTS
        for color in scenes.COLORS
    }
    for kind in (0, 1):
        hidden, all_of = Counter(), Counter()
        for pair, is_hidden in grounds.items():
            hidden[pair[kind]] += is_hidden
            all_of[pair[kind]] += 1
        assert all(hidden[name] <= 0.2 * all_of[name] for name in all_of)
    assert 0.02 < np.mean(list(grounds.values())) < 0.06


@pytest.mark.parametrize(
    ("one", "two"),
    [("cat", "cats"), ("bus", "buses"), ("fox", "foxes"), ("butterfly", "butterflies"), ("key", "keys"),
     ("fish", "fish"), ("snowman", "snowmen"), ("octopus", "octopuses"), ("strawberry", "strawberries")],
)  # fmt: skip
def test_plurals_are_english(one, two):
    assert scenes.plural(one) == two


def test_articles_go_by_the_sound_of_what_follows(made):
    for scene in made:
        for article, word in re.findall(r"\b(an?) (\w+)", scene.caption):
            assert article == ("an" if word[0] in "aeiou" else "a"), scene.caption


def test_every_object_has_its_own_picture():
    pictures = [scenes.sprite_image(name, 64).tobytes() for name in scenes.OBJECTS]
    assert len(set(pictures)) == len(scenes.OBJECTS) == 64


def test_a_named_object_is_the_one_that_is_shown():
    rng = random.Random(8)
    assert all(
        [sprite.name for sprite in scenes.make_scene(rng, name="owl").sprites] == ["owl"] for _ in range(20)
    )


def test_a_missing_font_says_what_to_install(monkeypatch):
    monkeypatch.setattr(scenes, "FONT_PLACES", ())
    monkeypatch.setenv("FLUXNB_EMOJI_FONT", "nowhere.ttf")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ttf.*fonts-noto-color-emoji"):
        scenes.font_path()


def test_sizes_of_single_objects_come_as_often_as_they_are_asked_for():
    rng = random.Random(7)
    sizes = [
        scenes.make_scene(rng, 0, sizes=("small", "big", "big", "big")).sprites[0].size for _ in range(800)
    ]
    counts = Counter(sizes)
    assert set(counts) == {"small", "big"} and 0.7 < counts["big"] / 800 < 0.8
