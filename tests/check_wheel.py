"""Checks that a wheel holds all that an installed fluxnb needs: python tests/check_wheel.py WHEEL."""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def missing(wheel: Path) -> list[str]:
    """Names every file of the package and every example that the wheel lacks."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = [path for path in (ROOT / "fluxnb").rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in package if "__pycache__" not in path.parts}
    wanted |= {f"fluxnb/examples/{path.name}" for path in (ROOT / "examples").glob("*.ipynb")}
    return sorted(wanted - names)


if __name__ == "__main__":
    if lacking := missing(Path(sys.argv[1])):
        sys.exit(f"{sys.argv[1]} lacks {', '.join(lacking)}")
    print(f"{sys.argv[1]}: {Path(sys.argv[1]).stat().st_size / 1e6:.1f} MB, nothing missing")
