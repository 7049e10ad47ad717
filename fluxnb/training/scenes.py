"""Procedural scenes: emoji sprites on coloured grounds, with captions and exact masks.

Knows nothing of networks or torch. A scene is a pure function of a `random.Random`, so a seed
names a data set. Sprites come from the Noto Color Emoji font (SIL Open Font License 1.1).

Sprite boxes lie on the grid of latent cells (8 px): the same object at the same size then has
the same latents wherever it stands, which lets a small transformer learn from fewer scenes.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 128  # pixels, both sides
CELL = 8  # pixels to a latent cell

OBJECTS = {
    "cat": "🐱", "dog": "🐶", "fox": "🦊", "panda": "🐼", "frog": "🐸", "lion": "🦁", "pig": "🐷",
    "rabbit": "🐰", "butterfly": "🦋", "tree": "🌳", "flower": "🌸", "sunflower": "🌻",
    "cactus": "🌵", "mushroom": "🍄", "apple": "🍎", "banana": "🍌", "strawberry": "🍓",
    "pizza": "🍕", "donut": "🍩", "cake": "🎂", "car": "🚗", "bus": "🚌", "rocket": "🚀",
    "boat": "⛵", "house": "🏠", "star": "⭐", "moon": "🌙", "heart": "💜", "ball": "⚽",
    "balloon": "🎈", "guitar": "🎸", "umbrella": "☂",
}  # fmt: skip
"""Every word the demo model draws, with its sprite."""

COLORS = {
    "red": (214, 60, 54), "orange": (240, 150, 60), "yellow": (244, 214, 90),
    "green": (96, 170, 92), "blue": (84, 140, 214), "purple": (140, 100, 190),
    "pink": (240, 160, 190), "white": (244, 244, 244), "black": (34, 34, 38),
    "gray": (140, 144, 150),
}  # fmt: skip
"""Every ground, as sRGB 0..255 before its light gradient."""

SIZES = {"small": (40, 48), "": (64, 72), "big": (96, 104)}  # box sides in pixels
PAIR_SIZES = (48, 56)  # box sides of two objects in one scene
PREFIXES = ("", "", "a photo of ", "a picture of ", "an image of ")
FONT_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)
SPRITE_POINTS = 109  # the one bitmap size of the font


@dataclass(frozen=True, slots=True)
class Sprite:
    """One object of a scene: its word and its box in pixels."""

    name: str
    left: int
    top: int
    side: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What a scene holds and what is said of it; `render` makes its pixels.

    Args:
        caption: The true caption.
        color: Ground, a key of `COLORS`.
        sprites: One or two sprites, in the order drawn.
        light: Strength of the vertical light gradient, -18..18 of 255.
        says_color: Whether the caption names the ground.
        relation: "left", "above" (first to second sprite), "and", or "" for one sprite.
        place: "left", "right", "top", "bottom", or "" where the caption names none.
        size: "small", "big" or "".
    """

    caption: str
    color: str
    sprites: tuple[Sprite, ...]
    light: float
    says_color: bool
    relation: str = ""
    place: str = ""
    size: str = ""


def font_path() -> Path:
    """The Noto Color Emoji font: `FLUXNB_EMOJI_FONT`, or where Linux distributions put it.

    Raises:
        FileNotFoundError: With the package to install.
    """
    places = [p for p in (os.environ.get("FLUXNB_EMOJI_FONT"), *FONT_PLACES) if p]
    for place in places:
        if Path(place).is_file():
            return Path(place)
    raise FileNotFoundError(
        f"NotoColorEmoji.ttf is not at {', '.join(places)}; install the Debian package "
        "fonts-noto-color-emoji or set FLUXNB_EMOJI_FONT to the file"
    )


@cache
def sprite_image(name: str, side: int) -> Image.Image:
    """The sprite of an object, RGBA, its longer side `side` pixels, centred in a square box."""
    font = ImageFont.truetype(str(font_path()), SPRITE_POINTS)
    drawn = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(drawn).text((12, 12), OBJECTS[name], font=font, embedded_color=True)
    cut = drawn.crop(drawn.getbbox())
    ratio = side / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * ratio)), max(1, round(cut.height * ratio))), Image.LANCZOS)
    box = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    box.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return box


