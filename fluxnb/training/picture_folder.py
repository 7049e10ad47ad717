"""A folder of pictures to paths and captions, as scripts of diffusers and Kohya read one.

The first of these that is there gives a picture its caption:

    metadata.jsonl   a line for each picture, {"file_name": "1.png", "text": "a dragon"}, as Hugging Face's
                     `imagefolder` has it; pictures that it does not name are left out
    1.txt            beside 1.png
    the word         "a photo of a dragon"

Knows nothing of models.
"""

from __future__ import annotations

import json
from pathlib import Path

from fluxnb import checks
from fluxnb.errors import InputError
from fluxnb.training.scenes import article

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
METADATA = "metadata.jsonl"


def captioned(folder: Path, word: str | None = None) -> tuple[list[Path], list[str]]:
    """Finds the pictures of a folder, by their names, and what they are called.

    Args:
        folder: Of pictures.
        word: What those show that have no caption; None where all have one.

    Raises:
        InputError: if there is no picture, or one without a caption, or a line that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give one with pictures")
    if (folder / METADATA).exists():
        return _listed(folder)
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not paths:
        raise InputError(f"{folder} holds no picture; expected {', '.join(PICTURES)}")
    return paths, [_caption(path, word) for path in paths]


def _listed(folder: Path) -> tuple[list[Path], list[str]]:
    """Reads metadata.jsonl; a path in it leads nowhere outside of the folder."""
    file, paths, captions = folder / METADATA, [], []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            tree = json.loads(line)
            path = folder / checks.text("file_name", tree["file_name"])
            captions.append(checks.text("text", tree["text"]))
            is_inside = path.resolve().is_relative_to(folder.resolve())
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            raise InputError(
                f'{file}, line {number}: {error}; expected {{"file_name": "1.png", "text": "a dragon"}}'
            ) from error
        if not is_inside:
            raise InputError(f"{file}, line {number}: {path} lies outside of the folder; move it there")
        paths.append(path)
    if not paths:
        raise InputError(f"{file} names no picture; write a line for each, or take it away")
    return paths, captions


def _caption(path: Path, word: str | None) -> str:
    """Returns the caption of one picture."""
    beside = path.with_suffix(".txt")
    if beside.exists():
        return _text(beside).strip()
    if not word:
        raise InputError(f"{path} has no caption; write {beside.name} beside it, or give a word")
    return f"a photo of {article(word)}"


def _text(file: Path) -> str:
    """Reads a text file."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); save it as UTF-8") from error
