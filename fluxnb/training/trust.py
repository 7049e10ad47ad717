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
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
from tqdm.auto import tqdm

from fluxnb import flow
from fluxnb.effect import rank_correlation
from fluxnb.interventions import cut
from fluxnb.model.layers import Attend, attention, random_weights
from fluxnb.model.mmdit import MMDiT
from fluxnb.pipeline import FluxPipeline, TextEmbedding
from fluxnb.probe import find_blocks, find_word
from fluxnb.training import scoring
from fluxnb.training.subjects import SEED, Subject, subjects
from fluxnb.training.tables import tables

SIGMAS = (0.9, 0.7, 0.5, 0.3, 0.1)
BACKGROUND = "background"  # what concept maps are asked for beside the objects


@dataclass(frozen=True, slots=True)
class Look:
    """The attention of one pass, the mean over heads.

    Args:
        weights: (blocks, L, L), a softmax over all keys.
        text_only: (blocks, h*w, text tokens), of image queries, a softmax over the text keys alone.
    """

    weights: np.ndarray
    text_only: np.ndarray


Method = Callable[[Look, tuple[int, ...]], np.ndarray]


def rows(look: Look, tokens: tuple[int, ...]) -> np.ndarray:
    """What a word looks at, (blocks, h*w), as `Run.attention` has it for "word_to_image"."""
    return look.weights[:, tokens, -look.text_only.shape[1] :].mean(axis=1)


def columns(look: Look, tokens: tuple[int, ...]) -> np.ndarray:
    """Who looks at a word, (blocks, h*w), likewise for "image_to_word"."""
    return look.weights[:, -look.text_only.shape[1] :, tokens].sum(axis=2)


def columns_of_text_only(look: Look, tokens: tuple[int, ...]) -> np.ndarray:
    """The control: columns as if image tokens looked at text alone."""
    return look.text_only[:, :, tokens].sum(axis=2)


METHODS: dict[str, Method] = {"word_to_image": rows, "image_to_word": columns}


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

    def look(self) -> Look:
        """What was seen so far, evaluated."""
        return Look(*(np.array(mx.stack(kind)) for kind in zip(*self._seen, strict=True)))


def groups_of(pipeline: FluxPipeline) -> dict[str, tuple[int, ...]]:
    """The groups of blocks that are scored: each block by itself, then what `blocks=` has names for."""
    singles = {str(block): (block,) for block in range(sum(pipeline.blocks))}
    return singles | {name: find_blocks(name, *pipeline.blocks) for name in ("double", "single", "all")}


def passes(network: MMDiT, latents: mx.array, sigma: float, text: TextEmbedding, attend: Attend) -> mx.array:
    """One pass through a network, trained or not: the velocity (1, h*w, 4C), not evaluated."""
    return network(
        flow.pack(latents),
        text.txt,
        text.vec,
        mx.array([sigma]),
        img_ids=flow.image_ids(latents.shape[1:3]),
        txt_ids=mx.zeros((text.txt.shape[1], 3)),
        attend=attend,
    )


def look(network: MMDiT, latents: mx.array, sigma: float, text: TextEmbedding) -> tuple[Look, mx.array]:
    """The attention of one pass, and its velocity."""
    watcher = Watcher(text.txt.shape[1])
    velocity = passes(network, latents, sigma, text, watcher)
    return watcher.look(), velocity


Sample = tuple[str, str, np.ndarray, np.ndarray]


def samples(network: MMDiT, stranger: MMDiT, subject: Subject, x: mx.array, sigma: float) -> Iterator[Sample]:
    """All maps of a scene at a sigma: method, control or "", map by block (blocks, h*w), mask (h, w).

    Args:
        network: What is measured.
        stranger: One of the same sizes with random weights.
        subject: The scene.
        x: Its latents, noise added up to `sigma`.
        sigma: Noise level.
    """
    looks = {
        "": look(network, x, sigma, subject.text)[0],
        "untrained": look(stranger, x, sigma, subject.text)[0],
        "absent_word": look(network, x, sigma, subject.absent_text)[0],
    }
    absent = find_word(subject.absent, subject.absent_text.words)[1]
    for i, (name, shares) in enumerate(subject.shares.items()):
        tokens = find_word(name, subject.text.words)[1]
        for method, read in METHODS.items():
            yield method, "", read(looks[""], tokens), shares
            yield method, "untrained", read(looks["untrained"], tokens), shares
            if i == 0:
                yield method, "absent_word", read(looks["absent_word"], absent), shares
            for other in subject.shares.keys() - {name}:
                yield method, "other_word", read(looks[""], find_word(other, subject.text.words)[1]), shares
        yield "image_to_word", "text_only", columns_of_text_only(looks[""], tokens), shares


