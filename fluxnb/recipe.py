"""The recipe of a picture: all that is needed to draw it again, as one text in the PNG file of the picture.

    image, log = pipeline.generate_image("a photo of a cat")
    recipe.save(image, "cat.png", log["recipe"])

    again = recipe.read("cat.png")
    pipeline = FluxPipeline(again.model, **asdict(again.loading))
    image, _ = pipeline.draw(again.settings)

On the same machine with the same versions it is the same picture bit for bit. A recipe comes from whoever
made the file: it is read as data, every value is checked, and nothing in it is taken for a path. A picture
that a run started from is known by its digest, and weights of one's own by the last part of their path; who
draws again has to name both. Knows nothing of networks.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import mlx.core as mx
from PIL import Image

from fluxnb import checks, disk, flow, images
from fluxnb.checkpoints.catalog import Entry
from fluxnb.errors import InputError
from fluxnb.settings import Settings
from fluxnb.version import __version__

KEY = "fluxnb"
"""Keyword of the text in the PNG file."""

FORMAT = 1
"""Number of this form of the text."""

REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}")
DRAWN = tuple(part.name for part in fields(Settings) if part.name not in ("embedding", "intervention"))
"""What of the settings a recipe holds; a run with the others is more than a recipe."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model was loaded, as far as it decides numbers: arguments of `FluxPipeline` by their names."""

    revision: str | None = None
    low_memory_mode: bool = False
    a16: bool = False
    w16: bool = False
    quantize: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to draw a picture again.

    Args:
        model: Its name or, for weights of the user's own, the last part of their path.
        is_own: Whether it is the latter.
        loading: How the model was loaded.
        settings: What was drawn.
        versions: Of fluxnb and mlx, which drew it.
    """

    model: str
    is_own: bool
    loading: Loading
    settings: Settings
    versions: tuple[str, str] = field(default=(__version__, mx.__version__))


def write_down(entry: Entry, loading: Loading, settings: Settings) -> Recipe:
    """Gives the recipe of a picture that is drawn here and now.

    Raises:
        InputError: if no recipe can hold it: a run from latents or an embedding of the caller's own, or with
            an intervention; or if the model takes guidance and there is none, or the other way round.
    """
    if settings.seed is None or settings.embedding or settings.intervention:
        raise InputError(
            "these settings are drawn by the run that has them: they stand for latents or an embedding of "
            "its own, or for an intervention"
        )
    if (settings.guidance is None) != (entry.guidance is None):
        takes = "takes none" if entry.guidance is None else f"takes one, e.g. {entry.guidance:g}"
        raise InputError(
            f"guidance is {settings.guidance}, but {entry.name} {takes}; these are settings of another model"
        )
    model = Path(entry.name).name if entry.is_own else entry.name
    return Recipe(model, entry.is_own, loading, settings)


def differing(recipe: Recipe) -> str:
    """Names the versions that drew it, if they are others than those here; else "" ."""
    names = ("fluxnb", "mlx")
    pairs = zip(names, recipe.versions, (__version__, mx.__version__), strict=True)
    return " and ".join(f"{name} {there!r}, here is {here}" for name, there, here in pairs if there != here)


def to_text(recipe: Recipe) -> str:
    """Spells a recipe as JSON in ASCII; undone by `from_text`."""
    settings = {name: getattr(recipe.settings, name) for name in DRAWN}
    values = {"format": FORMAT, "model": recipe.model, "own": recipe.is_own, "versions": recipe.versions}
    return json.dumps(values | asdict(recipe.loading) | settings, allow_nan=False)


def from_text(text: str) -> Recipe:
    """Reads a recipe and checks every value.

    Raises:
        InputError: if it is none; the message says why.
    """
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InputError("the recipe is no JSON; the file was changed") from None
    if not isinstance(values, dict):
        raise InputError(f"the recipe is a {type(values).__name__}; it should be a record")
    if values.get("format") != FORMAT:
        raise InputError(
            f"the recipe has format {values.get('format')!r}, fluxnb {__version__} reads {FORMAT}; "
            "update fluxnb to read a newer one"
        )
    loading = tuple(part.name for part in fields(Loading))
    known = {"format", "model", "own", "versions", *loading, *DRAWN}
    for what, names in (("lacks", known - set(values)), ("has an unknown", set(values) - known)):
        if names:
            raise InputError(f"the recipe {what} {min(names)!r}; the file was changed")
    return Recipe(
        model=_text("model", values["model"]),
        is_own=_flag("own", values["own"]),
        loading=Loading(**{name: _LOADING[name](name, values[name]) for name in loading}),
        settings=Settings(**{name: _SETTINGS[name](name, values[name]) for name in DRAWN}),
        versions=_versions("versions", values["versions"]),
    )


def read(path: str | os.PathLike) -> Recipe:
    """Reads the recipe in a picture file.

    Raises:
        InputError: if there is no file, no recipe in it, or one that cannot be drawn.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # the text may stand behind the pixels
            text = image.info.get(KEY)
    except FileNotFoundError:
        raise InputError(f"there is no picture {path}; check the path") from None
    except Exception as error:  # on broken files Pillow's decoders raise whatever it happens to be
        raise InputError(f"{path} cannot be read as a PNG ({error}); give another") from error
    if not isinstance(text, str):
        raise InputError(f"{path} has no recipe; only a PNG that fluxnb saved, and nobody changed, has one")
    try:
        return from_text(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def save(image: Image.Image, path: str | os.PathLike, recipe: Recipe | None = None) -> Path:
    """Saves a picture, with its recipe if one is given; a file of that name is written over.

    Args:
        image: RGB.
        path: Ends in .png, .jpg, .jpeg or .webp; only PNG holds a recipe.
        recipe: See `generate_image`, which gives it in its log.

    Returns:
        The path.

    Raises:
        InputError: if the path is none to write to, or the recipe is of another size or the file no PNG.
        FluxnbError: if the disk is full.
    """
    form = images.form_of(path)
    if recipe is None:
        disk.write(path, images.encode(image, form))
        return Path(path)
    height, width = recipe.settings.latent_size
    if image.size != (8 * width, 8 * height):
        raise InputError(
            f"the picture has {image.width} x {image.height} pixels and the recipe draws {8 * width} x "
            f"{8 * height}; save a picture that was changed without it"
        )
    disk.write(path, images.encode(image, form, text={KEY: to_text(recipe)}))
    return Path(path)


def _no_constant(name: str) -> None:
    """Refuses NaN and Infinity, which are no JSON."""
    raise ValueError(name)


def _text(name: str, value: object) -> str:
    """Checks a string that can be written as UTF-8."""
    try:
        checks.text(f"{name} of the recipe", value).encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} of the recipe is {value!r}, which is no text") from None
    return value


