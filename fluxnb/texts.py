"""A text as the transformer reads it, and what the encoders did not see of it; knows nothing of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx

from fluxnb.brief import Brief
from fluxnb.model.tokenizers import Word


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TextEmbedding(Brief):
    """A text as the transformer reads it; unpacked, it is DiffusionKit's pair of conditionings.

    Args:
        text: As given.
        txt: T5's states, float32 (1, L, D), evaluated; padding included.
        vec: CLIP's pooled state, float32 (1, D), evaluated.
        words: The words that T5 read, with their positions among its tokens.
        end: Position of T5's end token; what stands after it is padding.
        notes: Sentences on what the encoders did not see as it was meant, usually none.
        negative: The text that CFG leads away from, if it was encoded with this one.
    """

    text: str
    txt: mx.array
    vec: mx.array
    words: tuple[Word, ...]
    end: int
    notes: tuple[str, ...]
    negative: TextEmbedding | None = None

    @classmethod
    def from_arrays(cls, txt: mx.array, vec: mx.array) -> TextEmbedding:
        """Makes one of arrays alone, of whose text nothing is known."""
        return cls("", txt, vec, words=(), end=txt.shape[1] - 1, notes=())

    def __iter__(self) -> Iterator[mx.array]:
        """Gives T5's states and CLIP's pooled state; those of a negative text are a second row, (2, ...)."""
        rows = (self,) if self.negative is None else (self, self.negative)
        for parts in ([row.txt for row in rows], [row.vec for row in rows]):
            stacked = mx.concatenate(parts)
            mx.eval(stacked)
            yield stacked


def encode(networks, text: str) -> TextEmbedding:
    """Encodes a text by both encoders of `checkpoints.networks.Networks`."""
    clip_ids, clip_cut = networks.clip_tokenizer.encode(text)
    t5_ids, t5_cut = networks.t5_tokenizer.encode(text)
    txt = networks.t5(mx.array([t5_ids]), networks.dtype).astype(mx.float32)  # (1, L, D)
    vec = networks.clip(mx.array([clip_ids]), networks.dtype)[1].astype(mx.float32)  # (1, D)
    mx.eval(txt, vec)
    return TextEmbedding(
        text=text,
        txt=txt,
        vec=vec,
        words=networks.t5_tokenizer.words(text),
        end=networks.t5_tokenizer.end(text),
        notes=notes_on(text, {"T5": t5_cut, "CLIP": clip_cut}),
    )


def notes_on(text: str, cuts: dict[str, str | None]) -> tuple[str, ...]:
    """Says what each encoder did not see of `text`; `cuts` has that part by the encoder's name."""
    if not text.strip():
        return ("the prompt is empty: the model draws whatever comes; try 'a photo of a cat'",)
    start = textwrap.shorten(text, 40, placeholder="...")
    return tuple(
        f"the prompt {start!r} is too long for {encoder}, which does not see "
        f"{textwrap.shorten(cut, 200, placeholder='...')!r}; shorten it"
        for encoder, cut in cuts.items()
        if cut
    )
