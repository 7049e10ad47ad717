"""A picture to start from: a file, a Pillow image or an array, of any mode and size, as upright RGB pixels.

Knows nothing of networks, latents or runs.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from fluxnb.errors import InputError
from fluxnb.images import to_float

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of grey in 0..65535; it clips them at 255 when it converts them."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A picture to start from.

    Args:
        image: Mode RGB, upright; nobody changes it.
        digest: SHA-256 of its pixels by rows, `image.tobytes()`, so the same for every lossless copy of it.
    """

    image: Image.Image
    digest: str

    def latent_size(self, most: tuple[int, int]) -> tuple[int, int]:
        """Returns the size to draw it at unless another is asked for, as (H, W) in latent cells.

        It is the picture's own, to the nearest 16 pixels, but shrunk to the area of `most` if it is larger.
        """
        width, height = self.image.size
        scale = min(1, 8 * math.sqrt(most[0] * most[1] / (width * height)))
        return tuple(2 * max(1, round(side * scale / 16)) for side in (height, width))

    def pixels(self, latent_size: tuple[int, int]) -> np.ndarray:
        """Returns it at a size as the autoencoder takes it: float32 in -1..1, (1, 8 H, 8 W, 3).

        Stretched, if the proportions are others, with Lanczos' filter, as diffusers does.
        """
        height, width = latent_size
        fitted = self.image.resize((8 * width, 8 * height), Image.Resampling.LANCZOS)
        return to_float(np.asarray(fitted))[None]


def read(picture: object) -> Source:
    """Reads a picture in whatever form it comes.

    It is turned as its EXIF data say; what is transparent is laid on white; 16 bits of grey become 8; of an
    animation it is the first frame.

    Args:
        picture: Path of a file that Pillow reads; a Pillow image; or an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4) of uint8, or of floats in 0..1.

    Raises:
        InputError: if it is none of these, cannot be read, or has more pixels than Pillow thinks safe.
    """
    if isinstance(picture, (str, os.PathLike)):
        image = _open(os.fspath(picture))
    elif isinstance(picture, Image.Image):
        image = _upright(picture, "the picture")
    elif hasattr(picture, "__array__") or hasattr(picture, "__array_interface__"):
        image = _upright(_from_array(np.asarray(picture)), "the picture")
    else:
        raise InputError(f"the picture is {picture!r}; give a path, a Pillow image or an array")
    return Source(image, hashlib.sha256(image.tobytes()).hexdigest())


def _open(path: str) -> Image.Image:
    """Reads a file."""
    try:
        image = Image.open(os.path.expanduser(path))
    except FileNotFoundError:
        raise InputError(f"there is no picture {path}; check the path") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is no picture that Pillow knows; save it as PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture {path} is too large ({error}); scale it down first") from None
    except (OSError, ValueError) as error:  # a folder, no rights, a path with a null byte
        raise InputError(f"the picture {path} cannot be read ({error}); give another") from error
    with image:
        if image.format == "EPS":  # Pillow would hand it to Ghostscript, which runs it
            raise InputError(f"{path} is a PostScript program; save it as PNG")
        return _upright(image, path)


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Decodes an image to RGB, turned as its EXIF data say."""
    if 0 in image.size:
        raise InputError(f"{name} has {image.width} x {image.height} pixels; give one that has some")
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in (*SIXTEEN_BITS, "I", "F"):
            image = _eight_bits(np.asarray(image), name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # on broken files Pillow's decoders raise whatever it happens to be
        raise InputError(f"{name} cannot be decoded ({error}); save it again as PNG or JPEG") from error


def _eight_bits(grey: np.ndarray, name: str) -> Image.Image:
    """Scales grey in 0..65535 to 0..255."""
    if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 65535:
        raise InputError(f"{name} has grey values of unknown range; save it with 8 or 16 bits")
    return Image.fromarray(np.rint(grey / 257).astype(np.uint8))


def _from_array(pixels: np.ndarray) -> Image.Image:
    """Makes an image of an array."""
    shape = pixels.shape
    if pixels.ndim == 3 and shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and shape[2] in (3, 4)):
        raise InputError(f"an array of shape {shape} is no picture; give (H, W), (H, W, 3) or (H, W, 4)")
    if pixels.dtype.kind == "f":
        if not ((pixels >= 0) & (pixels <= 1)).all():
            raise InputError("the picture's floats are not all in 0..1; scale them, or give uint8 in 0..255")
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(f"the picture's numbers are {pixels.dtype}; give uint8 in 0..255 or floats in 0..1")
    return Image.fromarray(np.ascontiguousarray(pixels))
