"""Folders of pictures with captions."""

import json

import pytest
from PIL import Image

from fluxnb.errors import InputError
from fluxnb.training.picture_folder import METADATA, captioned


@pytest.fixture
def folder(tmp_path):
    """Two pictures, the second with a caption beside it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.JPG"):
        Image.new("RGB", (16, 16)).save(folder / name)
    (folder / "b.txt").write_text("a green dragon\n", encoding="utf-8")
    return folder


def list_them(folder, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / METADATA).write_text(text, encoding="utf-8")


def test_a_caption_lies_beside_or_is_made_of_the_word(folder):
    paths, captions = captioned(folder, "imp")
    assert [path.name for path in paths] == ["a.png", "b.JPG"]
    assert captions == ["a photo of an imp", "a green dragon"]


def test_the_list_of_hugging_face_comes_first(folder):
    list_them(folder, {"file_name": "b.JPG", "text": "a dragon", "more": 1}, "")
    paths, captions = captioned(folder, "imp")
    assert [path.name for path in paths] == ["b.JPG"]
    assert captions == ["a dragon"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1"),
        ({"file_name": "a.png"}, "'text'; expected"),
        ({"file_name": 3, "text": "a"}, "file_name is 3"),
        ({"file_name": "../a.png", "text": "a"}, "outside of the folder"),
        ({"file_name": "/etc/passwd", "text": "a"}, "outside of the folder"),
        ("", "names no picture"),
    ],
)
def test_a_list_that_is_none_says_so(folder, line, told):
    list_them(folder, line)
    with pytest.raises(InputError, match=told):
        captioned(folder)


def test_a_folder_without_pictures_or_captions_says_so(folder, tmp_path):
    with pytest.raises(InputError, match=r"a\.png has no caption; write a\.txt"):
        captioned(folder)
    (folder / "b.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        captioned(folder, "dragon")
    with pytest.raises(InputError, match="there is no folder"):
        captioned(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no picture"):
        captioned(tmp_path, "dragon")
