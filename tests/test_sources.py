import pytest
import tiny_checkpoint as tiny

from fluxnb.checkpoints import catalog, sources
from fluxnb.errors import CheckpointError, DownloadError, InputError, UnknownModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("sources") / "my-flux")


def test_a_name_of_the_catalog_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "fluxnb" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    entry, parts = sources.locate("fluxnb/demo")
    assert entry is catalog.DEMO
    assert parts.transformer.parent == sources.DEMO_FOLDER


def test_a_folder_may_be_given_as_the_model(folder, monkeypatch):
    expected = sources.locate("fluxnb/demo", local_ckpt=folder)
    assert sources.locate(folder) == sources.locate(str(folder)) == expected
    assert (expected[0].name, expected[0].places) == (str(folder), ())
    monkeypatch.chdir(folder.parent)
    assert sources.locate("./my-flux")[0].name == "my-flux"
    assert sources.locate("my-flux")[0].name == "my-flux"


def test_a_folder_called_like_a_repository_is_taken_from_the_disk(folder, monkeypatch):
    monkeypatch.chdir(folder.parents[1])
    _, parts = sources.locate(f"{folder.parent.name}/{folder.name}")
    assert parts.vae.exists()


@pytest.mark.parametrize(
    "path", ["./nowhere", "~/nowhere/at/all", "/no/where", "a/b/c", "flux1-dev.safetensors"]
)
def test_a_path_that_is_not_there_is_no_name(path):
    with pytest.raises(CheckpointError, match=r"there is no .*; give the folder or the safetensors file"):
        sources.locate(path)


def test_what_is_neither_path_nor_name_is_unknown():
    for name in ("", "flux"):
        with pytest.raises(UnknownModelError):
            sources.locate(name)


def test_a_model_on_the_hub_needs_the_hub():
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE forbids"):
        sources.locate("black-forest-labs/FLUX.1-dev")


@pytest.mark.parametrize(
    "arguments", [{"model_version": 3}, {"local_ckpt": 3}, {"model_version": None}, {"local_ckpt": ""}]
)
def test_what_is_no_path_is_refused(arguments):
    with pytest.raises(InputError, match=r" is (3|None|empty); give .*the path of a folder or a safetensor"):
        sources.locate(**{"model_version": "fluxnb/demo"} | arguments)


@pytest.mark.parametrize("path", ["a" * 5000, "./" + "a" * 5000, "./a\0b", "~nobody-of-that-name/flux"])
def test_a_path_that_cannot_be_is_not_there(path):
    with pytest.raises((UnknownModelError, CheckpointError), match=r"there is no "):
        sources.locate(path)
    with pytest.raises(CheckpointError, match=r"there is no "):
        sources.locate("fluxnb/demo", local_ckpt=path)


def test_two_paths_are_one_too_many(folder):
    with pytest.raises(InputError, match=r"model_version is the path .*, and local_ckpt is another"):
        sources.locate(folder, local_ckpt=folder)


def test_what_is_on_this_disk_has_no_revision(folder):
    with pytest.raises(InputError, match=r"revision is 'main', but fluxnb/demo comes with fluxnb"):
        sources.locate("fluxnb/demo", revision="main")
    with pytest.raises(InputError, match=r"revision is 'main', but .*my-flux has none"):
        sources.locate(folder, revision="main")
