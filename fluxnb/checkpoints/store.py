"""A name or a path to four networks, two tokenizers and their defaults, strictly.

Knows nothing of prompts, steps or pictures.
"""

import os
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from fluxnb import backend, checks
from fluxnb.checkpoints import catalog, components, configs, linear, native, vocabulary
from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.components import Component
from fluxnb.checkpoints.fill import fill, match
from fluxnb.checkpoints.networks import DTYPES, NETWORKS, PARTS, Configs, Networks, SwappedNetworks
from fluxnb.checkpoints.parts import Parts
from fluxnb.checkpoints.quantised import BITS
from fluxnb.checkpoints.sources import locate
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import MMDiTConfig, dev, schnell
from fluxnb.model.tokenizers import ClipTokenizer, T5Tokenizer

T5_LENGTH, T5_LENGTH_GUIDED = 256, 512  # most T5 tokens of FLUX.1-schnell and FLUX.1-dev
QUANTISED = ("mmdit", "t5")  # the large ones; CLIP and the autoencoder are 3 % of FLUX.1 and stay in floats


def load(
    model_version: str | os.PathLike = "fluxnb/demo",
    local_ckpt: str | os.PathLike | None = None,
    low_memory_mode: bool = False,
    a16: bool = False,
    w16: bool = False,
    quantize: int | None = None,
    revision: str | None = None,
) -> Networks | SwappedNetworks:
    """Loads a model by its name or from a path, in whichever layout.

    Args:
        model_version: a name of the catalog, any "owner/name" on the hub, or the path of a folder or file. A
            model on the hub is downloaded as far as huggingface_hub's cache lacks it.
        local_ckpt: folder or file to take the weights from; `model_version` then gives the defaults of a
            model that is not `known` by its sizes and, if it is on the hub, the parts that are not there.
        low_memory_mode: have text encoders, or transformer and autoencoder, in memory, never both: each is
            read when it is needed, and the other side is freed before.
        a16: compute in bfloat16, but for times, latents and the encoding of pictures; False is float32.
        w16: keep weights in bfloat16; False is the model's own, float32 for the demo and bfloat16 for FLUX.1.
        quantize: bits of a weight in the blocks of transformer and T5, one of `quantised.BITS`, with a scale
            and a bias in the type of the other weights for each 64; None leaves them as the files have them.
            Files that are quantised already can only be asked for the bits that they have.
        revision: branch, tag or commit of a model on the hub, None for the newest.

    Raises:
        UnknownModelError: no model of that name.
        InputError: no such revision, a number of bits that is not possible, a switch that is no bool.
        DownloadError: the model cannot be had from the hub; the message says why.
        CheckpointError: the files cannot be loaded as a FLUX.1; the message says why.
    """
    if quantize is not None and (type(quantize) is not int or quantize not in BITS):
        raise InputError(
            f"quantize is {quantize!r}; give one of {', '.join(map(str, BITS))}, or None to keep all bits"
        )
    for name, value in (("low_memory_mode", low_memory_mode), ("a16", a16), ("w16", w16)):
        checks.flag(name, value)
    entry, parts = locate(model_version, local_ckpt, revision)
    backend.setup()
    networks = _read(parts, entry, low_memory_mode, mx.bfloat16 if a16 else mx.float32, w16, quantize)
    backend.fit_threads(networks.configs.mmdit.width)
    return networks


def known(config: MMDiTConfig, entry: Entry) -> Entry:
    """Tells FLUX.1-schnell and FLUX.1-dev by their sizes; any other model gets the defaults of `entry`.

    Blocks do not count: some who train FLUX.1 on leave a part of them out.
    """
    whole = replace(config, depth=dev().depth, depth_single=dev().depth_single)
    return {schnell(): catalog.SCHNELL, dev(): catalog.DEV}.get(whole, entry)


def _read(
    parts: Parts, entry: Entry, low_memory: bool, streams: mx.Dtype, w16: bool, bits: int | None
) -> Networks | SwappedNetworks:
    """Reads all parts of a model, or makes them ready to be read."""
    saved = None if (folder := native.find(parts)) is None else native.read(folder)

    def opened(name: str) -> Component:
        return saved.open(name) if saved else components.read(PARTS[name], getattr(parts, PARTS[name]))

    found = {name: opened(name) for name in PARTS}
    sizes = Configs(**{name: component.config for name, component in found.items()})
    longest = saved.entry.text_length if saved else T5_LENGTH_GUIDED if sizes.mmdit.guidance else T5_LENGTH
    clip_tokenizer, t5_tokenizer = ClipTokenizer(parts.tokenizer), T5Tokenizer(parts.tokenizer_2, longest)
    _check_fit(entry.name, sizes, clip_tokenizer, t5_tokenizer)
    if saved:
        entry = replace(saved.entry, name=entry.name)
    else:
        entry = _entry(parts, entry, sizes.mmdit, t5_tokenizer.length)
    entry = replace(entry, dtype="bfloat16" if w16 else entry.dtype)

    def filled(name: str, component: Component) -> nn.Module:
        network = NETWORKS[name](component.config)
        return fill(network, component.table, component.tensors, DTYPES[entry.dtype], asked.get(name))

    asked = dict.fromkeys(QUANTISED, bits)
    fit = linear.read(parts.vae, sizes.vae.latent_channels)
    folders = parts.tokenizer, parts.tokenizer_2
    taught = vocabulary.read(parts.transformer)
    common = (clip_tokenizer, t5_tokenizer, entry, fit, streams, folders, taught)
    for name, component in found.items():  # all of them, before any takes its time and memory
        tensors = replace(component.tensors, arrays=dict(component.tensors.arrays))
        match(NETWORKS[name](component.config), component.table, tensors, asked.get(name))
    if low_memory:
        return SwappedNetworks(sizes, lambda name: filled(name, opened(name)), *common)
    networks = {name: filled(name, found.pop(name)) for name in PARTS}
    mx.clear_cache()  # what the reading took
    return Networks(*networks.values(), *common)


def _entry(parts: Parts, entry: Entry, config: MMDiTConfig, text_length: int) -> Entry:
    """Puts what the files say into an entry; one that is not in the catalog is known by its sizes."""
    if entry not in catalog.ENTRIES:
        own = {name: getattr(entry, name) for name in ("name", "licence", "places", "commit")}
        entry = replace(known(config, entry), **own)
    if parts.scheduler is not None:
        entry = configs.schedule(configs.read(parts.scheduler / "scheduler_config.json"), entry)
    guidance = (entry.guidance or catalog.DEV.guidance) if config.guidance else None
    return replace(entry, text_length=text_length, guidance=guidance)


def _check_fit(model: str, sizes: Configs, clip_words: ClipTokenizer, t5_words: T5Tokenizer) -> None:
    """Refuses components that do not go together, before their weights are read."""
    mmdit, vae, clip, t5 = sizes.mmdit, sizes.vae, sizes.clip, sizes.t5
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
