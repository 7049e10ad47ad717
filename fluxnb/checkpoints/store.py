"""A name or a folder to four networks, two tokenizers and their defaults, all read, strictly.

Weights are read tensor by tensor, so that memory holds little more than the result. Knows nothing of prompts,
steps or pictures.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from fluxnb import backend
from fluxnb.checkpoints import catalog, configs, layouts, linear
from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.files import Tensors, read_tensors
from fluxnb.checkpoints.linear import LinearPreview
from fluxnb.checkpoints.parts import Parts, find
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.clip import CLIPText
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, VAEConfig, dev, schnell
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.t5 import T5Encoder
from fluxnb.model.tokenizers import ClipTokenizer, T5Tokenizer
from fluxnb.model.vae import VAE

DEMO_FOLDER = Path(__file__).parents[1] / "demo"
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
    model_version: str = "fluxnb/demo",
    local_ckpt: str | os.PathLike | None = None,
    low_memory_mode: bool = False,
    a16: bool = False,
    w16: bool = False,
    quantize: int | None = None,
) -> Networks:
    """Loads a model by its name, or from a folder in the layout of diffusers.

    Args:
        model_version: a name of the catalog; with `local_ckpt` it only gives the defaults of a model that is
            not `known` by its sizes.
        local_ckpt: folder to take everything from.
        low_memory_mode: not there yet.
        a16: not there yet.
        w16: keep weights in bfloat16, whatever the model's own.
        quantize: not there yet.

    Raises:
        UnknownModelError: no model of that name.
        InputError: a named model that is not here, an option that is not there yet.
        CheckpointError: the folder cannot be loaded as a FLUX.1; the message says why.
    """
    for option, value in (("low_memory_mode", low_memory_mode), ("a16", a16), ("quantize", quantize)):
        if value:
            raise InputError(f"{option}={value!r} is not there yet; leave it out")
    entry = catalog.find(model_version)
    if local_ckpt is None and entry is not catalog.DEMO:
        raise InputError(
            f"{entry.name} is not on this machine as far as fluxnb knows; download it, for example with "
            f"`hf download {entry.name} --local-dir FOLDER`, and pass local_ckpt=FOLDER"
        )
    if not isinstance(local_ckpt, (str, os.PathLike, type(None))):
        raise InputError(f"local_ckpt is {local_ckpt!r}; give the path of a folder")
    path = DEMO_FOLDER if local_ckpt is None else Path(local_ckpt).expanduser()
    parts = _find(path)
    backend.setup()
    networks = _read(parts, entry, path if local_ckpt is not None else None, w16=w16)
    backend.fit_threads(networks.mmdit.config.width)
    return networks


def known(config: MMDiTConfig, entry: Entry) -> Entry:
    """Tells FLUX.1-schnell and FLUX.1-dev by their sizes; any other model gets the defaults of `entry`."""
    return {schnell(): catalog.SCHNELL, dev(): catalog.DEV}.get(config, entry)


def _read(parts: Parts, entry: Entry, local: Path | None, w16: bool) -> Networks:
    """Reads all parts of a model; one that is `local` has no name but its path, and is known by its sizes."""
    mmdit = configs.mmdit(configs.read(parts.transformer / "config.json"))
    vae = configs.vae(configs.read(parts.vae / "config.json"))
    clip = configs.clip(configs.read(parts.text_encoder / "config.json"))
    t5 = configs.t5(configs.read(parts.text_encoder_2 / "config.json"))
    longest = T5_LENGTH_GUIDED if mmdit.guidance else T5_LENGTH
    clip_tokenizer = ClipTokenizer(parts.tokenizer)
    t5_tokenizer = T5Tokenizer(parts.tokenizer_2, longest)
    _check_fit(local or entry.name, mmdit, vae, clip, t5, clip_tokenizer, t5_tokenizer)
    if local is not None:
        entry = replace(known(mmdit, entry), name=str(local), licence="unknown")
    if parts.scheduler is not None:
        entry = configs.schedule(configs.read(parts.scheduler / "scheduler_config.json"), entry)
    guidance = (entry.guidance or catalog.DEV.guidance) if mmdit.guidance else None
    entry = replace(entry, text_length=t5_tokenizer.length, guidance=guidance)
    dtype = mx.bfloat16 if w16 else DTYPES[entry.dtype]

    def filled(network: nn.Module, table: layouts.Table, path: Path) -> nn.Module:
        return fill(network, table, read_tensors(path), dtype)

    return Networks(
        mmdit=filled(MMDiT(mmdit), layouts.DIFFUSERS_MMDIT, parts.transformer),
        vae=filled(VAE(vae), layouts.diffusers_vae(vae), parts.vae),
        clip=filled(CLIPText(clip), layouts.HUB_CLIP, parts.text_encoder),
        t5=filled(T5Encoder(t5), layouts.HUB_T5, parts.text_encoder_2),
        clip_tokenizer=clip_tokenizer,
        t5_tokenizer=t5_tokenizer,
        entry=entry,
        linear=linear.read(parts.vae, vae.latent_channels),
    )


def fill(network: nn.Module, table: layouts.Table, tensors: Tensors, dtype: mx.Dtype) -> nn.Module:
    """Puts the tensors of a component into a network, strictly, and returns it, evaluated.

    All names and shapes are compared before the first tensor is read.

    Args:
        network: whose parameters say what is expected.
        table: rules of the layout.
        tensors: used up: each is gone once it is read.
        dtype: what the parameters become, whatever the files hold.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape, or there twice and not equal.
    """
    shapes = {name: array.shape for name, array in tree_flatten(network.parameters())}
    arrays = tensors.arrays
    parts = layouts.plan(table, shapes, arrays, str(tensors.origin))
    misshapen = []
    for part in parts:
        shape = layouts.shape(part, arrays)
        if shape != shapes[part.target]:
            misshapen.append((part, shape))
    if misshapen:
        part, shape = misshapen[0]
        held = " + ".join(f"{name} {arrays[name].shape}" for name in part.sources)
        raise CheckpointError(
            f"{tensors.files[part.sources[0]]}: {len(misshapen)} of {len(parts)} parameters have other "
            f"shapes than config.json says: {held} cannot become {part.target} {shapes[part.target]}; "
            "take the config.json that belongs to the weights"
        )
    filled = []
    for part in parts:
        sources = [arrays.pop(name) for name in part.sources]
        for name, source in zip(part.copies, sources, strict=False):
            if not mx.array_equal(arrays.pop(name), source):
                raise CheckpointError(
                    f"{tensors.files[name]}: {name} and {part.sources[0]} should be the same and are not; "
                    "save the weights again with transformers"
                )
        array = part.transform(*sources).astype(dtype)
        mx.eval(array)
        filled.append((part.target, array))
    network.update(tree_unflatten(filled))
    return network


def _find(path: Path) -> Parts:
    """Finds the parts of a model, all of them."""
    found = find(path)
    missing = list(found.missing())
    if found.transformer and found.scheduler is None and (found.transformer / "config.json").exists():
        missing.append("scheduler")  # who has the one file of diffusers has the other
    if not missing:
        return found
    is_part = path.is_dir() and (path / "config.json").exists()
    remedy = (
        "give the folder above, which holds all parts" if is_part else "put it there, or download it again"
    )
    raise CheckpointError(f"{path} is no whole FLUX.1, it lacks {', '.join(missing)}; {remedy}")


def _check_fit(
    model: str | Path,
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
