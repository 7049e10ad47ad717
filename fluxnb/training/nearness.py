"""How near a picture of one object comes to a real scene of its caption; knows nothing of networks.

The judge names an object that is torn or stretched too: this measure asks for every pixel.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from fluxnb.training import figures
from fluxnb.training.exam import Seen, decibels
from fluxnb.training.figures import Figure
from fluxnb.training.scenes import COLORS, LIGHT, TOKEN, Scene, sprite_image

NEAR = 22.0  # dB; the autoencoder alone leaves 30, and what is below 20 is torn, stretched or another thing
PART = "One object, as near to a real scene of its caption"
SIZES = {"big": "big objects", "": "objects of middle size", "small": "small objects"}


def nearest(picture: np.ndarray, scene: Scene) -> float:
    """The PSNR of a picture against the nearest scene of one object, in dB.

    That has the scene's object, size and ground, at any place of the grid and in any light.

    Args:
        picture: uint8 (height, width, 3).
        scene: What was asked for; its ground counts, named or not.
    """
    (sprite,) = scene.sprites
    pixels = np.asarray(sprite_image(sprite.name, sprite.side), np.float64)
    drawn, alpha = pixels[..., :3], pixels[..., 3:] / 255
    ramp = np.linspace(-1, 1, scene.height)[:, None, None] + np.zeros((1, scene.width, 1))
    ground = np.array(COLORS[scene.color], np.float64)
    found = []
    for top, left in product(
        *(range(0, length - sprite.side + 1, TOKEN) for length in (scene.height, scene.width))
    ):
        box = slice(top, top + sprite.side), slice(left, left + sprite.side)
        free = np.ones_like(ramp)
        free[box] -= alpha
        light = (free * ramp * (picture - ground)).sum() / (3 * (free * ramp**2).sum())
        shown = np.clip(ground + np.clip(light, -LIGHT, LIGHT) * ramp, 0, 255) * free
        shown[box] += drawn * alpha
        found.append(decibels(picture, shown))
    return max(found)


def nearness(singles: Seen) -> list[Figure]:
    """Shares of pictures of one object that are near a real scene, by size, where the ground is named."""
    made = []
    for size, words in SIZES.items():
        near = [
            nearest(picture, scene) >= NEAR
            for scene, picture in zip(singles.scenes, singles.pictures, strict=True)
            if scene.says_color and scene.sprites[0].size == size
        ]
        if near:
            made.append(figures.share(PART, f"at least {NEAR:g} dB, {words}", near))
    return made
