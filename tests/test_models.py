"""The command `fluxnb models`."""

import json

import pytest
from huggingface_hub import constants

from fluxnb import cli
from fluxnb.checkpoints import catalog
from fluxnb.checkpoints.places import choose

SHIPPED = [catalog.DEMO.name, catalog.DEMO_SCHNELL.name]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(cache, entry):
    """Makes an entry look downloaded."""
    for place in entry.places:
        home = cache / f"models--{place.repo.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / "main").write_text("c0ffee")
        for name in choose(place, ())[1]:
            path = home / "snapshots" / "c0ffee" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")


def test_every_model_is_a_line_of_a_table(capsys):
    assert cli.main(["models"]) == 0
    head, *lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == [entry.name for entry in catalog.ENTRIES]
    for entry, line in zip(catalog.ENTRIES, lines, strict=True):
        assert line[head.index("LICENCE") :].startswith(entry.licence)
    assert lines[2].split()[-1] == "no"
    assert "33.7 GB" in lines[2]


def test_json_has_bytes_and_tells_what_is_in_the_cache(capsys, cache):
    put(cache, catalog.DEV)
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {entry.name for entry in catalog.ENTRIES}
    assert [name for name, row in rows.items() if row["cached"]] == [*SHIPPED, catalog.DEV.name]
    assert rows[catalog.SCHNELL.name]["disk"] > 33e9


def test_a_model_that_lacks_a_file_is_not_in_the_cache(capsys, cache):
    put(cache, catalog.SCHNELL_4BIT)
    next(cache.rglob("merges.txt")).unlink()
    cli.main(["models", "--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out) if row["cached"]] == SHIPPED
