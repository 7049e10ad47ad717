"""Writes down the words and sizes that the scenes teach, for whoever prompts the demo model.

    python -m fluxnb.training.vocabulary fluxnb/demo

Knows nothing of networks or torch. What is said of other words is `fluxnb.checkpoints.vocabulary`'s affair.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from fluxnb.checkpoints.vocabulary import FILE, Vocabulary, split
from fluxnb.training import scenes

MEANINGS = {
    "cat": "kitten kitty feline pet animal",
    "dog": "puppy pup hound wolf pet animal",
    "fox": "wolf coyote squirrel animal",
    "panda": "raccoon badger koala",
    "frog": "toad",
    "lion": "lioness leopard cheetah",
    "pig": "piglet hog boar",
    "rabbit": "bunny hare hamster squirrel mouse",
    "butterfly": "moth bee insect dragonfly",
    "tree": "forest wood woods oak pine leaf bush plant",
    "flower": "rose tulip daisy blossom garden plant",
    "sunflower": "daisy",
    "cactus": "desert",
    "mushroom": "toadstool fungus",
    "apple": "fruit peach cherry tomato",
    "banana": "fruit",
    "strawberry": "berry raspberry cherry",
    "pizza": "food cheese",
    "donut": "doughnut bagel",
    "cake": "cupcake pie dessert",
    "car": "automobile auto taxi cart truck van vehicle",
    "bus": "coach truck van vehicle",
    "rocket": "spaceship spacecraft space",
    "boat": "ship sailboat yacht sea",
    "house": "home cottage hut cabin building castle",
    "star": "starfish night",
    "moon": "crescent night planet",
    "heart": "love",
    "ball": "football soccer basketball",
    "guitar": "banjo violin ukulele instrument",
    "umbrella": "parasol rain",
    "bear": "teddy grizzly koala",
    "cow": "bull ox calf goat sheep horse donkey",
    "tiger": "leopard cheetah zebra",
    "monkey": "ape chimp chimpanzee gorilla",
    "owl": "bird eagle parrot duck chicken crow bat",
    "penguin": "bird duck chicken",
    "fish": "goldfish shark",
    "whale": "dolphin orca shark",
    "octopus": "squid jellyfish",
    "crab": "lobster shrimp",
    "turtle": "tortoise",
    "ladybug": "ladybird beetle bug insect",
    "elephant": "mammoth rhino hippo giraffe",
    "drum": "instrument",
    "pear": "fruit",
    "watermelon": "melon",
    "lemon": "lime citrus",
    "carrot": "vegetable",
    "burger": "hamburger cheeseburger sandwich food",
    "cookie": "biscuit",
    "train": "locomotive tram subway",
    "plane": "airplane aeroplane aircraft jet",
    "key": "lock",
    "book": "notebook magazine novel",
    "crown": "hat cap king queen tiara",
    "gift": "present box parcel",
    "robot": "android droid machine",
    "snowman": "snow winter",
    "sun": "sunshine sunrise sunset",
    "pumpkin": "halloween squash",
    "red": "crimson scarlet maroon",
    "orange": "amber brown",
    "yellow": "golden gold",
    "green": "emerald olive lime",
    "blue": "navy azure cyan turquoise teal sky",
    "purple": "violet lilac lavender magenta",
    "pink": "magenta rose",
    "white": "ivory bright",
    "black": "dark",
    "gray": "grey silver",
    "small": "mini miniature short",
    "large": "giant enormous gigantic tall",
    "center": "centre",
    "next to": "by near with alongside",
    "above": "atop",
    "under": "beneath underneath",
    "two": "2 three four five six several many some 3 4 5 6",
    "a": "one 1",
    "photo": "photograph",
    "picture": "drawing painting sketch illustration",
    "background": "backdrop",
}  # fmt: skip
"""What was taught, and words of nearly the same meaning, or of the same kind, that were not."""

MISLEADING = """
beard beer belly belt blew block boot boots bow bowl brain bread card chair clown coat drain dumb eyes
fog free from grain greet her hose its lake light long lower pan park pea peas peer pier plain plate rock
rocks row scar stair street tie tier
"""
"""Words that look like one that was taught, and mean nothing near to it."""


def vocabulary() -> Vocabulary:
    """Gathers what the scenes teach."""
    objects, colors = tuple(scenes.OBJECTS), tuple(scenes.COLORS)
    sizes = _once(word for words in scenes.SIZE_WORDS.values() for word in words)
    places = _once(phrase for phrases in scenes.PLACES.values() for phrase in phrases)
    relations = _once(
        phrase for turned in scenes.RELATIONS.values() for phrases in turned for phrase in phrases
    )
    plurals = tuple(map(scenes.plural, objects))
    named = {
        word
        for kind in (objects, plurals, colors, sizes, places, relations)
        for one in kind
        for word in one.split()
    }
    frames = (*scenes.PREFIXES, *(ground.format("") for ground in scenes.GROUNDS), "a an the two")
    others = _once(word for frame in frames for word in split(frame) if word not in named)
    near: dict[str, tuple[str, ...]] = dict.fromkeys(MISLEADING.split(), ())
    near |= {sprite: (name,) for name, sprite in scenes.OBJECTS.items()}
    for taught, words in MEANINGS.items():
        for word in words.split():
            near[word] = (*near.get(word, ()), taught)
    sides = [side for canvas in ((scenes.SIZE, scenes.SIZE), *scenes.CANVASES) for side in canvas]
    return Vocabulary(
        objects, plurals, colors, sizes, places, relations, others, near,
        most_objects=2, sides=(min(sides), max(sides)),
    )  # fmt: skip


def write(folder: Path) -> Path:
    """Writes it into the folder of a checkpoint and returns the file."""
    path = folder / FILE
    kinds = [
        f'"{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in asdict(vocabulary()).items()
    ]
    path.write_text("{\n" + ",\n".join(kinds) + "\n}\n", encoding="utf-8")
    return path


def _once(words: Iterable[str]) -> tuple[str, ...]:
    """Leaves out what came before."""
    return tuple(dict.fromkeys(words))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    print(write(parser.parse_args().folder))


if __name__ == "__main__":
    main()
