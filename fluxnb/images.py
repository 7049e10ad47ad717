"""Pictures: network output -> uint8 -> PNG, JPEG or WebP bytes; heat maps; contact sheets.

Knows nothing of networks, sessions or notebooks: numpy and Pillow in, numpy, Pillow and bytes out.
Letters: H, W pixels; h, w cells of a map.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from fluxnb.errors import InputError

HEAT = (
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85),
    (227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164),
)  # fmt: skip
"""Nine evenly spaced colours of "inferno" (N. Smith, S. van der Walt; CC0): dark is little, readable in
colour blindness and in grey. `widgets/flux.js` holds the same nine."""

FORMATS = ("png", "jpeg", "webp")
ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
PAPER, INK = (255, 255, 255), (90, 90, 96)  # a contact sheet's ground and its labels
LABEL_HEIGHT = 18  # pixels under each picture of a contact sheet


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Network output to bytes, by the rule of diffusers: clamp(x / 2 + 1/2, 0, 1), then round(255 x).

    Args:
        pixels: Floats in about [-1, 1], any shape.

    Returns:
        uint8 of the same shape, 0..255.

    Raises:
        InputError: If a value is not finite, since its byte would be anybody's guess.
    """
    pixels = np.asarray(pixels, np.float32)
    if not np.isfinite(pixels).all():
        bad = int(pixels.size - np.isfinite(pixels).sum())
        raise InputError(
            f"{bad} of {pixels.size} pixel values are NaN or infinite, expected about -1..1; "
            "the run diverged: try other steps, shift or guidance"
        )
    return np.rint(np.clip(pixels / 2 + 0.5, 0, 1) * 255).astype(np.uint8)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Bytes to network input, the inverse of `to_uint8`: float32 in [-1, 1], same shape."""
    return np.asarray(pixels, np.float32) / 127.5 - 1


def picture(pixels: np.ndarray) -> Image.Image:
    """One decoded picture as a Pillow image.

    Args:
        pixels: (H, W, 3) or (1, H, W, 3), floats in about [-1, 1].
    """
    pixels = np.asarray(pixels)
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise InputError(f"pixels of shape {pixels.shape} are no picture; expected (H, W, 3) or (1, H, W, 3)")
    return Image.fromarray(to_uint8(pixels))


def form_of(path: str | os.PathLike) -> str:
    """The format that the ending of a file's name stands for."""
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in ENDINGS:
        raise InputError(f"{path} ends in {ending!r}; name a file that ends in {', '.join(ENDINGS)}")
    return ENDINGS[ending]


def encode(
    image: Image.Image, form: str = "png", quality: int = 90, text: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a picture file.

    Args:
        image: An RGB picture.
        form: "png" (lossless), "jpeg" or "webp".
        quality: 1..100 for "jpeg" and "webp". Chroma is kept at full size: the pictures are small and
            are looked at enlarged.
        text: Texts by their keywords, for "png" only.
    """
    if form not in FORMATS:
        raise InputError(f"picture format {form!r} is not one of {', '.join(FORMATS)}")
    if text and form != "png":
        raise InputError(f"a {form} file holds no text; save the picture as .png, or without its recipe")
    notes = PngInfo()
    for key, value in (text or {}).items():
        notes.add_text(key, value)
    options = {
        "png": {"compress_level": 6, "pnginfo": notes},
        "jpeg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality, "method": 2},
    }[form]
    out = io.BytesIO()
    image.save(out, form.upper(), **options)
    return out.getvalue()


def decode(data: bytes) -> Image.Image:
    """The picture in the bytes of a file, the inverse of `encode` for "png"."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def to_grid(weights: np.ndarray) -> np.ndarray:
    """A map as bytes, its largest weight 255; a map of zeros stays zeros.

    Args:
        weights: (h, w) or (N, h, w), not negative; N maps are scaled one by one.

    Returns:
        uint8 of the same shape.
    """
    weights = np.asarray(weights, np.float32)
    top = weights.max(axis=(-2, -1), keepdims=True)
    return np.rint(255 * weights / np.where(top > 0, top, 1)).astype(np.uint8)


def colours(grid: np.ndarray) -> np.ndarray:
    """The colours of a map in bytes: uint8 (h, w) to uint8 (h, w, 3), by straight lines between `HEAT`."""
    stops = np.linspace(0, 255, len(HEAT))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in zip(*HEAT, strict=True)], -1)
    return np.rint(table).astype(np.uint8)[np.asarray(grid, np.uint8)]


def heat_over(image: Image.Image, weights: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """A picture with a heat map laid over it, every cell of the map a sharp block.

    Args:
        image: The picture, (H, W).
        weights: (h, w), not negative; the largest is shown brightest.
        opacity: 0 shows the picture alone, 1 the map alone.
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity {opacity} is outside 0..1")
    heat = Image.fromarray(colours(to_grid(weights))).resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image.convert("RGB"), heat, opacity)


def contact_sheet(
    pictures: Sequence[Image.Image], labels: Sequence[str] = (), side: int = 128
) -> Image.Image:
    """Pictures side by side on white, each in a box of `side` pixels, its label under it.

    Args:
        pictures: At least one.
        labels: One for each picture, or none at all.
        side: Box of a picture in pixels; its longer side fills the box.
    """
    if not pictures:
        raise InputError("a contact sheet of no pictures; expected at least one")
    if labels and len(labels) != len(pictures):
        raise InputError(f"{len(labels)} labels for {len(pictures)} pictures; expected one each, or none")
    gap = side // 16
    sheet = Image.new(
        "RGB", (len(pictures) * (side + gap) - gap, side + (LABEL_HEIGHT if labels else 0)), PAPER
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, one in enumerate(pictures):
        ratio = side / max(one.size)
        shown = one.convert("RGB").resize(
            (max(1, round(one.width * ratio)), max(1, round(one.height * ratio))), Image.Resampling.BICUBIC
        )
        left = i * (side + gap)
        sheet.paste(shown, (left + (side - shown.width) // 2, (side - shown.height) // 2))
        if labels:
            pen.text((left + side / 2, side + LABEL_HEIGHT - 3), labels[i], INK, font, anchor="ms")
    return sheet
