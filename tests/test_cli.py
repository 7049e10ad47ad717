"""Tests of the `fluxnb` command."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fluxnb import __version__, cli
from fluxnb.commands import lab
from fluxnb.errors import FluxnbError

EXAMPLES = Path(__file__).parents[1] / "examples"
FIRST = "01_first_picture.ipynb"


@pytest.fixture
def started(monkeypatch):
    """The command lines that the process would have been replaced by."""
    lines = []
    monkeypatch.setattr(os, "execv", lambda path, words: lines.append(words))
    return lines


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fluxnb {__version__}\n"


@pytest.mark.parametrize("words", [[], ["lap"], ["lab", "--prot", "8"], ["lab", "--port", "eight"]])
def test_a_bad_argument_is_one_sentence_and_exit_code_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"fluxnb( lab)?: .+; see `fluxnb( lab)? --help`\n", err)


@pytest.mark.parametrize("words", [["models"], ["models", "--json"]])
def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(words):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fluxnb.cli", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_is_one_line_and_exit_code_130(tmp_path, monkeypatch, capsys):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab, "copy_examples", interrupt)
    assert cli.main(["lab", str(tmp_path)]) == 130
    assert capsys.readouterr() == ("", "fluxnb: interrupted\n")


def test_lab_copies_the_examples_and_opens_the_first(tmp_path, started, capsys):
    cli.main(["lab", str(tmp_path / "mine")])
    (words,) = started
    assert words[:3] == [sys.executable, "-m", "jupyterlab"]
    assert words[3] == f"--ServerApp.root_dir={tmp_path / 'mine'}"
    assert words[4] == f"--LabApp.default_url=/lab/tree/{FIRST}"
    assert "nbformat" in json.loads((tmp_path / "mine" / FIRST).read_text())
    shipped = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == shipped
    assert shipped[0] == FIRST
    assert FIRST in capsys.readouterr().out


def test_lab_passes_on_port_and_browser(tmp_path, started):
    cli.main(["lab", str(tmp_path), "--no-browser", "--port", "9999"])
    assert {"--no-browser", "--port=9999"} <= set(started[0])


def test_the_default_folder_lies_where_the_user_stands(tmp_path, started, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["lab"])
    assert (tmp_path / "fluxnb-examples" / FIRST).exists()


def test_lab_keeps_a_notebook_that_its_owner_changed_and_says_so(tmp_path, started, capsys):
    cli.main(["lab", str(tmp_path)])
    capsys.readouterr()
    (tmp_path / FIRST).write_text("mine")
    cli.main(["lab", str(tmp_path)])
    assert (tmp_path / FIRST).read_text() == "mine"
    assert f"Kept your own {tmp_path / FIRST}" in capsys.readouterr().out
    assert len(started) == 2


def test_an_untouched_notebook_is_not_spoken_of(tmp_path):
    first, kept = lab.copy_examples(tmp_path)
    second, still_kept = lab.copy_examples(tmp_path)
    assert first == second == tuple(sorted(first))
    assert kept == still_kept == ()


def test_a_folder_that_is_a_file_is_refused(tmp_path, started, capsys):
    (tmp_path / "taken").write_text("")
    assert cli.main(["lab", str(tmp_path / "taken")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"fluxnb: the examples cannot be copied to {tmp_path / 'taken'} (File exists)")
    assert started == []


def test_without_jupyterlab_lab_says_what_to_install(tmp_path, started, monkeypatch, capsys):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    assert cli.main(["lab", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == 'fluxnb: JupyterLab is not installed here; run: pip install "fluxnb[lab]"\n'
    )


def test_a_package_without_examples_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "PACKAGE", tmp_path / "fluxnb")
    with pytest.raises(FluxnbError, match="no example notebooks"):
        lab.copy_examples(tmp_path)


def free_port():
    """A port that nothing on this machine listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kind_of(root, path, token, deadline):
    """What the server says lies at a path; JupyterLab prints its address shortly before it listens there."""
    address = f"{root}/api/contents/{path}?content=0&token={token}"
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30) as reply:
                return json.load(reply)["type"]
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_lab_really_serves_the_first_example(tmp_path):
    folder = tmp_path / "mine"
    private = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    log = tmp_path / "log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "fluxnb.cli", "lab", str(folder), "--no-browser"]
        server = subprocess.Popen(
            [*command, "--port", str(free_port())],
            env={**os.environ, **private},
            stdout=stream,
            stderr=stream,
            cwd=tmp_path,
        )
    try:
        address = None
        deadline = time.monotonic() + 150
        while address is None and time.monotonic() < deadline and server.poll() is None:
            time.sleep(0.2)
            address = re.search(r"(http://127\.0\.0\.1:\d+)/lab/tree/(\S+)\?token=(\w+)", log.read_text())
        assert address, log.read_text()
        root, opened, token = address.groups()
        assert opened == FIRST
        assert kind_of(root, opened, token, deadline) == "notebook"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
