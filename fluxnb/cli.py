"""The `fluxnb` command: its parser, and what becomes of an error. The commands are in `fluxnb.commands`.

An error is one sentence on stderr and exit code 2, a warning is the sentence alone; Ctrl-C ends with 130 and
a reader that has seen enough (`fluxnb models | head`) with 141, as shells have it.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from fluxnb.commands import generate, lab, models
from fluxnb.errors import FluxnbError, FluxnbWarning
from fluxnb.version import __version__

COMMANDS = (lab, generate, models)
"""In the order of `fluxnb --help`. Each module has `register(commands)`."""


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, where argparse would print the usage as well."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    Args:
        arguments: the words after `fluxnb`; None takes those of the process.
    """
    parser = _Parser(prog="fluxnb", description="FLUX.1 in a Jupyter notebook.")
    parser.add_argument("--version", action="version", version=f"fluxnb {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.register(commands)
    chosen = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", FluxnbWarning)
            warnings.showwarning = _show
            code = chosen.run(chosen)
            sys.stdout.flush()
            return code
    except FluxnbError as error:
        print(f"fluxnb: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141
    except KeyboardInterrupt:
        print("fluxnb: interrupted", file=sys.stderr)
        return 130


def _show(message: Warning | str, *_: object) -> None:
    """Prints a warning as one line, without the line of the code that gave it."""
    print(f"fluxnb: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
