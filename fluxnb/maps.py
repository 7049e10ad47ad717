"""What was heard, as frozen records of numpy arrays: maps of one subject, ledgers of all tokens, concepts.

Knows nothing of networks or runs. Every number is a share of attention, 0..1, of a softmax over all keys,
text and image, as the network computes it; but those of `ConceptMaps` are shares among the concepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxnb import checks
from fluxnb.brief import Brief
from fluxnb.trust import Trust


@dataclass(frozen=True, slots=True)
class Mass:
    """Where attention goes, as shares that sum to 1.

    Args:
        word: To the tokens of what is asked for itself: the word, patch, region or group.
        other_words: To the rest of the prompt.
        end: To the token that ends the prompt.
        pad: To the padding after it, which FLUX does not mask.
        image: To the image tokens.
    """

    word: float
    other_words: float
    end: float
    pad: float
    image: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AttentionMap(Brief):
    """What a word, a patch or a group of tokens has to do with each place of the picture, in one step.

    Args:
        weights: (h, w), float32, one number per image token (16 x 16 pixels); (heads, h, w) for each head.
            Rows: how much of the subject's attention goes there; they sum to `mass.image`, and for a
            subject in the picture to `mass.image` + `mass.word`.
            Columns: how much of that place's attention goes to the subject; their mean is `mass.word`.
        mass: Where all the attention of the queries went: of the subject's tokens for rows, of the image
            tokens for columns; the mean over these tokens, and over the heads asked for.
        word: The word as it stands in the prompt, or what else was asked for.
        step: Index of the step.
        blocks: Numbers of the blocks averaged over, double blocks first.
        heads: "mean" over all heads, "each" of them, or the number of one.
        direction: "word_to_image" or "image_to_word" for words, "rows" or "columns" for the rest: what it
            looks at, or who looks at it; two different questions, two different pictures.
        sigma: Noise level of the step.
        words: Those of the prompt.
        text: (words,), or (heads, words): the same as `weights` for the words of the prompt. Rows: how much
            of the subject's attention goes to all tokens of that word. Columns: how much of that word's
            attention goes to the subject, the mean over its tokens.
        trust: How well such maps find objects, where that was measured: for a whole word, the mean over all
            heads and a step without an intervention; None where it was not.
    """

    weights: np.ndarray
    mass: Mass
    word: str
    step: int
    blocks: tuple[int, ...]
    heads: str | int
    direction: str
    sigma: float
    words: tuple[str, ...]
    text: np.ndarray
    trust: Trust | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `weights`."""
        return self.weights.shape

    @property
    def is_row(self) -> bool:
        """Whether it shows what the subject looks at, not who looks at it."""
        return self.direction in ("word_to_image", "rows")

    @property
    def unit(self) -> str:
        """What a number of `weights` is, in words."""
        if self.is_row:
            return f"share of the attention of {self.word!r} that goes to an image token"
        return f"share of the attention of an image token that goes to {self.word!r}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ledger(Brief):
    """Where the attention of each group of tokens went: per step, block and head.

    Args:
        shares: (steps, blocks, heads, queries, keys), float32: how much of the attention of a token of
            group `queries` goes to all tokens of group `keys`, the mean over the tokens of the former. The
            last axis sums to 1. Where a step's prompt has no token of a group, its row is NaN, and so is a
            block that an intervention cuts in a step.
        steps: Their indices.
        sigmas: Noise levels of the steps.
        blocks: Their numbers, double blocks first.
        heads: Their numbers; ("mean",) for the mean over all.
        queries: Names of the groups that look: those of `keys` and "all text tokens".
        keys: Names of the groups that are looked at: words, "other words", "end token", "PAD tokens",
            "image tokens"; a group that no step has tokens of is left out.
    """

    shares: np.ndarray
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    blocks: tuple[int, ...]
    heads: tuple[int, ...] | tuple[str]
    queries: tuple[str, ...]
    keys: tuple[str, ...]

    def bars(self, query: str = "image tokens", along: str = "block") -> np.ndarray:
        """Returns the shares of one group as heights of stacked bars, the mean over the other axes.

        Args:
            query: One of `queries`.
            along: "step", "block" or "head": a bar for each.

        Returns:
            (bars, keys), float32; rows sum to 1, or are NaN where there is nothing to take the mean of.

        Raises:
            InputError: if there is no such group or axis.
        """
        query = self.queries.index(checks.choice("query", query, self.queries))
        axes = ("step", "block", "head")
        kept = axes.index(checks.choice("along", along, axes))
        others = tuple(axis for axis in range(3) if axis != kept)
        shares = self.shares[:, :, :, query]
        there = ~np.isnan(shares)
        total, count = np.where(there, shares, 0).sum(axis=others), there.sum(axis=others)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConceptMaps(Brief):
    """Where concepts are in a picture, after ConceptAttention (arXiv 2502.04320).

    Args:
        weights: (concepts, h, w), float32: at each image token shares that sum to 1 over the concepts.
        concepts: Their texts.
        steps: Indices of the steps averaged over.
        sigmas: Noise levels of the steps.
        blocks: Numbers of the double blocks averaged over.
        trust: How well such maps find objects, where that was measured: for one step without an intervention;
            None where it was not.
    """

    weights: np.ndarray
    concepts: tuple[str, ...]
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    blocks: tuple[int, ...]
    trust: Trust | None = None

    def __getitem__(self, concept: str) -> np.ndarray:
        """Returns the map (h, w) of one concept.

        Raises:
            InputError: if it is none of `concepts`.
        """
        return self.weights[self.concepts.index(checks.choice("the concept", concept, self.concepts))]
