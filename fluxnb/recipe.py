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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import mlx.core as mx
from PIL import Image

from fluxnb import checks, disk, images
from fluxnb.checkpoints.catalog import Entry
from fluxnb.errors import InputError
from fluxnb.settings import Settings, from_tree, to_tree
from fluxnb.version import __version__

KEY = "fluxnb"
"""Keyword of the text in the PNG file."""

FORMAT = 1
"""Number of this form of the text."""


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


def write_down(entry: Entry, arguments: Mapping[str, object], settings: Settings) -> Recipe:
    """Gives the recipe of a picture that is drawn here and now.

    Args:
        entry: The model.
        arguments: Of its pipeline.
        settings: What is drawn.

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
    given = {part.name: arguments[part.name] for part in fields(Loading) if part.name in arguments}
    loading = Loading(**given | ({"revision": entry.commit} if entry.commit else {}))
    model = Path(entry.name).name if entry.is_own else entry.name
    return Recipe(model, entry.is_own, loading, settings)


def differing(recipe: Recipe) -> str:
    """Names the versions that drew it, if they are others than those here; else "" ."""
    names = ("fluxnb", "mlx")
    pairs = zip(names, recipe.versions, (__version__, mx.__version__), strict=True)
    return " and ".join(f"{name} {there!r}, here is {here}" for name, there, here in pairs if there != here)


def to_text(recipe: Recipe) -> str:
    """Spells a recipe as JSON in ASCII; undone by `from_text`."""
    tree = {"format": FORMAT, **asdict(recipe), "settings": to_tree(recipe.settings)}
    return json.dumps(tree, allow_nan=False)


def from_text(text: str) -> Recipe:
    """Reads a recipe and checks every value.

    Raises:
        InputError: if it is none; the message says why.
    """
    try:
        tree = json.loads(text, parse_constant=_no_constant)
        kind = tree.pop("format")
        if kind != FORMAT:
            raise InputError(
                f"the recipe has format {kind!r}, but fluxnb {__version__} reads format {FORMAT}; read it "
                "with the fluxnb that wrote it, or a newer one"
            )
        recipe = Recipe(
            model=checks.label("model", tree.pop("model")),
            is_own=checks.flag("is_own", tree.pop("is_own")),
            loading=_loading(**tree.pop("loading")),
            settings=from_tree(tree.pop("settings")),
            versions=tuple(checks.label("a version", version) for version in tree.pop("versions")),
        )
        if tree or len(recipe.versions) != 2:
            raise InputError(f"it holds {min(tree, default='versions')!r}, which is unknown")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"the recipe is damaged ({type(error).__name__}: {str(error)[:80]!r})") from None
    return recipe


def read(path: str | os.PathLike) -> Recipe:
    """Reads the recipe in a picture file.

    Raises:
        InputError: if there is no file, no recipe in it, or one that cannot be drawn.
    """
    try:
        with Image.open(os.path.expanduser(path), formats=("PNG",)) as image:
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
        data = images.encode(image, form)
    else:
        height, width = recipe.settings.latent_size
        if image.size != (8 * width, 8 * height):
            raise InputError(
                f"the picture has {image.width} x {image.height} pixels and the recipe draws {8 * width} x "
                f"{8 * height}; save a picture that was changed without it"
            )
        data = images.encode(image, form, text={KEY: to_text(recipe)})
    disk.write(path, data)
    return Path(os.path.expanduser(path))


def _no_constant(name: str) -> None:
    """Refuses NaN and Infinity, which are no JSON."""
    raise ValueError(name)


def _loading(revision, low_memory_mode, a16, w16, quantize) -> Loading:
    """Checks how a model was loaded."""
    return Loading(
        checks.optional(checks.label, "revision", revision),
        checks.flag("low_memory_mode", low_memory_mode),
        checks.flag("a16", a16),
        checks.flag("w16", w16),
        checks.optional(checks.whole, "quantize", quantize, 1, 16),
    )
