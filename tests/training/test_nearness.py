"""Real scenes are near to themselves at every place; what is torn, or another thing, is far."""

import random
from dataclasses import replace

import numpy as np
import pytest

from fluxnb.training import nearness, scenes
from fluxnb.training.exam import Seen


def painted(scene, move=0):
    """A scene's pixels, the lower half moved to the right."""
    picture = scenes.render(scene)[0]
    middle = picture.shape[0] // 2
    picture[middle:] = np.roll(picture[middle:], move, axis=1)
    return picture


@pytest.fixture(scope="module")
def singles():
    rng = random.Random(1)
    return [scenes.make_scene(rng, pairs=0) for _ in range(12)]


def test_a_real_scene_is_near_wherever_its_object_stands(singles):
    assert min(nearness.nearest(painted(scene), scene) for scene in singles) > 45


def test_what_is_torn_is_far_and_so_is_another_thing_or_size():
    sprite = scenes.Sprite("panda", 16, 16, 96, "big")
    scene = scenes.Scene("a big panda on red", "red", (sprite,), 5.0, says_color=True)
    assert nearness.nearest(painted(scene), scene) > 45
    assert nearness.nearest(painted(scene, move=24), scene) < nearness.NEAR
    for other in (replace(sprite, name="car"), replace(sprite, side=64)):
        assert nearness.nearest(painted(replace(scene, sprites=(other,))), scene) < nearness.NEAR


def test_shares_are_told_by_size_where_the_ground_is_named(singles):
    named = [scene for scene in singles if scene.says_color]
    torn = tuple(painted(scene, move=40 if scene.sprites[0].size else 0) for scene in singles)
    told = nearness.nearness(Seen(tuple(singles), tuple(range(12)), np.stack(torn), ()))
    assert sum(figure.count for figure in told) == len(named)
    shares = {figure.what.split(", ")[1]: figure.value for figure in told}
    assert shares["objects of middle size"] == 100 and shares["big objects"] == 0