def _flag(name: str, value: object) -> bool:
    """Checks True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} of the recipe is {value!r}; it should be true or false")
    return value


def _pattern(pattern: re.Pattern) -> object:
    """Gives the check of a string of a certain form, or None."""

    def check(name: str, value: object) -> str | None:
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            raise InputError(f"{name} of the recipe is {value!r}; it should look like {pattern.pattern}")
        return value

    return check


def _number(**bounds: float) -> object:
    """Gives the check of a number."""
    return lambda name, value: checks.number(f"{name} of the recipe", value, **bounds)


def _optional(check: object) -> object:
    """Lets None pass a check."""
    return lambda name, value: None if value is None else check(name, value)


def _quantize(name: str, value: object) -> int:
    """Checks a number of bits."""
    return checks.whole(f"{name} of the recipe", value, 1, 16)


def _versions(name: str, value: object) -> tuple[str, str]:
    """Checks the two versions."""
    if not (isinstance(value, list) and len(value) == 2):
        raise InputError(f"{name} of the recipe is {value!r}; it should be those of fluxnb and mlx")
    return tuple(_text(name, one) for one in value)


_LOADING = {
    "revision": _pattern(REVISION),
    "low_memory_mode": _flag,
    "a16": _flag,
    "w16": _flag,
    "quantize": _optional(_quantize),
}
_SETTINGS = {
    "prompt": _text,
    "negative_text": _text,
    "seed": lambda name, value: checks.whole(f"{name} of the recipe", value, *flow.SEEDS),
    "sigmas": lambda name, value: flow.own_schedule(value),
    "shift": _optional(_number(above=0)),
    "guidance": _optional(_number(low=0)),
    "cfg_weight": _number(low=0),
    "latent_size": lambda name, value: checks.latent_size(value),
    "image": _pattern(DIGEST),
    "denoise": _number(above=0, high=1),
}
