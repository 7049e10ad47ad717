"""Procedural scenes: emoji sprites on coloured grounds, with captions and exact masks.

Knows nothing of networks or torch. A scene is a pure function of a `random.Random`, so a seed
names a data set. Sprites come from the Noto Color Emoji font (SIL Open Font License 1.1).

Sprite boxes lie on the grid of image tokens (16 px) and have four sides: the same object at the
same size is then the same few tokens wherever it stands, which lets a small transformer learn
from fewer scenes. Some pairs of an object with a ground, and of two objects, are held out: no
scene of `make_scene` shows them unless asked to.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 128  # pixels, both sides of most scenes
TOKEN = 16  # pixels to an image token; sides of pictures and boxes are multiples
CANVASES = ((96, 96), (96, 128), (128, 96), (128, 192), (192, 128), (160, 160), (192, 192))
"""Other sizes that training shows, (width, height) in pixels."""

OBJECTS = {
    "cat": "🐱", "dog": "🐶", "fox": "🦊", "panda": "🐼", "frog": "🐸", "lion": "🦁", "pig": "🐷",
    "rabbit": "🐰", "butterfly": "🦋", "tree": "🌳", "flower": "🌸", "sunflower": "🌻",
    "cactus": "🌵", "mushroom": "🍄", "apple": "🍎", "banana": "🍌", "strawberry": "🍓",
    "pizza": "🍕", "donut": "🍩", "cake": "🎂", "car": "🚗", "bus": "🚌", "rocket": "🚀",
    "boat": "⛵", "house": "🏠", "star": "⭐", "moon": "🌙", "heart": "💜", "ball": "⚽",
    "balloon": "🎈", "guitar": "🎸", "umbrella": "☂",
    "bear": "🐻", "cow": "🐮", "tiger": "🐯", "monkey": "🐵", "penguin": "🐧", "owl": "🦉",
    "fish": "🐟", "whale": "🐳", "octopus": "🐙", "crab": "🦀", "turtle": "🐢", "ladybug": "🐞",
    "elephant": "🐘", "drum": "🥁", "pear": "🍐", "pineapple": "🍍", "watermelon": "🍉",
    "lemon": "🍋", "carrot": "🥕", "burger": "🍔", "cookie": "🍪", "train": "🚂", "plane": "✈",
    "key": "🔑", "book": "📕", "crown": "👑", "bell": "🔔", "gift": "🎁", "robot": "🤖",
    "snowman": "⛄", "sun": "🌞", "pumpkin": "🎃",
}  # fmt: skip
"""Every word the demo model draws, with its sprite."""

COLORS = {
    "red": (214, 60, 54), "orange": (240, 150, 60), "yellow": (244, 214, 90),
    "green": (96, 170, 92), "blue": (84, 140, 214), "purple": (140, 100, 190),
    "pink": (240, 160, 190), "white": (244, 244, 244), "black": (34, 34, 38),
    "gray": (140, 144, 150),
}  # fmt: skip
"""Every ground, as sRGB 0..255 before its light gradient."""

SIDES = {"small": 48, "": 64, "big": 96}  # sides of the box of an object alone, in pixels
PAIR_SIDES = {"small": 48, "": 64, "big": 80}  # of one of two objects; both 48 if two do not fit
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "big": ("big", "big", "large", "huge")}
PLACES = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle", "in the center"),
}
RELATIONS = {
    "left": (("to the left of", "left of"), ("to the right of", "right of")),
    "above": (("above", "over"), ("below", "under")),
    "beside": (("next to", "beside"),),
    "and": (("and",),),
}
"""What is said of a first sprite and a second, and of the second and the first if anything is: of two
side by side, the one named first stands on the left, of two above each other on top."""
GROUNDS = ("on {} background",) * 3 + (", {} background", "in front of {} wall", "on {}")
PREFIXES = ("",) * 4 + ("a photo of ", "a picture of ", "an image of ", "photo of ")
PLURALS = {"fish": "fish", "snowman": "snowmen"}
SIZES = ("small", "", "", "big")  # of one object, each as often as it stands here
PAIRS = 0.75  # share of two objects, which take longer to learn, for text encoders and transformer
LIGHT = 18  # of 255: how strong the gradient of a ground is at most
HELD_OUT = 25  # one pair of this many is held out
FONT_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)
SPRITE_POINTS = 109  # the one bitmap size of the font


@dataclass(frozen=True, slots=True)
class Sprite:
    """One object of a scene: its word, its box in pixels, and "small", "big" or "" as the caption has it."""

    name: str
    left: int
    top: int
    side: int
    size: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a scene holds and what is said of it; `render` makes its pixels.

    Args:
        caption: The true caption.
        color: Ground, a key of `COLORS`.
        sprites: One or two sprites, in the order drawn.
        light: Strength of the vertical light gradient, -`LIGHT`..`LIGHT` of 255.
        says_color: Whether the caption names the ground.
        relation: "left", "above" (first to second sprite), "beside", "and", "two" (the same
            object twice), or "" for one sprite.
        place: A key of `PLACES`, or "" where the caption names none.
        width: Pixels, a multiple of `TOKEN`.
        height: Pixels, a multiple of `TOKEN`.
    """

    caption: str
    color: str
    sprites: tuple[Sprite, ...]
    light: float
    says_color: bool
    relation: str = ""
    place: str = ""
    width: int = SIZE
    height: int = SIZE


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


