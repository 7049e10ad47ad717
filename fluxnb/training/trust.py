"""Measure how far the demo model's maps can be trusted: each against the exact masks of real scenes.

    python -m fluxnb.training.evaluate --only maps       # writes fluxnb/demo/trust.json and prints tables

A scene that training never saw goes through the autoencoder, noise is added up to a sigma, and the network
makes one pass with the scene's true caption. The map of each object's word is scored by that object's mask
(`scoring`), for each method, group of blocks and sigma. What the figures are worth is told by controls that
ought to fail:

    untrained      a network of the same sizes with random weights, another one for each scene
    other_word     the map of the other object's word, in scenes of two
    absent_word    a pass whose caption names an object that is not there, the map of that word
    text_only      columns from a softmax over the text tokens alone, as some tools compute them

A map is not a cause. So each word is cut as well (`interventions.cut`, all blocks), and the change of the
velocity, |v - v_cut|^2 of each image token, is scored by the mask and compared with the maps.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
from tqdm.auto import tqdm

from fluxnb import concepts, flow
from fluxnb.asked import tokens
from fluxnb.effect import rank_correlation
from fluxnb.interventions import cut
from fluxnb.listen import overhear
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import Attend, attention, random_weights
from fluxnb.model.mmdit import MMDiT
from fluxnb.pipeline import FluxPipeline
from fluxnb.probe import find_blocks, find_word
from fluxnb.texts import TextEmbedding
from fluxnb.training import scoring
from fluxnb.training.subjects import BACKGROUND, SEED, Subject, subjects
from fluxnb.training.tables import tables

SIGMAS = (0.9, 0.7, 0.5, 0.3, 0.1)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one pass shows, in every block.

    Args:
        text: Its caption.
        weights: (blocks, L, L), attention as a softmax over all keys, the mean over heads.
        text_only: (blocks, h*w, text tokens), that of image queries as a softmax over the text keys alone.
        concepts: For each word its share at each image token, (double blocks, h*w).
        velocity: (1, h*w, 4C).
    """

    text: TextEmbedding
    weights: np.ndarray
    text_only: np.ndarray
    concepts: dict[str, np.ndarray]
    velocity: mx.array

    def tokens(self, word: str) -> tuple[int, ...]:
        """Positions of a word of the caption."""
        return find_word(word, self.text.words)[1]


Method = Callable[[Seen, str], np.ndarray]
"""Makes of a pass the maps of a word, one for each block that it has any for: (blocks, h*w)."""


def rows(seen: Seen, word: str) -> np.ndarray:
    """What a word looks at, as `Run.attention` has it for "word_to_image"."""
    return seen.weights[:, seen.tokens(word), -seen.text_only.shape[1] :].mean(axis=1)


def columns(seen: Seen, word: str) -> np.ndarray:
    """Who looks at a word, likewise for "image_to_word"."""
    return seen.weights[:, -seen.text_only.shape[1] :, seen.tokens(word)].sum(axis=2)


def columns_of_text_only(seen: Seen, word: str) -> np.ndarray:
    """The control: columns as if image tokens looked at text alone."""
    return seen.text_only[:, :, seen.tokens(word)].sum(axis=2)


def concept_maps(seen: Seen, word: str) -> np.ndarray:
    """Where a word is, as `Run.concepts` has it beside the scene's other object and "background"."""
    return seen.concepts[word]


METHODS: dict[str, Method] = {
    "word_to_image": rows,
    "image_to_word": columns,
    "concepts": concept_maps,
}


def groups_of(method: str, config: MMDiTConfig) -> dict[str, tuple[int, ...]]:
    """The groups of blocks that are scored: each block by itself, then those that have names."""
    depth = config.depth, config.depth_single
    if method == "concepts":
        named = {"double": find_blocks("double", *depth), "later": concepts.find_double_blocks(None, config)}
        return {str(i): (i,) for i in range(depth[0])} | named
    named = {name: find_blocks(name, *depth) for name in ("double", "single", "all")}
    return {str(i): (i,) for i in range(sum(depth))} | named


class Watcher:
    """An attention function that keeps the attention of every block; for small networks."""

    def __init__(self, text_length: int):
        """Has seen nothing yet."""
        self._text = text_length
        self._seen: list[tuple[mx.array, mx.array]] = []

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, layer: int) -> mx.array:
        """Keeps the softmax of block `layer`; returns what `attention` returns."""
        scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)
        text_only = mx.softmax(scores[:, :, self._text :, : self._text], axis=-1)
        self._seen.append((mx.softmax(scores, axis=-1).mean(axis=(0, 1)), text_only.mean(axis=(0, 1))))
        return attention(q, k, v, layer)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """What was kept, as in `Seen`."""
        return tuple(np.array(mx.stack(kind)) for kind in zip(*self._seen, strict=True))


