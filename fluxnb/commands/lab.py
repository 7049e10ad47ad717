"""`fluxnb lab`: the example notebooks in a folder of the user's, opened in JupyterLab.

Knows where the example notebooks lie and how JupyterLab is started; nothing of networks.
"""

import argparse
import filecmp
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from fluxnb.errors import FluxnbError, InputError

PACKAGE = Path(__file__).parents[1]


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    lab = commands.add_parser(
        "lab",
        help="copy the examples to a folder of yours and open the first in JupyterLab",
        description="Copies the example notebooks to a folder of yours and opens the first in JupyterLab. "
        "A notebook that you changed there is kept.",
    )
    lab.add_argument(
        "folder", nargs="?", type=Path, default=Path("fluxnb-examples"), help="default: ./fluxnb-examples"
    )
    lab.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    lab.add_argument("--port", type=int, help="default: 8888, or the next free one")
    lab.set_defaults(run=_run)


def copy_examples(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Copies the example notebooks into a folder and keeps those that its owner changed.

    Args:
        folder: made if it does not exist.

    Returns:
        The notebooks now in the folder in reading order, and those among them that were kept
        although they differ from the shipped ones.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    notebooks, kept = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in _shipped_examples():
            target = folder / source.name
            if not target.exists():
                shutil.copyfile(source, target)
            elif not filecmp.cmp(source, target, shallow=False):
                kept.append(target)
            notebooks.append(target)
    except OSError as error:
        raise InputError(
            f"the examples cannot be copied to {folder} ({error.strerror}); "
            "name a folder that you can write to: fluxnb lab FOLDER"
        ) from error
    return tuple(notebooks), tuple(kept)


def _shipped_examples() -> tuple[Path, ...]:
    """Finds the notebooks inside an installed package, or beside it in a clone."""
    for folder in (PACKAGE / "examples", PACKAGE.parent / "examples"):
        if notebooks := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
            return tuple(notebooks)
    raise FluxnbError(f"no example notebooks beside {PACKAGE}; install fluxnb again")


def _run(chosen: argparse.Namespace) -> int:
    """Replaces this process by JupyterLab on the first example."""
    if find_spec("jupyterlab") is None:
        raise FluxnbError('JupyterLab is not installed here; run: pip install "fluxnb[lab]"')
    notebooks, kept = copy_examples(chosen.folder)
    for path in kept:
        print(f"Kept your own {path}; rename it to get the shipped one again.")
    print(f"Opening {notebooks[0]} in JupyterLab; Ctrl-C here ends it.", flush=True)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={chosen.folder.resolve()}",
        f"--LabApp.default_url=/lab/tree/{notebooks[0].name}",  # so that the address printed opens it too
    ]
    if chosen.no_browser:
        command.append("--no-browser")
    if chosen.port is not None:
        command.append(f"--port={chosen.port}")
    if os.geteuid() == 0:  # in a container; JupyterLab refuses to start for root otherwise
        command.append("--allow-root")
    os.execv(sys.executable, command)
