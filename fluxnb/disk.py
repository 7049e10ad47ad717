"""Files written whole or not at all, and asked about before long work is done for them."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from fluxnb.errors import FluxnbError, InputError


def check(path: str | os.PathLike) -> Path:
    """Makes sure that a file can be written, or written over, and leaves nothing behind.

    Returns:
        The path, of the file itself where a link was named.

    Raises:
        InputError: if it cannot be; the message says why.
    """
    try:
        target = Path(os.path.realpath(os.path.expanduser(path)))
        if target.is_dir() or (target.exists() and not target.is_file()):
            raise InputError(f"{path} is no file; give the name of one")
        if not target.parent.is_dir():
            raise InputError(f"there is no folder {target.parent} to write {target.name} to; make it first")
        if len(os.fsencode(target.name)) > os.pathconf(target.parent, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "the file is write-protected")
        part = _beside(target)
        part.touch(exist_ok=False)
        part.unlink()
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written ({reason}); give another path") from error
    return target


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file, or over one, so that at every moment the old or the new one is there whole.

    Raises:
        InputError: if it cannot be written, see `check`.
        FluxnbError: if the disk fails or is full; what was there before is still there.
    """
    target = check(path)
    part = _beside(target)
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:
        raise FluxnbError(
            f"{path} could not be written ({error.strerror}), {len(data)} bytes; nothing of it is left, "
            "make room or give another path"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    """Names a file in the same folder that is not there."""
    return target.with_name(f".fluxnb-{secrets.token_hex(8)}.part")
