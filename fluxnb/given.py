"""What a caller may bring along to a run, own latents and embeddings: checked, copied, told by digests.

Knows nothing of runs or networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np

from fluxnb import checks
from fluxnb.errors import InputError
from fluxnb.texts import TextEmbedding


def lasting(arguments: dict[str, object]) -> dict[str, object]:
    """Returns arguments that can be taken more than once, and on any thread: no iterators, arrays evaluated.

    Args:
        arguments: By their names; arrays of MLX may be values, or in tuples, lists and embeddings.
    """
    kept = {name: tuple(value) if isinstance(value, Iterator) else value for name, value in arguments.items()}
    mx.eval(
        [(value.txt, value.vec) if isinstance(value, TextEmbedding) else value for value in kept.values()]
    )
    return kept


def latents(value: object, channels: int, latent_size: tuple[int, int] | None) -> mx.array:
    """Returns latents to start from: float32 (1, H, W, C), evaluated, nobody else's.

    Args:
        value: (1, H, W, C) or (H, W, C), of MLX, numpy or what numpy reads.
        channels: C.
        latent_size: (H, W) that is asked for, None for whatever comes.

    Raises:
        InputError: if it is nothing of the kind, or not all of it is finite.
    """
    array = _floats("latents", value)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[0] != 1 or array.shape[3] != channels:
        raise InputError(f"latents have the shape {array.shape}; give (1, H, W, {channels})")
    size = checks.latent_size(array.shape[1:3])
    if latent_size is not None and checks.latent_size(latent_size) != size:
        raise InputError(
            f"latents are of latent_size {size}, but latent_size is {latent_size}; give one of them"
        )
    return mx.array(array)


def text(value: object, own: TextEmbedding, negative_text: str = "") -> TextEmbedding:
    """Returns an embedding to draw from in place of the encoders' own; its arrays are nobody else's.

    Args:
        value: A TextEmbedding, or the pair (txt, vec): then the words of the prompt keep their places.
        own: What the encoders make of the prompt.
        negative_text: What CFG leads away from; an embedding has no say in it.

    Raises:
        InputError: if it is neither, of other sizes than `own`, or not all of it is finite; or if it was
            encoded with another negative text.
    """
    if not isinstance(value, TextEmbedding):
        try:
            txt, vec = value
        except (TypeError, ValueError):
            raise InputError(
                f"text is a {type(value).__name__}; give a TextEmbedding or the pair (txt, vec)"
            ) from None
        value = replace(own, txt=txt, vec=vec, notes=())
    if value.negative is not None and value.negative.text != negative_text:
        raise InputError(
            f"text was encoded with the negative text {value.negative.text!r}, but negative_text is "
            f"{negative_text!r}; give it as negative_text, which is what counts"
        )
    return replace(value, txt=_like("txt", value.txt, own.txt), vec=_like("vec", value.vec, own.vec))


def digest(embedding: TextEmbedding) -> str:
    """Returns the SHA-256 of the numbers of an embedding, txt then vec."""
    return hashlib.sha256(np.array(embedding.txt).tobytes() + np.array(embedding.vec).tobytes()).hexdigest()


def _like(name: str, value: object, own: mx.array) -> mx.array:
    """Returns an array of the shape of `own`; the leading 1 may be left out."""
    array = _floats(name, value)
    if array.shape == own.shape[1:]:
        array = array[None]
    if array.shape != own.shape:
        raise InputError(f"{name} of the text has the shape {array.shape}; give {own.shape}")
    return mx.array(array)


def _floats(name: str, value: object) -> np.ndarray:
    """Returns a copy as float32, which is finite."""
    try:
        array = np.array(value.astype(mx.float32) if isinstance(value, mx.array) else value, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} is a {type(value).__name__}; give an array of floats") from None
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise InputError(f"{name} holds {count} numbers that are not finite; give finite ones")
    return array
