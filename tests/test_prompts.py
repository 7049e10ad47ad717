"""The scenes whose captions are the evaluation's prompts."""

import random
from dataclasses import replace

import numpy as np

from fluxnb.training import prompts, scenes


def test_seen_scenes_are_of_pairs_that_training_shows_and_the_same_every_time():
    made = prompts.seen(30, 0.5, 7)
    assert made == prompts.seen(30, 0.5, 7) != prompts.seen(30, 0.5, 8)
    assert not any(map(scenes.is_held_out, made))
    assert {len(scene.sprites) for scene in made} == {1, 2}


def test_twins_show_one_object_twice():
    made = prompts.twins(10)
    assert all(len({sprite.name for sprite in scene.sprites}) == 1 for scene in made)
    assert all(len(scene.sprites) == 2 for scene in made)


def test_held_out_grounds_are_named():
    for scene in prompts.held_grounds(15):
        assert scenes.is_held_out(scene) and len(scene.sprites) == 1 and scene.color in scene.caption.split()


def test_held_out_pairs_are_so_by_their_objects_on_any_ground():
    for scene in prompts.held_pairs(15):
        assert len({sprite.name for sprite in scene.sprites}) == 2
        assert all(scenes.is_held_out(replace(scene, color=color)) for color in scenes.COLORS)
        assert not any(scenes.is_held_out(replace(scene, sprites=(sprite,))) for sprite in scene.sprites)


def test_scenes_alike_keep_what_is_said_and_vary_in_what_is_not():
    rng = random.Random(0)
    for scene in prompts.seen(8, 0.5, 1):
        others = [prompts.alike(rng, scene) for _ in range(12)]
        for other in others:
            assert other.caption == scene.caption
            assert (other.relation, other.place) == (scene.relation, scene.place)
            kept = [[(sprite.name, sprite.size) for sprite in one.sprites] for one in (scene, other)]
            assert kept[0] == kept[1]
        colors = {other.color for other in others}
        assert colors == {scene.color} if scene.says_color else len(colors) > 2
        assert len({other.light for other in others}) == 12
    pictures = [scenes.render(one)[0] for one in others]
    assert not np.array_equal(*pictures[:2])
