"""The networks of a model, all in memory or only those in use; knows nothing of files or prompts.

`Networks` and `SwappedNetworks` have the same attributes, by which everybody else takes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.linear import LinearPreview
from fluxnb.checkpoints.vocabulary import Vocabulary
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, VAEConfig
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.tokenizers import ClipTokenizer, T5Tokenizer
from fluxnb.model.vae import VAE

PARTS = {"mmdit": "transformer", "vae": "vae", "clip": "text_encoder", "t5": "text_encoder_2"}
"""What the networks are called in folders of diffusers, and in `parts.Parts`."""

NETWORKS = {"mmdit": MMDiT, "vae": VAE, "clip": CLIPText, "t5": T5Encoder}
"""What they are made by."""

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
"""What weights that are not quantised are kept in, by `Entry.dtype`."""

SIDES = (("clip", "t5"), ("mmdit", "vae"))
"""What is needed for a prompt, and what for a picture; with little memory only one of them is there."""


@dataclass(frozen=True, slots=True)
class Configs:
    """Sizes of the four networks, known without their weights."""

    mmdit: MMDiTConfig
    vae: VAEConfig
    clip: CLIPConfig
    t5: T5Config


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """All that draws a picture from a prompt, every array evaluated.

    Attributes:
        mmdit: the transformer.
        vae: the autoencoder.
        clip: the text encoder that gives the pooled vector.
        t5: the text encoder that gives the text tokens.
        clip_tokenizer: what `clip` reads by.
        t5_tokenizer: what `t5` reads by.
        entry: name and defaults; what the files say is in it.
        linear: colours of latent cells for a quick look, None where no fit lies beside the autoencoder.
        dtype: what the streams are computed in; times, latents and steps are float32 whatever it is.
        tokenizer_folders: where the tokenizers were read from, CLIP's first; None if they were not.
        vocabulary: what it was taught, None where its folder does not say.
    """

    mmdit: MMDiT
    vae: VAE
    clip: CLIPText
    t5: T5Encoder
    clip_tokenizer: ClipTokenizer
    t5_tokenizer: T5Tokenizer
    entry: Entry
    linear: LinearPreview | None = None
    dtype: mx.Dtype = mx.float32
    tokenizer_folders: tuple[Path, Path] | None = None
    vocabulary: Vocabulary | None = None

    @property
    def configs(self) -> Configs:
        """Sizes of the networks."""
        return Configs(self.mmdit.config, self.vae.config, self.clip.config, self.t5.config)


class SwappedNetworks:
    """As `Networks`, but a network is read when it is asked for, and those of the other side are freed first.

    Who keeps a network keeps its memory: ask for it anew each time.

    Args:
        configs: sizes of the networks.
        read: reads the network of a name, evaluated, from its files.
        clip_tokenizer: as in `Networks`, like all below.
        t5_tokenizer: likewise.
        entry: likewise.
        linear: likewise.
        dtype: likewise.
        tokenizer_folders: likewise.
        vocabulary: likewise.
    """

    def __init__(
        self,
        configs: Configs,
        read: Callable[[str], nn.Module],
        clip_tokenizer: ClipTokenizer,
        t5_tokenizer: T5Tokenizer,
        entry: Entry,
        linear: LinearPreview | None = None,
        dtype: mx.Dtype = mx.float32,
        tokenizer_folders: tuple[Path, Path] | None = None,
        vocabulary: Vocabulary | None = None,
    ):
        """Reads nothing yet."""
        self.configs = configs
        self.clip_tokenizer = clip_tokenizer
        self.t5_tokenizer = t5_tokenizer
        self.entry = entry
        self.linear = linear
        self.dtype = dtype
        self.tokenizer_folders = tokenizer_folders
        self.vocabulary = vocabulary
        self._read = read
        self._held: dict[str, nn.Module] = {}
        self._lock = threading.Lock()  # a widget's worker and the kernel may ask at once

    @property
    def mmdit(self) -> MMDiT:
        """The transformer."""
        return self._in_use("mmdit")

    @property
    def vae(self) -> VAE:
        """The autoencoder."""
        return self._in_use("vae")

    @property
    def clip(self) -> CLIPText:
        """The text encoder that gives the pooled vector."""
        return self._in_use("clip")

    @property
    def t5(self) -> T5Encoder:
        """The text encoder that gives the text tokens."""
        return self._in_use("t5")

    def _in_use(self, name: str) -> nn.Module:
        """Gives a network; reads it if it is not there, when the other side is gone."""
        with self._lock:
            if name not in self._held:
                (side,) = (side for side in SIDES if name in side)
                if any(held not in side for held in self._held):
                    self._held = {}
                    mx.clear_cache()
                self._held[name] = self._read(name)
            return self._held[name]
