"""The example notebooks are committed as a reader should find them; nbval runs them (pyproject.toml)."""

import ast
from pathlib import Path

import nbformat
import pytest

import fluxnb

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
PUBLIC = {
    "fluxnb": {*fluxnb.__all__, "interventions", "plots"},
    "fluxnb.training.finetune": {"finetune", "measure"},
    "fluxnb.training.sprites": {"DINOSAUR", "on_grounds", "others"},
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_examples_are_numbered_in_reading_order():
    assert NOTEBOOKS[0].name == "01_first_picture.ipynb"
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{i:02d}_" for i in range(1, len(NOTEBOOKS) + 1)]


def test_it_was_run_from_top_to_bottom(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_it_ends_without_an_error_or_a_warning(code):
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_it_shows_a_picture_where_no_kernel_runs(code):
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    assert any("image/png" in data for data in shown)
    assert not [data for data in shown if WIDGET_VIEW in data]


def test_no_widget_state_is_saved(notebook):
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_it_uses_public_names_only(code):
    for cell in code:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fluxnb":
                assert {alias.name for alias in node.names} <= PUBLIC[node.module]
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("fluxnb.")]
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")


def test_what_matters_is_printed_and_checked(code):
    checked = [cell for cell in code if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert len(checked) >= 3
    assert all(any(output.output_type == "stream" for output in cell.outputs) for cell in checked)


def test_it_is_small_enough_for_the_repository():
    assert [path.name for path in NOTEBOOKS if path.stat().st_size > 1_500_000] == []
