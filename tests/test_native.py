"""Our own layout: saved whole or not at all, and read back with the same bits and no further word."""

import json
import resource
import shutil
import signal
from dataclasses import replace

import mlx.core as mx
import pytest
import stubs
import tiny_checkpoint as tiny
from mlx.utils import tree_flatten

from fluxnb.checkpoints import native
from fluxnb.checkpoints.networks import PARTS
from fluxnb.errors import CheckpointError, FluxnbError, InputError
from fluxnb.pipeline import FluxPipeline

FORMATS = [{}, {"w16": True}, {"quantize": 4}, {"quantize": 8, "w16": True}]


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("native") / "whole")


@pytest.fixture(scope="session")
def small(whole):
    return FluxPipeline(local_ckpt=whole, quantize=4, shift=2.0)


@pytest.fixture
def saved(small, tmp_path):
    return small.save(tmp_path / "saved")


def parameters(pipeline, name):
    return dict(tree_flatten(getattr(pipeline.networks, name).parameters()))


def same_bits(one, other):
    return all(
        parameters(one, name).keys() == parameters(other, name).keys()
        and all(
            mx.array_equal(a, parameters(other, name)[key]).item() for key, a in parameters(one, name).items()
        )
        for name in PARTS
    )


def dtypes(pipeline):
    return {(name, key): array.dtype for name in PARTS for key, array in parameters(pipeline, name).items()}


@pytest.mark.parametrize("options", FORMATS)
def test_a_saved_model_is_read_with_the_same_bits_types_and_defaults(whole, tmp_path, options):
    pipeline = FluxPipeline(local_ckpt=whole, **options)
    folder = pipeline.save(tmp_path / "deep" / "saved")
    again = FluxPipeline(folder)
    assert same_bits(pipeline, again) and dtypes(pipeline) == dtypes(again)
    assert again.networks.configs == pipeline.networks.configs
    assert again.entry == replace(pipeline.entry, name=str(folder))
    pictures = [
        pipe.generate_image("a cat", num_steps=1, latent_size=(4, 4))[0].tobytes()
        for pipe in (pipeline, again)
    ]
    assert pictures[0] == pictures[1]


def test_the_demo_model_keeps_its_licence_its_defaults_and_its_linear_fit(tmp_path):
    demo = FluxPipeline()
    again = FluxPipeline(local_ckpt=demo.save(tmp_path / "demo"))
    assert again.entry == replace(demo.entry, name=str(tmp_path / "demo"))
    assert again.entry.licence == "Apache-2.0"
    assert again.networks.linear == demo.networks.linear is not None


def test_a_model_saved_without_its_adapter_is_read_without_it(tmp_path):
    quick = FluxPipeline("fluxnb/demo-schnell")
    quick.unload_lora_weights()
    folder = quick.save(tmp_path / "quick")
    again = FluxPipeline(folder)
    assert again.adapters == () and same_bits(quick, again)
    assert again.entry.num_steps == quick.entry.num_steps == 4
    told = json.loads((folder / native.FILE).read_text())
    told["entry"]["adapter"] = "../elsewhere"  # no name in a file decides what is opened
    (folder / native.FILE).write_text(json.dumps(told))
    assert FluxPipeline(folder).adapters == ()


def test_the_shift_that_was_wished_is_saved_as_a_default(small, saved):
    assert FluxPipeline(saved).entry.shift == small.entry.shift == 2.0


def test_a_saved_model_is_saved_again_and_read_with_little_memory(small, saved, tmp_path):
    swapped = FluxPipeline(saved, low_memory_mode=True)
    assert same_bits(small, FluxPipeline(swapped.save(tmp_path / "again")))
    swapped.save(saved, overwrite=True)  # over the files that it is read from
    assert same_bits(small, swapped)


def test_a_saved_float_model_can_be_quantised_and_a_quantised_one_only_as_it_is(whole, saved, tmp_path):
    floats = FluxPipeline(local_ckpt=whole).save(tmp_path / "floats")
    assert same_bits(FluxPipeline(floats, quantize=4), FluxPipeline(saved))
    assert same_bits(FluxPipeline(saved, quantize=4), FluxPipeline(saved))
    with pytest.raises(InputError, match="quantised to 4 bits already"):
        FluxPipeline(saved, quantize=8)


def test_what_is_written_says_what_it_is(saved):
    told = json.loads((saved / native.FILE).read_text())
    assert (told["format"], told["bits"]) == (1, {"mmdit": [4], "vae": [], "clip": [], "t5": [4]})
    assert set(told["entry"]) & {"places", "commit"} == set()
    assert not [path for path in saved.parent.iterdir() if path != saved]