def forward(network: MMDiT, x: mx.array, sigma: float, text: TextEmbedding, attend: Attend) -> mx.array:
    """One pass through a network, trained or not: the velocity (1, h*w, 4C), not evaluated."""
    return network(
        flow.pack(x),
        text.txt,
        text.vec,
        mx.array([sigma]),
        img_ids=flow.image_ids(x.shape[1:3]),
        txt_ids=mx.zeros((text.txt.shape[1], 3)),
        attend=attend,
    )


def look(network: MMDiT, x: mx.array, sigma: float, text: TextEmbedding, words: dict[str, mx.array]) -> Seen:
    """Makes a pass, and one for the concepts.

    Args:
        network: What is measured, or a control.
        x: Latents (1, H, W, C).
        sigma: Noise level.
        text: Caption.
        words: The concepts, each with its T5 states (1, tokens, D).
    """
    length, blocks = text.txt.shape[1], range(network.config.depth)
    watcher, keeper = Watcher(length), concepts.Keeper(tuple(blocks), length)
    velocity = forward(network, x, sigma, text, watcher)
    overhear(lambda: forward(network, x, sigma, text, keeper.around(attention)))
    side = keeper.result(network, sigma, None)
    shares = []
    for block in blocks:
        one = tuple(part if part.layer == block else replace(part, output=None) for part in side)
        shares.append(np.array(concepts.shares(network, one, words.values())))  # (words, h*w)
    return Seen(text, *watcher.result(), dict(zip(words, np.stack(shares, axis=1), strict=True)), velocity)


def look_at(network: MMDiT, stranger: MMDiT, subject: Subject, x: mx.array, sigma: float) -> dict[str, Seen]:
    """The passes for a scene at a sigma: by "" the one that is measured, and two controls.

    Args:
        network: What is measured.
        stranger: One of the same sizes with random weights.
        subject: The scene.
        x: Its latents, noise added up to `sigma`.
        sigma: Noise level.
    """
    there = [*subject.shares, BACKGROUND]
    true, false = (
        {word: subject.states[word] for word in words} for words in (there, [subject.absent, *there[1:]])
    )
    return {
        "": look(network, x, sigma, subject.text, true),
        "untrained": look(stranger, x, sigma, subject.text, true),
        "absent_word": look(network, x, sigma, subject.absent_text, false),
    }


Sample = tuple[str, str, np.ndarray, np.ndarray]


def samples(subject: Subject, seen: dict[str, Seen]) -> Iterator[Sample]:
    """All maps of the passes of `look_at`: method, control or "", maps (blocks, h*w), mask (h, w)."""
    for i, (name, shares) in enumerate(subject.shares.items()):
        for method, read in METHODS.items():
            yield method, "", read(seen[""], name), shares
            yield method, "untrained", read(seen["untrained"], name), shares
            if i == 0:
                yield method, "absent_word", read(seen["absent_word"], subject.absent), shares
            for other in subject.shares.keys() - {name}:
                yield method, "other_word", read(seen[""], other), shares
        yield "image_to_word", "text_only", columns_of_text_only(seen[""], name), shares


CAUSES = ("average_precision", "other_word", "inside_over_outside", "rank_with_columns", "rank_with_rows")
"""What is told of cuts: how the change scores as a map, and the other object's; see `causes`."""


def causes(
    network: MMDiT, subject: Subject, seen: Seen, x: mx.array, sigma: float
) -> Iterator[tuple[float, ...]]:
    """What cutting each object's word changes in a scene at a sigma, in the order of `CAUSES`.

    The change is |v - v_cut|^2 of each image token. The third figure is its mean inside the mask over that
    outside, each token counted by its share; the last two are rank correlations with the maps of all blocks.
    NaN where there is nothing to compare.
    """
    changes, there = {}, tokens(seen.text, subject.latents.shape[1:3])
    for name in subject.shares:
        attend, _ = cut(name).at(0, there, network.config)
        change = forward(network, x, sigma, seen.text, attend) - seen.velocity
        changes[name] = np.array((change * change).sum(axis=-1))[0].astype(np.float64)  # (h*w,)
    for name, shares in subject.shares.items():
        change, inside = changes[name], shares.ravel()
        own = scoring.score(change, shares)
        others = [scoring.score(changes[other], shares) for other in subject.shares if other != name]
        within, outside = (change @ weight / weight.sum() for weight in (inside, 1 - inside))
        yield (
            own.average_precision if own else np.nan,
            others[0].average_precision if others and others[0] else np.nan,
            within / outside,
            *(rank_correlation(change, read(seen, name).mean(axis=0)) for read in (columns, rows)),
        )


