"""`fluxnb models`: what can be loaded by name, how large it is, and whether it is here; asks no hub."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxnb.checkpoints.catalog import Entry

HEAD = ("NAME", "DISK", "MEMORY", "4 BIT", "LICENCE", "IN THE CACHE")
FOOT = """\
Memory is that of the weights, as they are and with quantize=4. Any other owner/name on the hub in the layout
of diffusers can be loaded too, and any folder or safetensors file of a FLUX.1."""


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    models = commands.add_parser(
        "models",
        help="list what can be loaded by name, its size, its licence, and whether it is here",
        description="Lists what can be loaded by name: what its weights take on the disk and in memory, "
        "their licence, and whether they are in the cache of huggingface_hub. Asks no hub.",
    )
    models.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")
    models.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    """Prints the list."""
    from fluxnb.checkpoints import catalog

    rows = [_row(entry) for entry in catalog.ENTRIES]
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = [HEAD, *(_written(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"\n{FOOT}")
    return 0


def _row(entry: Entry) -> dict:
    """Gathers what is told of a model; sizes in bytes."""
    from fluxnb.checkpoints import hub
    from fluxnb.checkpoints.footprint import footprint

    size = footprint(entry)
    return {
        "name": entry.name,
        "disk": size.disk,
        "memory": size.memory,
        "memory_4bit": size.memory_4bit,
        "licence": entry.licence,
        "cached": not hub.absent(entry),
        "ships_with_fluxnb": not entry.places,
    }


def _written(row: dict) -> tuple[str, ...]:
    """Writes a model as a line of the table."""
    sizes = (_size(row[key]) for key in ("disk", "memory", "memory_4bit"))
    here = "comes with fluxnb" if row["ships_with_fluxnb"] else "yes" if row["cached"] else "no"
    return (row["name"], *sizes, row["licence"], here)


def _size(size: int) -> str:
    """Writes a number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
