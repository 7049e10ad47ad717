"""What to know of a picture before it is drawn: what its texts lose, and what is new to the model.

Sentences, which change nothing; knows nothing of runs and networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fluxnb.errors import PromptWarning

if TYPE_CHECKING:
    from fluxnb.checkpoints.vocabulary import Vocabulary
    from fluxnb.settings import Settings
    from fluxnb.texts import TextEmbedding


def notes(
    vocabulary: Vocabulary | None, settings: Settings, prompt: TextEmbedding, negative: TextEmbedding | None
) -> tuple[str, ...]:
    """Gives the sentences, usually none.

    Args:
        vocabulary: What the model was taught, None if that is not known.
        settings: All that decides the picture.
        prompt: What to draw, encoded.
        negative: What CFG leads away from; an empty one is meant so.
    """
    if negative is not None and not negative.text.strip():
        negative = None
    found = prompt.notes if negative is None else prompt.notes + negative.notes
    if vocabulary is not None:
        if settings.embedding is None:  # else the prompt is but its name
            found += vocabulary.notes(settings.prompt)
        if negative is not None:
            found += vocabulary.notes_on_words(negative.text)
        found += vocabulary.notes_on_size(settings.latent_size)
    return tuple(dict.fromkeys(found))


def warn(sentences: Iterable[str], depth: int = 3) -> None:
    """Warns of each.

    Args:
        sentences: See `notes`.
        depth: Frames up to the user's line, which the warning points at: 3 from what the user called.
    """
    for sentence in sentences:
        warnings.warn(sentence, PromptWarning, stacklevel=depth)
