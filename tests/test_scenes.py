"""The demo model's data: scenes say what they show, and masks are exact."""

import random

import numpy as np
import pytest

from fluxnb.training import scenes

try:
    scenes.font_path()
except FileNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def made():
    rng = random.Random(3)
    return [scenes.make_scene(rng) for _ in range(300)]


def test_a_seed_names_the_same_scenes():
    again = [scenes.make_scene(random.Random(5)) for _ in range(2)]
    assert again[0] == again[1]
    assert np.array_equal(scenes.render(again[0])[0], scenes.render(again[1])[0])


def test_the_caption_names_each_object_and_its_ground(made):
    for scene in made:
        words = scene.caption.replace(",", " ").split()
        assert {sprite.name for sprite in scene.sprites} == set(words) & set(scenes.OBJECTS)
        named = set(words) & set(scenes.COLORS)
        assert named == ({scene.color} if scene.says_color else set())


def test_relations_and_places_are_true_of_the_masks(made):
    def centre(mask):
        rows, columns = np.nonzero(mask)
        return columns.mean(), rows.mean()

    checked = 0
    for scene in made:
        masks = scenes.render(scene)[1]
        spots = [centre(masks[sprite.name]) for sprite in scene.sprites]
        if scene.relation in ("left", "above"):
            axis = ("left", "above").index(scene.relation)
            assert spots[0][axis] < spots[1][axis]
            first, second = (sprite.name for sprite in scene.sprites)
            forward = ("to the left of", "above")[axis]
            said = scene.caption.index(first) < scene.caption.index(second)
            assert said == (forward in scene.caption)
            checked += 1
        if scene.place:
            x, y = spots[0]
            half = scenes.SIZE / 2
            assert {"left": x < half, "right": x > half, "top": y < half, "bottom": y > half}[scene.place]
            checked += 1
    assert checked > 50


def test_masks_cover_just_what_differs_from_the_ground(made):
    for scene in made[:40]:
        picture, masks = scenes.render(scene)
        bare, _ = scenes.render(scenes.Scene("", scene.color, (), scene.light, says_color=False))
        painted = np.any(picture != bare, axis=-1)
        covered = np.any(list(masks.values()), axis=0)
        assert not (covered & ~painted).sum() > 0.02 * covered.sum()  # a sprite may share the ground's colour
        assert set(masks) == {sprite.name for sprite in scene.sprites}


def test_sprites_lie_on_the_grid_of_latent_cells_inside_the_picture(made):
    for scene in made:
        for sprite in scene.sprites:
            assert sprite.left % scenes.CELL == sprite.top % scenes.CELL == sprite.side % scenes.CELL == 0
            assert 0 <= sprite.left <= scenes.SIZE - sprite.side
            assert 0 <= sprite.top <= scenes.SIZE - sprite.side


def test_every_object_has_its_own_picture():
    pictures = [scenes.sprite_image(name, 64).tobytes() for name in scenes.OBJECTS]
    assert len(set(pictures)) == len(scenes.OBJECTS)


def test_a_missing_font_says_what_to_install(monkeypatch):
    monkeypatch.setattr(scenes, "FONT_PLACES", ())
    monkeypatch.setenv("FLUXNB_EMOJI_FONT", "nowhere.ttf")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ttf.*fonts-noto-color-emoji"):
        scenes.font_path()