def render(
    scene: Scene, draw: Callable[[str, int], Image.Image] = sprite_image
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Paint a scene.

    Args:
        scene: What to paint.
        draw: The sprite of a name, RGBA, centred in a box of so many pixels a side.

    Returns:
        The picture, uint8 (height, width, 3), and a bool mask (height, width) of what is visible of
        each object, by name; an object that stands there twice has one mask.
    """
    shape = (scene.height, scene.width)
    ramp = np.linspace(-1, 1, scene.height)[:, None, None] * scene.light
    canvas = np.clip(np.array(COLORS[scene.color], np.float64) + ramp + np.zeros((*shape, 3)), 0, 255)
    masks: dict[str, np.ndarray] = {}
    for sprite in scene.sprites:
        layer = Image.new("RGBA", (scene.width, scene.height), (0, 0, 0, 0))
        layer.paste(draw(sprite.name, sprite.side), (sprite.left, sprite.top))
        pixels = np.asarray(layer, np.float64)
        alpha = pixels[..., 3:] / 255
        canvas = canvas * (1 - alpha) + pixels[..., :3] * alpha
        covers = alpha[..., 0] > 0.5
        masks = {name: mask & ~covers for name, mask in masks.items()}
        masks[sprite.name] = masks.get(sprite.name, False) | covers
    return np.rint(canvas).astype(np.uint8), masks


def article(words: str) -> str:
    """`words` behind "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def plural(name: str) -> str:
    """The word for two of an object."""
    if name in PLURALS:
        return PLURALS[name]
    if name.endswith(("s", "x", "sh", "ch")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def is_held_out(scene: Scene) -> bool:
    """Whether a scene shows a pair that training never sees: an object on a ground, or two objects."""
    names = [list(OBJECTS).index(s.name) for s in scene.sprites]
    color = list(COLORS).index(scene.color)
    if any((7 * name + 3 * color) % HELD_OUT == 0 for name in names):
        return True
    return len(set(names)) == 2 and (sum(names) * 11 + names[0] * names[1]) % HELD_OUT == 0


def _noun(rng: random.Random, name: str, size: str) -> str:
    """An object with its size word and an article, now and then "the" or none."""
    words = f"{rng.choice(SIZE_WORDS[size])} {name}" if size else name
    return rng.choice([article(words)] * 10 + [f"the {words}", words])


def _spot(rng: random.Random, slot: str, free: int) -> int:
    """Where a box begins along one axis, in tokens, with `free` tokens besides it."""
    if slot == "low":
        return rng.randint(0, max(0, (free - 3) // 2))
    if slot == "high":
        return free - rng.randint(0, max(0, (free - 3) // 2))
    middle = free // 2 + rng.randint(0, free % 2)
    return middle if slot == "middle" or free < 2 else middle + rng.randint(-1, 1)


def _single(
    rng: random.Random, name: str, canvas: tuple[int, int], sizes: tuple[str, ...]
) -> tuple[str, dict]:
    """One object: caption without ground, and the fields of its `Scene`."""
    size = rng.choice(sizes)
    side = min(SIDES[size], min(canvas) - TOKEN)
    place = rng.choice(list(PLACES)) if rng.random() < 0.5 else ""
    across, down = {
        "left": ("low", ""), "right": ("high", ""), "top": ("", "low"), "bottom": ("", "high"),
        "middle": ("middle", "middle"), "": ("", ""),
    }[place]  # fmt: skip
    left, top = (
        TOKEN * _spot(rng, slot, (length - side) // TOKEN)
        for slot, length in zip((across, down), canvas, strict=True)
    )
    text = " ".join([_noun(rng, name, size), *([rng.choice(PLACES[place])] if place else [])])
    return text, {"sprites": (Sprite(name, left, top, side, size),), "place": place}


def _pair(rng: random.Random, names: tuple[str, str], canvas: tuple[int, int]) -> tuple[str, dict]:
    """Two objects: caption without ground, and the fields of their `Scene`."""
    relation = rng.choice(["left", "left", "above", "beside", "and"])
    sizes = rng.choice([("", "")] * 6 + [("small", "big"), ("big", "small"), ("small", ""), ("", "small")])
    if names[0] == names[1]:
        relation, sizes = "two", ("", "")
    upright = relation == "above" or (relation in ("and", "two") and canvas[1] > canvas[0])
    along, across = (canvas[1], canvas[0]) if upright else canvas
    sides = tuple(PAIR_SIDES[size] for size in sizes)
    if sum(sides) > along:
        sizes, sides = ("", ""), (48, 48)
    room = (along - sum(sides)) // TOKEN
    begins = rng.randint(0, room // 2), along // TOKEN - sides[1] // TOKEN - rng.randint(0, room // 2)
    sprites = []
    for name, size, side, begin in zip(names, sizes, sides, begins, strict=True):
        spot = TOKEN * begin, TOKEN * _spot(rng, "", (across - side) // TOKEN)
        sprites.append(Sprite(name, *(spot[::-1] if upright else spot), side, size))
    if relation == "two":
        return rng.choice([f"two {plural(names[0])}"] * 3 + [plural(names[0])]), {
            "sprites": tuple(sprites), "relation": relation,
        }  # fmt: skip
    nouns = [_noun(rng, sprite.name, sprite.size) for sprite in sprites]
    turned = rng.randrange(2) % len(RELATIONS[relation])  # the same draws whatever the relation
    words = rng.choice(RELATIONS[relation][turned])
    text = " ".join([nouns[turned], words, nouns[1 - turned]])
    return text, {"sprites": tuple(sprites), "relation": relation}


def make_scene(
    rng: random.Random,
    pairs: float = 0.5,
    name: str | None = None,
    canvas: tuple[int, int] = (SIZE, SIZE),
    held_out: bool | None = False,
    sizes: tuple[str, ...] = SIZES,
) -> Scene:
    """A scene drawn from the demo model's data.

    Args:
        rng: Source of every choice.
        pairs: Share of scenes with two objects, 0..1; one in ten of them shows the same object twice.
        name: The object of a single-object scene; chosen by `rng` if not given.
        canvas: Width and height in pixels, multiples of `TOKEN` from 96.
        held_out: Whether the scene shows a held-out pair; None does not mind.
        sizes: Keys of `SIDES`, one of which is drawn for an object alone.
    """
    while True:
        color = rng.choice(list(COLORS))
        if name is None and rng.random() < pairs:
            first, second = rng.sample(list(OBJECTS), 2)
            text, fields = _pair(rng, (first, first if rng.random() < 0.1 else second), canvas)
        else:
            text, fields = _single(rng, name or rng.choice(list(OBJECTS)), canvas, sizes)
        says_color = rng.random() < 0.85
        if says_color:
            ground = rng.choice(GROUNDS)
            colored = color if ground == "on {}" or ground[0] == "," else article(color)
            text += ("" if ground[0] == "," else " ") + ground.format(colored)
        light = rng.uniform(-LIGHT, LIGHT)
        width, height = canvas
        scene = Scene(
            rng.choice(PREFIXES) + text, color, light=light, says_color=says_color,
            width=width, height=height, **fields,
        )  # fmt: skip
        if held_out is None or is_held_out(scene) == held_out:
            return scene