def render(scene: Scene, size: int = SIZE) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Paint a scene.

    Returns:
        The picture, uint8 (size, size, 3), and a bool mask (size, size) of what is visible of
        each object, by name.
    """
    ramp = np.linspace(-1, 1, size)[:, None, None] * scene.light
    canvas = np.clip(np.array(COLORS[scene.color], np.float64) + ramp + np.zeros((size, size, 3)), 0, 255)
    masks: dict[str, np.ndarray] = {}
    for sprite in scene.sprites:
        layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        layer.paste(sprite_image(sprite.name, sprite.side), (sprite.left, sprite.top))
        pixels = np.asarray(layer, np.float64)
        alpha = pixels[..., 3:] / 255
        canvas = canvas * (1 - alpha) + pixels[..., :3] * alpha
        covers = alpha[..., 0] > 0.5
        masks = {name: mask & ~covers for name, mask in masks.items()} | {sprite.name: covers}
    return np.rint(canvas).astype(np.uint8), masks


def article(word: str) -> str:
    """`word` behind "a" or "an"."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def _box(
    rng: random.Random, name: str, side: int, x: float, y: float, jitter_x: int, jitter_y: int
) -> Sprite:
    """A sprite near the centre (x, y), as fractions; jitter in cells; kept inside the picture."""

    def edge(centre: float, jitter: int) -> int:
        cells = round((centre * SIZE - side / 2) / CELL) + rng.randint(-jitter, jitter)
        return min(max(cells * CELL, 0), SIZE - side)

    return Sprite(name, edge(x, jitter_x), edge(y, jitter_y), side)


def single(rng: random.Random, name: str) -> tuple[str, dict]:
    """One object: caption without ground, and the fields of its `Scene`."""
    size = rng.choice(["small", "", "", "big"])
    side = rng.choice(SIZES[size])
    noun = article(f"{size} {name}".strip())
    place = rng.choice(["left", "right", "top", "bottom"]) if size != "big" and rng.random() < 0.4 else ""
    x = {"left": 0.27, "right": 0.73}.get(place, 0.5)
    y = {"top": 0.27, "bottom": 0.73}.get(place, 0.5)
    jitter_x, jitter_y = (1, 1) if size == "big" or not place else (0, 1) if x != 0.5 else (1, 0)
    where = {
        "left": " on the left",
        "right": " on the right",
        "top": " at the top",
        "bottom": " at the bottom",
    }
    sprite = _box(rng, name, side, x, y, jitter_x, jitter_y)
    return noun + where.get(place, ""), {"sprites": (sprite,), "place": place, "size": size}


def pair(rng: random.Random, names: tuple[str, str]) -> tuple[str, dict]:
    """Two objects: caption without ground, and the fields of their `Scene`."""
    first, second = names
    sides = rng.choice(PAIR_SIZES), rng.choice(PAIR_SIZES)
    relation = rng.choice(["left", "left", "above", "and"])
    a, b = article(first), article(second)
    if relation == "above" or (relation == "and" and rng.random() < 0.3):
        spots = ((0.5, 0.26, 1, 0), (0.5, 0.74, 1, 0))
        text = rng.choice([f"{a} above {b}", f"{b} below {a}"])
    else:
        spots = ((0.26, 0.5, 0, 1), (0.74, 0.5, 0, 1))
        text = rng.choice([f"{a} to the left of {b}", f"{b} to the right of {a}"])
    if relation == "and":
        text = rng.choice([f"{a} and {b}", f"{b} and {a}"])
    boxes = tuple(_box(rng, n, s, *spot) for n, s, spot in zip(names, sides, spots, strict=True))
    return text, {"sprites": boxes, "relation": relation}


def make_scene(rng: random.Random, pairs: float = 0.35, name: str | None = None) -> Scene:
    """A scene drawn from the demo model's data.

    Args:
        rng: Source of every choice.
        pairs: Share of scenes with two objects, 0..1.
        name: The object of a single-object scene; chosen by `rng` if not given.
    """
    color = rng.choice(list(COLORS))
    if name is None and rng.random() < pairs:
        first, second = rng.sample(list(OBJECTS), 2)
        text, fields = pair(rng, (first, second))
    else:
        text, fields = single(rng, name or rng.choice(list(OBJECTS)))
    says_color = rng.random() < 0.85
    if says_color:
        text += rng.choice(
            [f" on {article(color)} background"] * 3
            + [f", {color} background", f" in front of {article(color)} wall"]
        )
    light = rng.uniform(-18, 18)
    return Scene(rng.choice(PREFIXES) + text, color, light=light, says_color=says_color, **fields)