CAUSES = ("average_precision", "other_word", "log_ratio", "rank_with_columns", "rank_with_rows")
"""What is told of cuts: how the change scores as a map, and the other object's; see `causes`."""


def causes(network: MMDiT, subject: Subject, x: mx.array, sigma: float) -> Iterator[tuple[float, ...]]:
    """What cutting each object's word changes in a scene at a sigma, in the order of `CAUSES`.

    The change is |v - v_cut|^2 of each image token. The third figure is the logarithm of its mean inside the
    mask over that outside, each token counted by its share; the last two are rank correlations with the maps
    of all blocks. NaN where there is nothing to compare.
    """
    seen, velocity = look(network, x, sigma, subject.text)
    changes, maps = {}, {}
    for name in subject.shares:
        attend, _ = cut(name).at(0, subject.text.words, subject.text.txt.shape[1], network.config)
        change = passes(network, x, sigma, subject.text, attend) - velocity
        changes[name] = np.array((change * change).sum(axis=-1))[0].astype(np.float64)  # (h*w,)
        tokens = find_word(name, subject.text.words)[1]
        maps[name] = [read(seen, tokens).mean(axis=0) for read in (columns, rows)]
    for name, shares in subject.shares.items():
        inside = shares.ravel()
        own = scoring.score(changes[name], shares)
        others = [scoring.score(changes[other], shares) for other in subject.shares if other != name]
        yield (
            own.average_precision if own else np.nan,
            others[0].average_precision if others and others[0] else np.nan,
            np.log(
                (changes[name] @ inside / inside.sum()) / (changes[name] @ (1 - inside) / (1 - inside).sum())
            ),
            *(rank_correlation(changes[name], there) for there in maps[name]),
        )


def measure(pipeline: FluxPipeline, count: int, sigmas: tuple[float, ...] = SIGMAS) -> dict:
    """Score everything on `count` scenes, each figure as [value, low, high]; `fluxnb.trust` reads it.

    Returns:
        "area" is what a mask covers of a picture, "noise" the average precision of random numbers; "maps" has
        a record for each method, group of blocks and sigma, "cuts" one for each sigma.
    """
    network, groups = pipeline.networks.mmdit, groups_of(pipeline)
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
            for method, control, by_block, shares in samples(network, stranger, subject, x, sigma):
                made = [
                    scoring.score(by_block[list(blocks)].mean(axis=0), shares.ravel())
                    for blocks in groups.values()
                ]
                if all(made):
                    scores = np.array([astuple(one) for one in made])
                    maps[method, control, sigma].append((subject.number, scores))
            cuts[sigma] += [(subject.number, figures) for figures in causes(network, subject, x, sigma)]
    return {
        "model": pipeline.entry.name,
        "depth": list(pipeline.blocks),
        "scenes": count,
        "seed": SEED,
        "objects": len(areas),
        "scored": len(flat),
        "area": _interval(areas),
        "noise": _interval(flat),
        "maps": list(_figures(maps, list(groups), sigmas)),
        "cuts": [
            {"sigma": sigma}
            | {
                name: _interval(
                    [(scene, figures[i]) for scene, figures in cuts[sigma] if np.isfinite(figures[i])]
                )
                for i, name in enumerate(CAUSES)
            }
            for sigma in sigmas
        ],
    }


def _figures(maps: dict[tuple, list], groups: list[str], sigmas: tuple[float, ...]) -> Iterator[dict]:
    """One record for each method, group of blocks and sigma."""
    intervals = {
        key: scoring.bootstrap(
            np.array([scene for scene, _ in found]), np.array([scores.ravel() for _, scores in found])
        ).reshape(len(groups), len(scoring.NAMES), 3)
        for key, found in maps.items()
    }
    controls = [control for control in dict.fromkeys(control for _, control, _ in maps) if control]
    for method, sigma, (i, group) in product(METHODS, sigmas, enumerate(groups)):
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


def _interval(found: list[tuple[int, float]]) -> list[float] | None:
    """The mean and interval of (scene, value) pairs; None if there are none."""
    if not found:
        return None
    numbers, values = zip(*found, strict=True)
    return _rounded(scoring.bootstrap(np.array(numbers), np.array(values))[0])


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