def test_a_folder_that_holds_something_is_left_alone(small, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    small.save(folder)  # empty: taken
    with pytest.raises(InputError, match=r"holds a model already; .* or overwrite=True"):
        small.save(folder)
    small.save(folder, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("all of it")
    (tmp_path / "file").write_text("")
    for target in ("thesis", "file"):
        with pytest.raises(InputError, match="is no model saved by fluxnb"):
            small.save(tmp_path / target, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "all of it"


def test_a_disk_that_fills_up_leaves_what_was_there(small, saved, whole):
    floats = FluxPipeline(local_ckpt=whole)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(FluxnbError, match=r"could not be saved in .*saved"):
            floats.save(saved, overwrite=True)
        with pytest.raises(FluxnbError, match=r"could not be saved in .*new"):
            floats.save(saved.parent / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    assert same_bits(FluxPipeline(saved), small)


def test_too_little_room_is_said_before_it_is_filled(small, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(FluxnbError, match="no space left on the disk"):
        small.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/new", "a\0b", "a" * 5000])
def test_a_path_that_cannot_be_is_refused(small, tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        small.save(tmp_path / name)


def test_a_link_is_followed(small, saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    small.save(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and same_bits(FluxPipeline(saved), small)
    assert {path.name for path in tmp_path.iterdir()} == {"link", "saved"}


def test_a_save_that_fails_at_the_last_moment_leaves_what_was_there(small, saved, monkeypatch):
    rename = native.Path.rename

    def failing(path, target):
        if target == saved and path.suffix != ".old":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(native.Path, "rename", failing)
    with pytest.raises(FluxnbError, match="could not be saved"):
        small.save(saved, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    assert same_bits(FluxPipeline(saved), small)


def test_what_an_earlier_save_set_aside_does_not_stand_in_the_way(small, saved):
    rest = saved.with_name(f".{saved.name}.old")  # of one that was interrupted while it tidied up
    rest.mkdir()
    (rest / "file").touch()
    small.save(saved, overwrite=True)
    assert same_bits(FluxPipeline(saved), small) and (rest / "file").exists()


def test_an_interrupted_save_leaves_nothing(small, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(native, "_write_weights", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_every_file_that_a_tokenizer_can_be_read_from_is_copied(whole, tmp_path):
    folder = tiny.link(whole, tmp_path / "old")
    (folder / "tokenizer_2" / "spiece.model").write_bytes(b"all that transformers saved before version 5")
    saved = FluxPipeline(folder).save(tmp_path / "new")
    for name in native.TOKENIZERS:
        held, copied = ({path.name for path in (one / name).iterdir()} for one in (folder, saved))
        assert copied == held


def test_networks_without_files_cannot_be_saved(tmp_path):
    with pytest.raises(InputError, match="tokenizers were read from"):
        stubs.pipeline().save(tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "is of format 2, and this fluxnb reads format 1; update"),
        ({"format": None}, "is of format None"),
        ({"configs": None}, "has no configs of mmdit, vae, clip, t5"),
        ({"entry": []}, "entry has not the fields of Entry"),
        ({"entry.num_steps": -1}, "entry.num_steps is -1"),
        ({"entry.num_steps": 0}, "num_steps is 0; give"),
        ({"entry.latent_size": [3]}, r"latent_size is \(3,\); give"),
        ({"entry.shift": 0}, "shift is 0; give"),
        ({"entry.max_tokens": 1}, "max_tokens is 1; give"),
        ({"entry.licence": "\x1b[2J"}, "licence is .*, which is no name"),
        ({"entry.guidance": 3.5}, "entry.guidance is 3.5, but configs.mmdit.guidance is false"),
        ({"configs.mmdit.depth": 10**9}, "depth is 1000000000; give"),
        ({"configs.vae.scale_factor": 0}, "scale_factor is 0; give"),
        ({"entry.latent_size": [1.5, 2]}, "entry.latent_size is"),
        ({"entry.more": 1}, "entry has not the fields"),
        ({"configs.mmdit.heads": "many"}, "configs.mmdit.heads is 'many'"),
        ({"configs.mmdit.heads": True}, "configs.mmdit.heads is True"),
        ({"configs.vae.groups": 7}, "not all multiples of groups 7"),
        ({"configs.t5.depth": 5}, "missing"),
        ({"entry.dtype": "float8"}, "entry.dtype is 'float8'"),
    ],
)
def test_a_file_that_says_something_else_is_refused(saved, change, words):
    path = saved / native.FILE
    values = json.loads(path.read_text())
    for where, value in change.items():
        *way, last = where.split(".")
        place = values
        for step in way:
            place = place[step]
        place[last] = value
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=words):
        FluxPipeline(saved)
