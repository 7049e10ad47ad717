"""What can be loaded by name, where it lies, and what it wants by default; opens no file, asks no hub."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from fluxnb import checks
from fluxnb.checkpoints.places import Place, diffusers, diffusionkit
from fluxnb.errors import UnknownModelError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
OWN = "fluxnb/"  # names that begin so come with the package


@dataclass(frozen=True, slots=True)
class Entry:
    """A model and its defaults.

    Attributes:
        name: what it is called; for a folder of the user's, its path.
        licence: of the weights, as an SPDX identifier or the licence's own name; "unknown" for a folder, and
            for a repository that has no entry.
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
        places: where its components lie on the hub; () for what comes with the package or is the user's own.
        commit: of its own repository, once it was loaded from the hub.
        adapter: name of the folder in the package whose LoRA adapter makes it of the demo model, or None.
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
    places: tuple[Place, ...] = ()
    commit: str | None = None
    adapter: str | None = None

    def __post_init__(self):
        checks.label("licence", self.licence)
        checks.whole("num_steps", self.num_steps, 1)
        checks.latent_size(self.latent_size)
        checks.whole("text_length", self.text_length, 1)
        checks.optional(checks.number, "shift", self.shift, above=0)
        checks.optional(checks.number, "guidance", self.guidance, low=0)
        checks.number("cfg_weight", self.cfg_weight, low=0)
        checks.whole("max_tokens", self.max_tokens, low=self.base_tokens + 1)

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own: its name is a path."""
        return not self.places and not self.name.startswith(OWN)

    @property
    def repos(self) -> tuple[str, ...]:
        """Repositories that it is downloaded from, its own first."""
        return tuple(dict.fromkeys(place.repo for place in self.places))

    def only(self, components: Collection[str]) -> "Entry":
        """Gives the entry with the places of some components."""
        return replace(self, places=tuple(place for place in self.places if place.component in components))


DEMO = Entry(
    name="fluxnb/demo",
    licence="Apache-2.0",
    num_steps=20,
    latent_size=(16, 16),
    text_length=24,
    cfg_weight=3.0,
)
DEMO_SCHNELL = replace(DEMO, name="fluxnb/demo-schnell", num_steps=4, cfg_weight=0.0, adapter="demo-schnell")
SCHNELL = Entry(
    name="black-forest-labs/FLUX.1-schnell",
    licence="Apache-2.0",
    num_steps=4,
    latent_size=(128, 128),
    text_length=256,
    dtype="bfloat16",
    places=diffusers("black-forest-labs/FLUX.1-schnell"),
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
    places=diffusers("black-forest-labs/FLUX.1-dev"),
)
SCHNELL_DIFFUSIONKIT = replace(
    SCHNELL,
    name="argmaxinc/mlx-FLUX.1-schnell",
    places=diffusionkit("argmaxinc/mlx-FLUX.1-schnell", "flux-schnell.safetensors"),
)
SCHNELL_4BIT = replace(
    SCHNELL,
    name="argmaxinc/mlx-FLUX.1-schnell-4bit-quantized",
    places=diffusionkit(
        "argmaxinc/mlx-FLUX.1-schnell-4bit-quantized", "flux-schnell-4bit-quantized.safetensors", bits=4
    ),
)
DEV_DIFFUSIONKIT = replace(
    DEV,
    name="argmaxinc/mlx-FLUX.1-dev",
    places=diffusionkit("argmaxinc/mlx-FLUX.1-dev", "flux1-dev.safetensors"),
)
ENTRIES = (DEMO, DEMO_SCHNELL, SCHNELL, DEV, SCHNELL_DIFFUSIONKIT, SCHNELL_4BIT, DEV_DIFFUSIONKIT)
"""Every model that has a name of its own here."""


def find(name: str) -> Entry:
    """Finds a model by its name.

    Args:
        name: as in `ENTRIES`, upper and lower case alike; or any "owner/name" of a repository on the hub in
            the layout of diffusers, whose defaults are the demo model's until its sizes are known.

    Raises:
        UnknownModelError: no model of that name; the message lists the names there are.
    """
    names = {entry.name.lower(): entry for entry in ENTRIES}
    if isinstance(name, str) and name.lower() in names:
        return names[name.lower()]
    if isinstance(name, str) and is_repo(name) and not name.lower().startswith(OWN):
        places = (Place("model_index", name, ""), *diffusers(name))
        return replace(DEMO, name=name, licence="unknown", places=places)
    raise UnknownModelError(
        f"there is no model named {name!r}; {hint(name)}the names are {listed()}, and any owner/name on the "
        "hub or path on this disk will do"
    )


def is_repo(name: str) -> bool:
    """Tells whether a name can be that of a repository, by the hub's rules."""
    return bool(HUB_NAME.fullmatch(name)) and ".." not in name and "--" not in name


def hint(name: object) -> str:
    """Asks whether a name that is near to another was meant: "did you mean 'fluxnb/demo'? ", or ""."""
    names = {entry.name.lower(): entry.name for entry in ENTRIES}
    names |= {entry.name.lower().split("/")[1]: entry.name for entry in ENTRIES}  # without its owner
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    return f"did you mean {names[near[0]]!r}? " if near else ""


def listed() -> str:
    """Lists all names for a message."""
    return ", ".join(repr(entry.name) for entry in ENTRIES)
