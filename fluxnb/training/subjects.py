"""Scenes that training never saw, ready for passes through a network; knows nothing of attention."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import mlx.core as mx
import numpy as np

from fluxnb import concepts, source
from fluxnb.pipeline import FluxPipeline
from fluxnb.texts import TextEmbedding
from fluxnb.training import prompts, scenes, scoring

SEED = 7_100_000
PAIRS = 0.35
CELL = 8  # pixels to a latent cell
BACKGROUND = "background"  # the concept that is no object


@dataclass(frozen=True, slots=True)
class Subject:
    """A scene that training never saw, ready for passes.

    Args:
        number: Which one.
        latents: Of its picture, (1, H, W, C), normalised.
        text: Its true caption.
        shares: For each object what its mask covers of each image token, (h, w).
        absent_text: The caption with an object that is not there in the place of the first.
        absent: That object's word.
        states: For each of these words, and for `BACKGROUND`, its T5 states as a text of its own.
    """

    number: int
    latents: mx.array
    text: TextEmbedding
    shares: dict[str, np.ndarray]
    absent_text: TextEmbedding
    absent: str
    states: dict[str, mx.array]


def subjects(pipeline: FluxPipeline, count: int) -> Iterator[Subject]:
    """The first `count` scenes of `SEED`, of which about a third have two objects, of two words."""
    rng = random.Random(SEED)
    size = (scenes.SIZE // CELL, scenes.SIZE // CELL)

    @cache
    def encode(word: str) -> mx.array:
        return concepts.encode(pipeline.networks, word)

    def make() -> scenes.Scene:
        return scenes.make_scene(rng, PAIRS)

    for number in range(count):
        (scene,) = prompts.first(1, make, lambda scene: scene.relation != "two")
        picture, masks = scenes.render(scene)
        names = [sprite.name for sprite in scene.sprites]
        absent = rng.choice([name for name in scenes.OBJECTS if name not in names])
        replaced = re.sub(
            rf"\b(an? )?{names[0]}\b",
            lambda found, absent=absent: scenes.article(absent) if found[1] else absent,
            scene.caption,
        )
        yield Subject(
            number,
            pipeline.encode(source.read(picture), size),
            pipeline.encode_text(scene.caption),
            {name: scoring.token_shares(mask) for name, mask in masks.items()},
            pipeline.encode_text(replaced),
            absent,
            {word: encode(word) for word in (*names, absent, BACKGROUND)},
        )
