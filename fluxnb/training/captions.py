"""Token ids of captions for both text encoders; knows nothing of networks."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer, T5TokenizerFast


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, T5TokenizerFast]:
    """The two tokenizers that `fluxnb.training.tokenizers` wrote to a folder."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), T5TokenizerFast.from_pretrained(
        folder / "tokenizer_2"
    )


class Captions:
    """Tokenises captions as FLUX does."""

    def __init__(self, tokenizer_folder: Path) -> None:
        """Read the tokenizers of a folder."""
        self.clip_tokenizer, self.t5_tokenizer = load_tokenizers(tokenizer_folder)

    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (n, TEXT_LENGTH) for CLIP and for T5, padded as FLUX pads."""
        return tuple(
            tokenizer(
                captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer in (self.clip_tokenizer, self.t5_tokenizer)
        )  # fmt: skip
