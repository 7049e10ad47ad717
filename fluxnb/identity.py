"""Which model it was: its name and a fingerprint of its weights; knows nothing of runs or files of runs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from fluxnb.checkpoints.catalog import ENTRIES
from fluxnb.checkpoints.networks import Networks
from fluxnb.pipeline import FluxPipeline

NUMBERS = 64  # of each tensor that are read


@dataclass(frozen=True, slots=True)
class Model:
    """Which model drew something.

    Args:
        name: As in the catalog or on the hub; of a folder or file of the user's only the last part.
        revision: Commit on the hub that was loaded; None for what does not come from there.
        fingerprint: See `fingerprint`.
    """

    name: str
    revision: str | None
    fingerprint: str

    def __str__(self) -> str:
        """Names it, with the first digits of its fingerprint."""
        revision = "" if self.revision is None else f" at {self.revision}"
        return f"{self.name}{revision} (weights {self.fingerprint[:12]})"


def identify(pipeline: FluxPipeline) -> Model:
    """Says which model a pipeline draws with; it reads some 100 KB of its weights."""
    entry = pipeline.entry
    name = Path(entry.name).name if entry.is_own else entry.name  # where it lies is nobody else's concern
    return Model(name, entry.commit, fingerprint(pipeline.networks))


def lies_here(name: object) -> bool:
    """Says whether what a model is called by is a path on this disk, and no name of the catalog."""
    is_text = isinstance(name, (str, os.PathLike))
    return is_text and name not in {entry.name for entry in ENTRIES} and os.path.exists(name)


def fingerprint(networks: Networks) -> str:
    """Returns the SHA-256 of what tells weights apart at little cost.

    These are the names, shapes and dtypes of all parameters of the transformer and the autoencoder, and the
    first numbers of each, so quantised weights have another one than those they were made from. The text
    encoders, which may be out of memory, do not count.
    """
    digest = hashlib.sha256()
    for network in (networks.mmdit, networks.vae):
        parameters = sorted(tree_flatten(network.parameters()), key=itemgetter(0))
        digest.update(repr([(name, array.shape, str(array.dtype)) for name, array in parameters]).encode())
        firsts = [array[(0,) * (array.ndim - 1)][:NUMBERS].view(mx.uint8) for _, array in parameters]
        digest.update(np.array(mx.concatenate(firsts)).tobytes())
    return digest.hexdigest()
