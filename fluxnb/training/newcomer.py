"""Write the handful of pictures that lesson 6 teaches the demo model a new word from.

    python -m fluxnb.training.newcomer --to fluxnb/demo-dinosaur

Twelve scenes of one object that the training never showed, in every size and on several grounds, as PNGs,
with their captions in `metadata.jsonl`, one {"file_name", "text"} a line, as Hugging Face's image
folders have them.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from PIL import Image

from fluxnb.training import scenes

COUNT = 12
SEED = 40_000


def write(folder: Path, word: str) -> None:
    """Write pictures and captions of a word into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    grounds = rng.sample(list(scenes.COLORS), len(scenes.COLORS))
    rows = []
    for i in range(COUNT):
        color = grounds[i % len(grounds)]
        size = ("", "big", "small")[i % 3]
        side = scenes.SIDES[size]
        free = (scenes.SIZE - side) // scenes.TOKEN
        left, top = (scenes.TOKEN * rng.randint(free // 3, free - free // 3) for _ in range(2))
        noun = scenes.article(f"{size} {word}".strip())
        scene = scenes.Scene(
            f"{noun} on {scenes.article(color)} background", color,
            (scenes.Sprite(word, left, top, side, size),), rng.uniform(-18, 18), says_color=True,
        )  # fmt: skip
        name = f"{word}-{i:02}.png"
        Image.fromarray(scenes.render(scene)[0]).save(folder / name, optimize=True)
        rows.append({"file_name": name, "text": scene.caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--word", default="dinosaur", choices=sorted(scenes.UNTAUGHT))
    args = parser.parse_args()
    write(args.to, args.word)


if __name__ == "__main__":
    main()
