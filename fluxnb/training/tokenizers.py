"""Builds the demo model's two tokenizers, as ordinary Hugging Face files; knows nothing of networks.

    python -m fluxnb.training.tokenizers OUT_DIR

writes `OUT_DIR/tokenizer` (CLIP: byte-level BPE) and `OUT_DIR/tokenizer_2` (T5: Unigram), which
`transformers` and `diffusers` load as `CLIPTokenizer` and `T5TokenizerFast`. The same captions
give the same bytes. A word of the captions is one T5 token, but for those of `SPLIT`; any other
word falls apart into pieces and letters, and a character outside the vocabulary is `<unk>`.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import string
import struct
from collections import Counter
from itertools import pairwise
from pathlib import Path

from fluxnb.training.scenes import make_scene

LENGTH = 24  # tokens, end token included, of both encoders
SCENES = 5000  # captions read; far more than it takes to see every word
CLIP_SIZE = 900  # ids of the CLIP vocabulary at most; 814 spell every word of the captions

SPLIT = {"sunflower": ("▁sun", "flower"), "strawberry": ("▁straw", "berry")}
"""Words that T5 sees as two tokens, so that the demo model has words of several tokens at all."""

ORDINARY = """
animal baby ball bear beach bed bee bench bicycle bird boat book bottle bowl box boy bread bridge
bright brown building camera candle castle chair child chocolate church city clock cloud clouds coat coffee
cold color colorful computer cookie couch cow cup cute dark day deer desk dinosaur door dragon
dress drawing duck eagle egg elephant eye eyes face fire fish floor flowers flying food forest fruit
garden ghost giraffe girl glass gold golden goat grass happy hat hill holding horse ice island jacket
jumping kitchen lake lamp large leaf light little long looking man mirror monkey mountain mountains mouse
near new next night ocean oil old one orange owl painting paper park path people person penguin plane plant
plate rain rainbow red river road robot rock roof room rose running sad sand sea shark sheep ship shirt
shoes sitting sketch skateboard sky sleeping smiling snake snow space spoon spring square standing statue
street style summer sun sunset swimming table tall teapot three tiger tomato tower town toy train turtle
two under vase village walking warm watch water wearing whale wild window winter with wolf woman wood
wooden young zebra
and but for from he her his is it its not that this under up very
"""
"""Words that people write of pictures; one T5 token each, though the scenes never name most of them."""

PIECES = "ing ed er es ly s y est tion en al ar or in on an at it is th ch sh ck ll ee oo ea ou st tr un re"
"""Parts that shorten unseen words."""


def caption_words() -> Counter[str]:
    """Counts every word and punctuation mark of the captions of seeds 0 to `SCENES` - 1."""
    captions = (make_scene(random.Random(seed)).caption for seed in range(SCENES))
    return Counter(word for caption in captions for word in re.findall(r"\w+|[^\w\s]", caption))


def clip_bytes() -> dict[int, str]:
    """Gives the printable character that stands for each byte, as in GPT-2 (Radford et al., 2019)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def clip_merges(words: Counter[str], limit: int) -> list[tuple[str, str]]:
    """Finds the first `limit` merges of byte-pair encoding (Sennrich et al., 2016) of counted ASCII words.

    The most frequent pair goes first; among equals, the first in the alphabet.
    """
    spelled = {(*word[:-1], word[-1] + "</w>"): count for word, count in words.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, count in spelled.items():
            for pair in pairwise(parts):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {merge(parts, best): count for parts, count in spelled.items()}
    return merges


def merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Joins every occurrence of `pair` in `parts`, from the left."""
    joined: list[str] = []
    for part in parts:
        # A joined part is longer than either side, so it is never joined a second time.
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def clip_files(words: Counter[str]) -> dict[str, str]:
    """Writes the CLIP tokenizer as file name -> text.

    All 256 bytes are ids, so no text is unknown. Those that can end a word (after lowercasing:
    ASCII but for capitals and white space, and UTF-8's trailing bytes) are ids a second time,
    marked `</w>`.
    """
    spelling = clip_bytes()
    last = [b for b in range(0xC0) if chr(b) not in string.ascii_uppercase + string.whitespace]
    merges = clip_merges(words, CLIP_SIZE - 2 - len(spelling) - len(last))
    tokens = [spelling[b] for b in sorted(spelling)] + [spelling[b] + "</w>" for b in last]
    tokens += [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "do_lower_case": True,
        "errors": "replace",
    }
    return {
        "vocab.json": as_json({token: i for i, token in enumerate(tokens)}),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n",
        "tokenizer_config.json": as_json(config),
    }


def t5_pieces(words: Counter[str]) -> list[tuple[str, float]]:
    """Gives the Unigram vocabulary in the order of its ids, with log probabilities.

    Longer pieces win: a word costs 6, a part 8, and a letter 10, so one word is cheaper than any
    way to spell it.
    """
    known = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))]
    known = [word for word in known if word.isalpha() and word not in SPLIT]
    whole = [f"▁{word}" for word in dict.fromkeys(known + ORDINARY.split())]
    parts = [part for pair in SPLIT.values() for part in pair] + PIECES.split()
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    scores = dict.fromkeys(letters, -10.0) | dict.fromkeys(parts, -8.0) | dict.fromkeys(whole, -6.0)
    order = dict.fromkeys([*whole, *parts, *letters])
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    return special + [(piece, scores[piece]) for piece in order]


def lowercase_charsmap() -> bytes:
    """Writes A to Z -> a to z in the form of SentencePiece's `precompiled_charsmap`.

    `transformers` 5 rebuilds a T5 tokenizer from its vocabulary and this map, and drops any other
    normalizer, so lowercasing has to be written as one. The form is the size of a double-array
    trie in bytes; the trie in 32-bit units (darts-clone: bits 0-7 label, bit 8 has a leaf, bits
    10-30 offset to XOR; a leaf has bit 31 and the place of its replacement); and the replacements,
    each ended by a zero.
    """
    first, leaves = 256, 512  # where the children of the root stand, and their leaves
    units = [0] * (leaves + 256)  # a reader may look up any byte behind a leaf, and must find nothing
    units[0] = first << 10
    for i, letter in enumerate(string.ascii_uppercase.encode()):
        node, leaf = first ^ letter, leaves + i
        units[node] = letter | 1 << 8 | (node ^ leaf) << 10
        units[leaf] = 1 << 31 | 2 * i  # each replacement is one letter and a zero
    trie = struct.pack(f"<{len(units)}I", *units)
    replacements = "".join(f"{letter}\0" for letter in string.ascii_lowercase).encode()
    return struct.pack("<I", len(trie)) + trie + replacements


def t5_files(words: Counter[str]) -> dict[str, str]:
    """Writes the T5 tokenizer as file name -> text."""
    special = ["<pad>", "</s>", "<unk>"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": letter, "type_id": 0}} for letter in "AB")
    charsmap = base64.b64encode(lowercase_charsmap()).decode()
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(special)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, end],
            "pair": [first, end, second, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": t5_pieces(words), "byte_fallback": False},
    }
    config = {
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": LENGTH,
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_ids": 0,
    }
    return {"tokenizer.json": as_json(tokenizer), "tokenizer_config.json": as_json(config)}


def as_json(value: object) -> str:
    """Writes `value` as the text of a JSON file, characters as they are."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def build(folder: Path) -> None:
    """Writes both tokenizers under `folder`, over what is there."""
    words = caption_words()
    for name, files in {"tokenizer": clip_files(words), "tokenizer_2": t5_files(words)}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the demo model's two tokenizers.")
    parser.add_argument("folder", type=Path, help="folder that gets tokenizer/ and tokenizer_2/")
    build(parser.parse_args().folder)
