"""A tiny autoencoder from its files, which it downloads only if it is named by its name on the hub.

Knows nothing of what it is for.
"""

import os
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from fluxnb import backend
from fluxnb.checkpoints import catalog, configs
from fluxnb.checkpoints.files import read_tensors
from fluxnb.checkpoints.fill import fill
from fluxnb.checkpoints.layouts import Rule, Table, channels_last
from fluxnb.checkpoints.places import Place
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import taef1
from fluxnb.model.taesd import TAESD

DIFFUSERS_TAESD: Table = (Rule("**", ("**",), channels_last),)
"""diffusers' AutoencoderTiny."""


def load(source: str | os.PathLike, channels: int) -> TAESD:
    """Reads a tiny autoencoder, evaluated.

    Args:
        source: a folder or a safetensors file in the layout of diffusers' AutoencoderTiny, or its name on the
            hub, "madebyollin/taef1" for FLUX.1.
        channels: of the latents that it is for.

    Raises:
        InputError: `source` is none of these.
        CheckpointError: it cannot be read as one, or is for other latents.
        DownloadError: it cannot be brought from the hub.
    """
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise InputError(f"the preview is {source!r}; give a path, or a name on the hub: 'madebyollin/taef1'")
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path):
        path = _fetched(str(source))
    config = configs.taesd(configs.read(path / "config.json")) if path.is_dir() else taef1()
    if config.latent_channels != channels:
        raise CheckpointError(
            f"{path} decodes latents of {config.latent_channels} channels, and those of this model have "
            f"{channels}; for FLUX.1 take madebyollin/taef1"
        )
    backend.setup()
    return fill(TAESD(config), DIFFUSERS_TAESD, read_tensors(path), mx.float32)


def _fetched(name: str) -> Path:
    """Brings a tiny autoencoder from the hub."""
    if not catalog.is_repo(name):
        raise InputError(f"there is no {name}; give a path, or a name on the hub: 'madebyollin/taef1'")
    from fluxnb.checkpoints import hub  # only now: huggingface_hub takes some tenths of a second

    return hub.fetch(replace(catalog.SCHNELL, name=name, places=(Place("vae", name, ""),))).vae
