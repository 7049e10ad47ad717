"""What can be loaded by name, and what each model wants by default; knows nothing of files or networks."""

import difflib
from dataclasses import dataclass

from fluxnb.errors import UnknownModelError


@dataclass(frozen=True, slots=True)
class Entry:
    """A model and its defaults.

    Attributes:
        name: what it is called; for a folder of the user's, its path.
        licence: of the weights, as an SPDX identifier or the licence's own name; "unknown" for a folder.
        num_steps: steps that give its best pictures.
        latent_size: (H, W) in latent cells of 8 pixels.
        text_length: T5 tokens, end token and padding included.
        shift: static shift of the schedule; None: exp(mu), with mu from the number of image tokens.
        guidance: guidance strength, None for a model that takes none.
        cfg_weight: weight of classifier-free guidance, 0 for none.
        dtype: what the weights are kept in, if the caller does not say: "float32" or "bfloat16".
        base_tokens: image tokens at which mu is `base_shift`; used where `shift` is None.
        base_shift: mu at `base_tokens`.
        max_tokens: image tokens at which mu is `max_shift`; mu is linear in the tokens.
        max_shift: mu at `max_tokens`.
    """

    name: str
    licence: str
    num_steps: int
    latent_size: tuple[int, int]
    text_length: int
    shift: float | None = 1.0
    guidance: float | None = None
    cfg_weight: float = 0.0
    dtype: str = "float32"
    base_tokens: int = 256
    base_shift: float = 0.5
    max_tokens: int = 4096
    max_shift: float = 1.15


DEMO = Entry(
    name="fluxnb/demo",
    licence="Apache-2.0",
    num_steps=20,
    latent_size=(16, 16),
    text_length=24,
    cfg_weight=3.0,
)
SCHNELL = Entry(
    name="black-forest-labs/FLUX.1-schnell",
    licence="Apache-2.0",
    num_steps=4,
    latent_size=(128, 128),
    text_length=256,
    dtype="bfloat16",
)
DEV = Entry(
    name="black-forest-labs/FLUX.1-dev",
    licence="FLUX.1 [dev] Non-Commercial License",
    num_steps=28,
    latent_size=(128, 128),
    text_length=512,
    shift=None,
    guidance=3.5,
    dtype="bfloat16",
)
ENTRIES = (DEMO, SCHNELL, DEV)
"""Every model that has a name."""


def find(name: str) -> Entry:
    """Finds a model by its name.

    Args:
        name: as in `ENTRIES`, upper and lower case alike.

    Raises:
        UnknownModelError: no model of that name; the message lists the names there are.
    """
    names = {entry.name.lower(): entry for entry in ENTRIES}
    if isinstance(name, str) and name.lower() in names:
        return names[name.lower()]
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    hint = f"did you mean {names[near[0]].name!r}? " if near else ""
    known = ", ".join(repr(entry.name) for entry in ENTRIES)
    raise UnknownModelError(
        f"there is no model named {name!r}; {hint}the names are {known}, and local_ckpt= takes a folder"
    )
