"""What the README says is run here: its snippet, its commands, its links."""

import ast
import inspect
import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

from fluxnb import FluxPipeline, FluxSession
from fluxnb.checkpoints import catalog

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_snippets_run(capsys, tmp_path, monkeypatch):
    widget, numbers, looks, _ = blocks("python")
    assert "FluxWidget()" in widget  # the first lesson runs it
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(numbers, names)
    assert len(capsys.readouterr().out.splitlines()) == 20
    exec(looks, names)
    assert "fluxnb/demo" in capsys.readouterr().out
    assert names["run"].steps[:5] == names["other"].steps[:5]
    assert names["other"].image() != names["run"].image()
    assert FluxSession.open(tmp_path / "cat.safetensors").image() == names["run"].image()


def test_what_is_said_of_the_real_models_can_be_called():
    calls = [node for node in ast.walk(ast.parse(blocks("python")[3])) if isinstance(node, ast.Call)]
    arguments = inspect.signature(FluxPipeline.__init__).parameters
    assert len(calls) == 4
    for call in calls:
        assert {keyword.arg for keyword in call.keywords} <= set(arguments)
    named = {call.args[0].value for call in calls if call.args} - {"owner/name"}
    assert named <= {entry.name for entry in catalog.ENTRIES}


def test_the_two_commands_name_extras_that_exist():
    extras = metadata("fluxnb").get_all("Provides-Extra")
    first, second = (block for block in blocks("bash")[:2])
    assert first.endswith("&& .venv/bin/fluxnb lab\n")
    assert second.endswith("&& .venv/bin/pytest\n")
    for named in re.findall(r'-e "\.\[(.+?)\]"', TEXT):
        assert set(named.split(",")) <= set(extras)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT))))
def test_a_link_leads_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("script", sorted(set(re.findall(r"tests/[\w/]+\.py|examples/\w+\.ipynb", TEXT))))
def test_a_file_that_is_named_exists(script):
    assert (ROOT / script).exists()
