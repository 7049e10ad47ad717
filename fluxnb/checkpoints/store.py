"""A name or a folder to four networks, two tokenizers and their defaults, all read, strictly.

Weights are read tensor by tensor, so that memory holds little more than the result. Knows nothing of prompts,
steps or pictures.
"""

import os
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from fluxnb import backend
from fluxnb.checkpoints import catalog, components, configs, kinds, linear
from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.fill import fill
from fluxnb.checkpoints.linear import LinearPreview
from fluxnb.checkpoints.parts import Parts
from fluxnb.checkpoints.sources import locate
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, VAEConfig, dev, schnell
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.tokenizers import ClipTokenizer, T5Tokenizer
from fluxnb.model.vae import VAE

T5_LENGTH, T5_LENGTH_GUIDED = 256, 512  # most T5 tokens of FLUX.1-schnell and FLUX.1-dev
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}


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
    """

    mmdit: MMDiT
    vae: VAE
    clip: CLIPText
    t5: T5Encoder
    clip_tokenizer: ClipTokenizer
    t5_tokenizer: T5Tokenizer
    entry: Entry
    linear: LinearPreview | None = None


def load(
    model_version: str | os.PathLike = "fluxnb/demo",
    local_ckpt: str | os.PathLike | None = None,
    low_memory_mode: bool = False,
    a16: bool = False,
    w16: bool = False,
    quantize: int | None = None,
    revision: str | None = None,
) -> Networks:
    """Loads a model by its name or from a path, in whichever layout.

    Args:
        model_version: a name of the catalog, any "owner/name" on the hub, or the path of a folder or file. A
            model on the hub is downloaded as far as huggingface_hub's cache lacks it.
        local_ckpt: folder or file to take the weights from; `model_version` then gives the defaults of a
            model that is not `known` by its sizes and, if it is on the hub, the parts that are not there.
        low_memory_mode: not there yet.
        a16: not there yet.
        w16: keep weights in bfloat16, whatever the model's own.
        quantize: not there yet.
        revision: branch, tag or commit of a model on the hub, None for the newest.

    Raises:
        UnknownModelError: no model of that name.
        InputError: no such revision, an option that is not there yet.
        DownloadError: the model cannot be had from the hub; the message says why.
        CheckpointError: the files cannot be loaded as a FLUX.1; the message says why.
    """
    for option, value in (("low_memory_mode", low_memory_mode), ("a16", a16), ("quantize", quantize)):
        if value:
            raise InputError(f"{option}={value!r} is not there yet; leave it out")
    entry, parts = locate(model_version, local_ckpt, revision)
    backend.setup()
    networks = _read(parts, entry, w16=w16)
    backend.fit_threads(networks.mmdit.config.width)
    return networks


def known(config: MMDiTConfig, entry: Entry) -> Entry:
    """Tells FLUX.1-schnell and FLUX.1-dev by their sizes; any other model gets the defaults of `entry`."""
    return {schnell(): catalog.SCHNELL, dev(): catalog.DEV}.get(config, entry)


def _read(parts: Parts, entry: Entry, w16: bool) -> Networks:
    """Reads all parts of a model; one that has no entry in the catalog is known by its sizes."""
    found = {name: components.read(name, getattr(parts, name)) for name in kinds.WEIGHTS}
    mmdit, vae, clip, t5 = (component.config for component in found.values())
    longest = T5_LENGTH_GUIDED if mmdit.guidance else T5_LENGTH
    clip_tokenizer = ClipTokenizer(parts.tokenizer)
    t5_tokenizer = T5Tokenizer(parts.tokenizer_2, longest)
    _check_fit(entry.name, mmdit, vae, clip, t5, clip_tokenizer, t5_tokenizer)
    if entry not in catalog.ENTRIES:
        own = {name: getattr(entry, name) for name in ("name", "licence", "places", "commit")}
        entry = replace(known(mmdit, entry), **own)
    if parts.scheduler is not None:
        entry = configs.schedule(configs.read(parts.scheduler / "scheduler_config.json"), entry)
    guidance = (entry.guidance or catalog.DEV.guidance) if mmdit.guidance else None
    entry = replace(entry, text_length=t5_tokenizer.length, guidance=guidance)
    dtype = mx.bfloat16 if w16 else DTYPES[entry.dtype]

    def filled(network: nn.Module, name: str) -> nn.Module:
        return fill(network, found[name].table, found[name].tensors, dtype)

    return Networks(
        mmdit=filled(MMDiT(mmdit), "transformer"),
        vae=filled(VAE(vae), "vae"),
        clip=filled(CLIPText(clip), "text_encoder"),
        t5=filled(T5Encoder(t5), "text_encoder_2"),
        clip_tokenizer=clip_tokenizer,
        t5_tokenizer=t5_tokenizer,
        entry=entry,
        linear=linear.read(parts.vae, vae.latent_channels),
    )


def _check_fit(
    model: str,
    mmdit: MMDiTConfig,
    vae: VAEConfig,
    clip: CLIPConfig,
    t5: T5Config,
    clip_words: ClipTokenizer,
    t5_words: T5Tokenizer,
) -> None:
    """Refuses components that do not go together, before their weights are read."""
    token = 4 * vae.latent_channels  # an image token is 2 x 2 cells
    for what, found, expected in (
        ("in_channels of transformer", mmdit.in_channels, token),
        ("out_channels of transformer", mmdit.out_channels, token),
        ("joint_attention_dim of transformer", mmdit.txt_dim, t5.width),
        ("pooled_projection_dim of transformer", mmdit.vec_dim, clip.width),
    ):
        if found != expected:
            raise CheckpointError(
                f"{model}: {what} is {found}, but the other components need {expected}; they are parts of "
                "different models, or of one that draws from more than a prompt"
            )
    for what, found, most in (
        ("vocabulary of tokenizer", clip_words.size, clip.vocab_size),
        ("vocabulary of tokenizer_2", t5_words.size, t5.vocab_size),
        ("model_max_length of tokenizer", clip_words.length, clip.max_length),
    ):
        if found > most:
            raise CheckpointError(
                f"{model}: {what} is {found}, but the text encoder has room for {most}; "
                "take the tokenizer that belongs to it"
            )
    if clip.eos_token not in (None, clip_words.end_id):
        raise CheckpointError(
            f"{model}: eos_token_id of text_encoder is {clip.eos_token}, but tokenizer ends a prompt with "
            f"{clip_words.end_id}; take the tokenizer that belongs to it"
        )
