"""The test double: FLUX.1 at toy size with random weights, the real networks and no files.

    session = stubs.session()
    run = session.start("a cat and a sunflower").finish()

The same pictures (of nothing) for the same arguments, always; four steps take some hundredths of a second.
Its tokenizer splits at blanks, and words of more than five letters into pieces of five: "sunflower" is
"sunfl", "ower". Defaults: 4 steps, latents (8, 8), i.e. 64 pixels, no shift, no CFG,
guidance 3.5 if asked for.
"""

import textwrap
import zlib
from dataclasses import replace

import mlx.core as mx

from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.store import Networks
from fluxnb.checkpoints.vocabulary import Vocabulary
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, VAEConfig
from fluxnb.model.layers import random_weights
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.tokenizers import Word
from fluxnb.model.vae import VAE
from fluxnb.pipeline import FluxPipeline
from fluxnb.session import FluxSession

LENGTH = 16  # text tokens, end token and padding included
PAD, END, FIRST, VOCABULARY = 0, 1, 2, 128  # ids; those of pieces start at FIRST
ENTRY = Entry(
    name="stub",
    licence="Apache-2.0",
    num_steps=4,
    latent_size=(8, 8),
    text_length=LENGTH,
)


TAUGHT = Vocabulary(
    objects=("cat", "dog", "fish"),
    plurals=("cats", "dogs", "fish"),
    colors=("red", "blue"),
    sizes=("small", "big"),
    places=("on the left",),
    relations=("to the left of", "and"),
    others=("a", "two", "background"),
    near={"kitten": ("cat",), "puppy": ("dog",), "pet": ("cat", "dog"), "fog": (), "three": ("two",)},
    most_objects=2,
    sides=(48, 96),
)
"""What a model may say that it was taught; that of toys knows of none unless it is given."""


class Tokenizer:
    """Pieces of words to ids by checksum, in the place of both tokenizers."""

    def encode(self, text):
        """Returns `LENGTH` ids, and the text that did not fit or None."""
        pieces = [piece for word in text.split() for piece in textwrap.wrap(word, 5)]
        kept, cut = pieces[: LENGTH - 1], pieces[LENGTH - 1 :]
        ids = [FIRST + zlib.crc32(piece.encode()) % (VOCABULARY - FIRST) for piece in kept]
        padding = [PAD] * (LENGTH - 1 - len(ids))
        return (*ids, END, *padding), " ".join(cut) or None

    def end(self, text):
        """Returns the position of the end token."""
        return self.encode(text)[0].index(END)

    def words(self, text):
        """Returns the words that fit, each with the positions of all its pieces."""
        words, position = [], 0
        for word in text.split():
            pieces = len(textwrap.wrap(word, 5))
            if position + pieces < LENGTH:
                words.append(Word(word, tuple(range(position, position + pieces))))
            position += pieces
        return tuple(words)


def networks(guidance=False, seed=0, entry=ENTRY, vocabulary=None):
    """Returns the four networks with random weights, evaluated."""
    mmdit = MMDiTConfig(
        txt_dim=16,
        vec_dim=16,
        heads=2,
        head_dim=16,
        depth=2,
        depth_single=2,
        mlp_ratio=2.0,
        axes_dim=(4, 6, 6),
        guidance=guidance,
    )
    t5 = T5Config(vocab_size=VOCABULARY, width=16, heads=2, head_dim=8, mlp_width=32, depth=1)
    clip = CLIPConfig(
        vocab_size=VOCABULARY, width=16, heads=2, mlp_width=32, depth=1, max_length=LENGTH, eos_token=END
    )
    vae = VAEConfig(channels=(8, 8, 16, 16), layers=1, groups=4)
    built = [
        random_weights(network, seed + i)
        for i, network in enumerate((MMDiT(mmdit), VAE(vae), CLIPText(clip), T5Encoder(t5)))
    ]
    mx.eval([network.parameters() for network in built])
    entry = replace(entry, guidance=3.5 if guidance else None)
    return Networks(*built, Tokenizer(), Tokenizer(), entry, vocabulary=vocabulary)


def pipeline(guidance=False, seed=0, entry=ENTRY, shift=None, vocabulary=None):
    """Returns a FluxPipeline of toy networks."""
    return FluxPipeline.from_networks(networks(guidance, seed, entry, vocabulary), shift)


def session(**options):
    """Returns a FluxSession on a toy pipeline; `options` are those of `pipeline`."""
    return FluxSession(pipeline(**options))
