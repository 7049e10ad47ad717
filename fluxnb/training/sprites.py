"""One sprite of one's own -> pictures and captions to teach it by, in the manner of the demo model's scenes.

Knows nothing of networks, and needs no font.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image

from fluxnb import checks
from fluxnb.errors import InputError
from fluxnb.training import scenes

DINOSAUR = Path(__file__).parents[1] / "demo" / "dinosaur"
"""Folder of an adapter for the demo model, and of the sprite that it was taught by, "dinosaur.png"."""


def on_grounds(
    sprite: Image.Image, word: str, count: int = 12, seed: int = 0
) -> tuple[list[Image.Image], list[str]]:
    """Lays a sprite on coloured grounds, in the sizes and places of the demo model's scenes.

    Args:
        sprite: With a transparent ground; what is transparent around it is cut off.
        word: What captions call it.
        count: How many pictures, each 128 x 128 pixels.
        seed: Of all that is random.

    Returns:
        The pictures, and the caption of each.

    Raises:
        InputError: if there is nothing in the sprite.
    """
    sprite = sprite.convert("RGBA")
    box = sprite.getchannel("A").getbbox()
    if box is None:
        raise InputError("the sprite is transparent all over; draw something on it")
    cut = sprite.crop(box)

    def draw(_: str, side: int) -> Image.Image:
        ratio = side / max(cut.size)
        fitted = cut.resize(tuple(max(1, round(length * ratio)) for length in cut.size), Image.LANCZOS)
        square = Image.new("RGBA", (side, side))
        square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
        return square

    rng = random.Random(checks.whole("seed", seed, 0))
    made = [
        scenes.make_scene(rng, name=checks.text("the word", word), held_out=None)
        for _ in range(checks.whole("count", count, 1))
    ]
    return [Image.fromarray(scenes.render(one, draw)[0]) for one in made], [one.caption for one in made]


def others(count: int = 24, seed: int = 0) -> list[str]:
    """Gives captions of what the demo model knows, for it not to forget.

    Args:
        count: How many; the last one is empty, as CFG has it.
        seed: Of all that is random.
    """
    rng = random.Random(checks.whole("seed", seed, 0))
    captions = [scenes.make_scene(rng).caption for _ in range(checks.whole("count", count, 1) - 1)]
    return [*captions, ""]
