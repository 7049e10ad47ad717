"""Runs the example notebooks from a clean kernel and writes them back as they are committed.

    python tests/execute_examples.py [examples/01_first_picture.ipynb ...]

Outputs and their PNGs stay; the widgets' saved state goes, since a page without a kernel then falls
back to the PNG (with the state it says that a widget is missing).
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
DROPPED = ("application/vnd.jupyter.widget-view+json", "image/jpeg")  # a PIL image comes as PNG and JPEG


def execute(path: Path) -> float:
    """Runs one notebook in its own folder and returns the seconds it took.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; the file is then left as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=300, coalesce_streams=True, resources=folder).execute()
    seconds = time.perf_counter() - start
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"  # stable, so that a second run leaves a small diff
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type in ("display_data", "execute_result"):
                for mime in DROPPED:
                    output.data.pop(mime, None)
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    for path in [Path(word) for word in sys.argv[1:]] or sorted(EXAMPLES.glob("*.ipynb")):
        print(f"{path}: {execute(path):.1f} s")
