"""Claims about `fluxnb.disk`: whole files or none."""

import os
import resource
import stat
from contextlib import contextmanager

import pytest

from fluxnb import disk
from fluxnb.errors import FluxnbError, InputError


@contextmanager
def full_after(size):
    """A disk that takes no file longer than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_and_written_over(tmp_path):
    for data in (b"one", b"another"):
        disk.write(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data
    assert os.listdir(tmp_path) == ["a"]


def test_a_new_file_has_the_mode_of_any_new_file_and_an_old_one_keeps_its_own(tmp_path):
    (tmp_path / "plain").touch()
    disk.write(tmp_path / "new", b"")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").chmod(0o640)
    disk.write(tmp_path / "plain", b"x")
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o640


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    disk.write(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"x"


def test_a_full_disk_leaves_no_half_file_and_the_old_one_whole(tmp_path):
    disk.write(tmp_path / "old", b"old")
    for name in ("old", "new"):
        message = f"{name} could not be written .*1000000 bytes"
        with full_after(1000), pytest.raises(FluxnbError, match=message):
            disk.write(tmp_path / name, bytes(1_000_000))
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"


def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupt(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        disk.write(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []


def test_asking_leaves_nothing_behind(tmp_path):
    assert disk.check(tmp_path / "a") == tmp_path.resolve() / "a"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is no file"),
        ("pipe", "pipe is no file"),
        ("missing/a.png", "there is no folder .*missing to write a.png to"),
        ("file/a.png", "there is no folder .*file to write"),
        ("a" * 300, "cannot be written .*too long"),
        ("a\0b", "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=message):
        disk.check(os.path.join(tmp_path, name))


@pytest.mark.parametrize("which", ["folder", "file"])
def test_what_is_write_protected_is_refused(tmp_path, monkeypatch, which):
    (tmp_path / "a").touch()
    if which == "file":
        (tmp_path / "a").chmod(0o444)
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write it
    else:

        def refuse(path, **options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(tmp_path), "touch", refuse)
    with pytest.raises(InputError, match=r"a cannot be written \(.*\); give another path"):
        disk.check(tmp_path / "a")
