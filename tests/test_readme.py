"""What the README says is run here: its snippet, its commands, its links."""

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_snippets_run(capsys):
    widget, session = blocks("python")
    assert "FluxWidget()" in widget  # the first lesson runs it
    names = {}
    exec(session, names)
    assert len(capsys.readouterr().out.splitlines()) == 20
    assert names["run"].steps[:5] == names["other"].steps[:5]
    assert names["other"].image() != names["run"].image()


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
