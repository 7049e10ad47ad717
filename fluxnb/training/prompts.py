"""Scenes that training never saw, whose captions are the prompts of the evaluation; knows no networks.

Seeds lie apart from those of all trainings, so that a scene was not seen; its caption may have been, since
captions come from templates, but for the pairs that are held out of training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from fluxnb.training.scenes import SIZE, Scene, is_held_out, make_scene

SEED = 7_000_000


def seen(count: int, pairs: float, seed: int, canvas: tuple[int, int] = (SIZE, SIZE)) -> list[Scene]:
    """Scenes of pairs that training shows, of which a share `pairs` has two objects."""
    rng = random.Random(SEED + seed)
    return [make_scene(rng, pairs, canvas=canvas) for _ in range(count)]


def twins(count: int) -> list[Scene]:
    """Scenes that show an object twice."""
    rng = random.Random(SEED + 3)
    return first(count, lambda: make_scene(rng, pairs=1), lambda scene: scene.relation == "two")


def held_grounds(count: int) -> list[Scene]:
    """Scenes of one object on a ground that training never shows it on, and that the caption names."""
    rng = random.Random(SEED + 4)
    return first(count, lambda: make_scene(rng, 0, held_out=True), lambda scene: scene.says_color)


def held_pairs(count: int) -> list[Scene]:
    """Scenes of two objects that training never shows together, each on a ground where it shows it."""
    rng = random.Random(SEED + 5)

    def by_objects_alone(scene: Scene) -> bool:
        return not any(is_held_out(replace(scene, sprites=(sprite,))) for sprite in scene.sprites)

    return first(count, lambda: make_scene(rng, 1, held_out=True), by_objects_alone)


def alike(rng: random.Random, scene: Scene) -> Scene:
    """A scene that could have the caption of another: what that one leaves open is drawn anew."""

    def said(one: Scene) -> tuple:
        sizes = [sprite.size for sprite in one.sprites]
        return sizes, one.relation, one.place, one.says_color and one.color

    pairs = float(len(scene.sprites) == 2)
    (other,) = first(
        1, lambda: make_scene(rng, pairs, held_out=None), lambda other: said(other) == said(scene)
    )
    sprites = (
        replace(sprite, name=named.name) for sprite, named in zip(other.sprites, scene.sprites, strict=True)
    )
    return replace(other, sprites=tuple(sprites), caption=scene.caption)


def first(count: int, make: Callable[[], Scene], fits: Callable[[Scene], bool]) -> list[Scene]:
    """The first scenes that fit."""
    made: list[Scene] = []
    while len(made) < count:
        scene = make()
        if fits(scene):
            made.append(scene)
    return made