def measure(pipeline: FluxPipeline, count: int, sigmas: tuple[float, ...] = SIGMAS) -> dict:
    """Score everything on `count` scenes, each figure as [value, low, high]; `fluxnb.trust` reads it.

    Returns:
        "area" is what a mask covers of a picture, "noise" the average precision of random numbers; "maps" has
        a record for each method, group of blocks and sigma, "cuts" one for each sigma.
    """
    network = pipeline.transformer()  # with its adapters, as it draws
    groups = {method: groups_of(method, network.config) for method in METHODS}
    maps: dict[tuple, list] = defaultdict(list)  # (method, control, sigma) -> (scene, scores (groups, names))
    cuts: dict[float, list] = defaultdict(list)  # sigma -> (scene, figures)
    areas, flat = [], []
    for subject in tqdm(subjects(pipeline, count), total=count):
        stranger = random_weights(MMDiT(network.config), subject.number)
        _, height, width, channels = subject.latents.shape
        noise = flow.noise(subject.number, (height, width), channels)
        chance = np.random.default_rng(subject.number)
        for shares in subject.shares.values():
            areas.append((subject.number, shares.mean()))
            made = scoring.score(chance.random(shares.shape), shares)
            if made:
                flat.append((subject.number, made.average_precision))
        for sigma in sigmas:
            x = flow.add_noise(subject.latents, noise, sigma)
            seen = look_at(network, stranger, subject, x, sigma)
            for method, control, by_block, shares in samples(subject, seen):
                made = [
                    scoring.score(by_block[list(blocks)].mean(axis=0), shares.ravel())
                    for blocks in groups[method].values()
                ]
                if all(made):
                    maps[method, control, sigma].append((subject.number, np.array([*map(astuple, made)])))
            cuts[sigma] += [(subject.number, one) for one in causes(network, subject, seen[""], x, sigma)]
    return {
        "model": pipeline.entry.name,
        "depth": list(pipeline.blocks),
        "scenes": count,
        "seed": SEED,
        "objects": len(areas),
        "scored": len(flat),
        "area": _mean(areas),
        "noise": _mean(flat),
        "maps": list(_figures(maps, groups, sigmas)),
        "cuts": [
            {"sigma": sigma}
            | {
                name: _mean([(scene, one[i]) for scene, one in cuts[sigma]], name)
                for i, name in enumerate(CAUSES)
            }
            for sigma in sigmas
        ],
    }


def _figures(maps: dict[tuple, list], groups: dict[str, dict], sigmas: tuple[float, ...]) -> Iterator[dict]:
    """One record for each method, group of blocks and sigma."""
    intervals = {}
    for (method, control, sigma), found in maps.items():
        numbers, scores = zip(*found, strict=True)  # (n,), (n, groups, names)
        flat = scoring.bootstrap(np.array(numbers), np.array(scores).reshape(len(numbers), -1))
        intervals[method, control, sigma] = flat.reshape(len(groups[method]), len(scoring.NAMES), 3)
    controls = [control for control in dict.fromkeys(control for _, control, _ in maps) if control]
    for method, sigma in product(METHODS, sigmas):
        for i, group in enumerate(groups[method]):
            own = intervals[method, "", sigma][i]
            yield {
                "method": method,
                "blocks": group,
                "sigma": sigma,
                **{name: _rounded(figure) for name, figure in zip(scoring.NAMES, own, strict=True)},
                "controls": {
                    control: _rounded(intervals[method, control, sigma][i, 0])
                    for control in controls
                    if (method, control, sigma) in intervals
                },
            }


def _mean(found: list[tuple[int, float]], name: str = "") -> list[float] | None:
    """The mean of (scene, value) pairs that are no NaN, with its interval; None if there are none.

    That of "inside_over_outside" is the geometric mean: a ratio and its inverse weigh the same.
    """
    found = [(scene, value) for scene, value in found if np.isfinite(value)]
    if not found:
        return None
    numbers, values = (np.array(column) for column in zip(*found, strict=True))
    if name == "inside_over_outside":
        return _rounded(np.exp(scoring.bootstrap(numbers, np.log(values))[0]))
    return _rounded(scoring.bootstrap(numbers, values)[0])


def _rounded(figure: np.ndarray) -> list[float]:
    """Value, low and high with three decimals."""
    return [round(float(x), 3) for x in figure]


def write(results: dict, to: Path) -> None:
    """Write results as JSON, a record a line, and print them as tables."""
    text = json.dumps(results)
    for key in ("method", "sigma"):
        text = text.replace(f'{{"{key}"', f'\n{{"{key}"')
    to.write_text(text + "\n", encoding="utf-8")
    print(tables(results))
