"""Runs as files: the same bits when opened, and one sentence on each file that is none."""

import json
import os
import struct
from dataclasses import fields, replace

import numpy as np
import pytest
import safetensors.numpy
import stubs
from mlx.utils import tree_flatten, tree_unflatten

from fluxnb import recipe, saved, source
from fluxnb.errors import CheckpointError, FluxnbError, FluxnbWarning, InputError
from fluxnb.identity import fingerprint, identify
from fluxnb.interventions import cut, cut_block
from fluxnb.model.tokenizers import Word
from fluxnb.session import FluxSession
from fluxnb.settings import Settings, from_tree, to_tree

PROMPT = "a cat and a sunflower"


def same_bits(a, b):
    return np.array(a).tobytes() == np.array(b).tobytes()


@pytest.fixture(scope="module")
def session():
    return stubs.session(guidance=True)


@pytest.fixture(scope="module")
def run(session):
    """A fork of a fork, each with other settings."""
    first = session.start(PROMPT, seed=5, cfg_weight=2.0, negative_text="fog").finish()
    second = first.fork(1, intervention=cut("cat") + cut_block(3), shift=3.0).finish()
    return second.fork(3, prompt="a dög", seed=7, intervention=cut(Word("dög", (1,)))).finish()


@pytest.fixture
def path(tmp_path, run):
    path = tmp_path / "run.safetensors"
    run.save(path)
    return path


def rewritten(path, change=None, **tensors):
    """Changes what a file holds: the JSON of its head by `change`, or some tensors."""
    data = path.read_bytes()
    head = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    told = json.loads(head["__metadata__"][saved.KEY])
    if change:
        change(told)
    held = {
        name: array for name, array in (safetensors.numpy.load(data) | tensors).items() if array is not None
    }
    path.write_bytes(safetensors.numpy.save(held, {saved.KEY: json.dumps(told)}))
    return path


def test_an_opened_run_has_the_same_bits_and_settings(session, run, path):
    opened = session.open(path)
    assert opened.settings == run.settings and opened.done
    assert same_bits(opened.latents, run.latents)
    for mine, theirs in zip(opened.steps, run.steps, strict=True):
        assert same_bits(mine.latents, theirs.latents) and same_bits(mine.velocity, theirs.velocity)
        told = [(s.index, s.sigma, s.sigma_next, s.seconds) for s in (mine, theirs)]
        assert told[0] == told[1]
    assert opened.image().tobytes() == run.image().tobytes()


def test_an_opened_run_replays_each_step_with_the_settings_that_made_it(session, path):
    opened = session.open(path)
    for i, step in enumerate(opened.steps):
        assert same_bits(opened.replay(i), step.velocity)
    assert [opened.owner(i).prompt for i in range(4)] == [PROMPT, PROMPT, PROMPT, "a dög"]
    assert [branch.at for branch in opened.tree().branches] == [0, 1, 3]


def test_an_opened_run_forks_as_the_one_that_was_saved(session, run, path):
    for at in range(5):
        changed = {"prompt": "a tree", "intervention": cut_block(0)} if at < 4 else {}
        mine, theirs = (one.fork(at, **changed).finish() for one in (session.open(path), run))
        assert same_bits(mine.latents, theirs.latents)


def test_an_unfinished_run_goes_on_where_it_stopped(session, tmp_path):
    whole = session.start(PROMPT, seed=5).finish()
    for made in range(4):
        half = session.start(PROMPT, seed=5)
        for _ in range(made):
            half.advance()
        half.save(tmp_path / "half")
        opened = session.open(tmp_path / "half")
        assert len(opened.steps) == made and same_bits(opened.finish().latents, whole.latents)


def test_own_latents_sigmas_and_embeddings_come_back(session, tmp_path):
    text = session.encode_text("a sunflower")
    own = session.start(
        "its label",
        latents=np.ones((4, 6, 16)),
        sigmas=(0.9, 0.3, 0),
        text=replace(text, txt=0.5 * text.txt),
    )
    own.advance()
    fork = own.fork(1, guidance=1.0).finish()
    fork.save(tmp_path / "own")
    opened = session.open(tmp_path / "own")
    assert opened.settings == fork.settings and opened.seed is None and opened.shift is None
    assert (opened.words, opened.text.end) == (text.words, text.end)
    assert all(same_bits(opened.replay(i), step.velocity) for i, step in enumerate(fork.steps))
    assert same_bits(opened.fork(1, cfg_weight=0.0).finish().latents, fork.latents)


def test_a_run_from_a_picture_comes_back(session, tmp_path):
    run = session.start(PROMPT, image=np.zeros((64, 64)), denoise=0.5).finish()
    run.save(tmp_path / "picture")
    opened = session.open(tmp_path / "picture")
    assert opened.settings == run.settings and opened.settings.denoise == 0.5
    assert all(same_bits(opened.replay(i), step.velocity) for i, step in enumerate(run.steps))
    assert same_bits(opened.fork(1, seed=3).finish().latents, run.fork(1, seed=3).finish().latents)
    with pytest.raises(InputError, match="new noise at step 0 needs the picture that the run started from"):
        opened.fork(0, seed=3)


def test_every_setting_is_saved():
    settings = Settings("a", "b", 1, (1.0, 0.0), 1.0, 2.0, 3.0, (8, 8), "c" * 64, 0.5, "d" * 64, cut("cat"))
    assert all(getattr(settings, field.name) is not None for field in fields(settings))
    assert from_tree(json.loads(json.dumps(to_tree(settings)))) == settings


def test_a_file_is_read_without_a_model(path, run):
    held = saved.read(path)
    assert held.sigmas == run.sigmas and held.settings == run.settings
    assert same_bits(held.latents, run.latents) and len(held.steps) == 4
    assert held.model.name == "stub" and len(held.model.fingerprint) == 64


def test_bytes_and_file_are_the_same(path, run):
    assert saved.dump(run) == path.read_bytes()
    assert saved.load(path.read_bytes()).settings == run.settings


def test_a_file_is_replaced_in_one_go_or_stays(path, run, monkeypatch):
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FluxnbError, match=r"could not be written \(No space left on device\)"):
        run.save(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_run_is_not_saved_where_there_is_no_folder(run, tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*no to write run to"):
        run.save(tmp_path / "no" / "run")
    with pytest.raises(InputError, match="is no file"):
        run.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_opening_loads_the_demo_model_only(path, session, monkeypatch):
    with pytest.raises(InputError, match=r"drawn by stub \(weights .*loads no model but fluxnb/demo"):
        FluxSession.open(path)
    demo = stubs.session(guidance=True)
    monkeypatch.setattr(FluxSession, "from_pretrained", lambda name: demo)
    data = identify(session.pipeline)
    rewritten(path, lambda told: told["model"].update(name="fluxnb/demo", fingerprint=data.fingerprint))
    assert FluxSession.open(path).session is demo
    assert FluxSession.open(path, session).session is session


def test_other_weights_at_hand_are_told(path):
    other = stubs.session(guidance=True, seed=1)
    with pytest.warns(FluxnbWarning, match=r"was drawn by stub .*, and stub .* is at hand") as caught:
        opened = other.open(path)
    assert caught[0].filename == __file__
    assert same_bits(opened.latents, saved.read(path).latents)
    assert not same_bits(opened.replay(0), opened.steps[0].velocity)


def test_saved_again_a_run_still_says_what_drew_it(session, tmp_path):
    other = stubs.session(guidance=True, seed=1)
    half = session.start(PROMPT, seed=5)
    half.advance()
    half.save(tmp_path / "first")
    first = saved.read(tmp_path / "first")
    with pytest.warns(FluxnbWarning, match="was drawn by stub"):
        opened = other.open(tmp_path / "first")
    opened.save(tmp_path / "again")
    assert saved.read(tmp_path / "again").models == first.models == (identify(session.pipeline),)
    assert len(session.open(tmp_path / "again").steps) == 1  # no warning
    opened.fork(1).finish().save(tmp_path / "mixed")
    assert saved.read(tmp_path / "mixed").models == (*first.models, identify(other.pipeline))
    for one in (session, other):
        with pytest.warns(FluxnbWarning, match="was drawn by stub .*, and stub .* is at hand"):
            one.open(tmp_path / "mixed")
    opened.fork(0).finish().save(tmp_path / "anew")
    assert saved.read(tmp_path / "anew").models == (identify(other.pipeline),)


def test_a_run_opened_with_the_same_model_keeps_the_version_that_drew_it(path, session, tmp_path):
    rewritten(path, lambda told: told.update(mlx="0.0.1"))
    with pytest.warns(FluxnbWarning, match=r"MLX 0\.0\.1"):
        opened = session.open(path)
    opened.save(tmp_path / "again")
    assert saved.read(tmp_path / "again").mlx == "0.0.1"
    assert saved.read(tmp_path / "again").others == ()


def test_a_model_that_takes_no_guidance_cannot_go_on_with_one_that_does(path, tmp_path):
    other = stubs.session()
    with pytest.raises(InputError, match=r"with guidance, and stub .* takes none; open it with the model"):
        other.open(path)
    other.start(PROMPT).save(tmp_path / "plain")
    with pytest.raises(InputError, match=r"without guidance, and stub .* takes one; open it with the model"):
        stubs.session(guidance=True).open(tmp_path / "plain")


def test_a_home_folder_may_be_written_short(run, session, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run.save("~/run")
    assert (tmp_path / "run").is_file() and session.open("~/run").done
    picture = run.image()
    assert recipe.save(picture, "~/cat.png") == tmp_path / "cat.png"
    assert source.read("~/cat.png").image.tobytes() == picture.tobytes()
    with pytest.raises(InputError, match="has no recipe"):
        recipe.read("~/cat.png")


def test_other_versions_are_told(path, session):
    rewritten(path, lambda told: told.update(mlx="0.0.1"))
    with pytest.warns(FluxnbWarning, match=r"MLX 0\.0\.1, here are .* may differ in the last bits"):
        session.open(path)


def test_a_model_of_other_sizes_is_refused(path, session, tmp_path):
    rewritten(path, latents=np.zeros((5, 8, 8, 4), np.float32), velocities=np.zeros((4, 8, 8, 4), np.float32))
    with pytest.raises(InputError, match=r"its latents have 4 channels, but stub .* takes 16"):
        session.open(path)
    text = session.encode_text(PROMPT)
    own = session.start(PROMPT, text=text)
    own.save(tmp_path / "own")
    rewritten(tmp_path / "own", **{"text.0.txt": np.zeros((1, 16, 8), np.float32)})
    with pytest.raises(InputError, match="its txt have 8 channels"):
        session.open(tmp_path / "own")


def test_a_fingerprint_is_that_of_the_weights():
    networks = stubs.networks()
    assert fingerprint(networks) == fingerprint(stubs.networks())
    assert fingerprint(networks) != fingerprint(stubs.networks(seed=1))
    assert fingerprint(networks) != fingerprint(stubs.networks(guidance=True))


@pytest.mark.parametrize("name", ["double_blocks.1.img_attn.proj.weight", "img_in.bias"])
def test_any_tensor_of_the_transformer_changes_its_fingerprint(name):
    networks, same = stubs.networks(), stubs.networks()
    changed = dict(tree_flatten(networks.mmdit.parameters()))
    networks.mmdit.update(tree_unflatten([(name, changed[name] + 1)]))
    assert fingerprint(networks) != fingerprint(same)


@pytest.mark.parametrize("name", ["{}/mine", "folder/mine"])
def test_a_model_of_the_users_is_named_without_its_path_be_it_still_there_or_not(tmp_path, name):
    entry = replace(stubs.ENTRY, name=name.format(tmp_path))
    assert identify(stubs.pipeline(entry=entry)).name == "mine"


def test_the_identity_of_a_model_from_the_hub_has_its_commit(session):
    entry = replace(stubs.ENTRY, commit="0123abcd")
    told = identify(stubs.pipeline(entry=entry))
    assert told.revision == "0123abcd" and "stub at 0123abcd (weights " in str(told)
    assert identify(session.pipeline).revision is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_one_error(path, session, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="cut off"):
        session.open(path)


def test_what_is_no_saved_run_is_one_error(path, session, tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        session.open(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="there is no file"):
        session.open(tmp_path)
    for data in (b"\x89PNG" * 20, b"\xff" * 100, safetensors.numpy.save({"x": np.zeros(3, np.float32)})):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="is no saved run"):
            session.open(path)
    path.write_bytes(struct.pack("<Q", 8000) + b"[" * 8000)
    with pytest.raises(CheckpointError, match="is no saved run"):
        session.open(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.update(format=2), "of format 2, but fluxnb .* reads format 1"),
        (lambda told: told.update(format=[]), r"of format \[\]"),
        (lambda told: told.pop("seconds"), "is damaged"),
        (lambda told: told["seconds"].pop(), "3 steps with latents"),
        (lambda told: told.update(seconds=[float("nan")] * 4), "seconds is nan"),
        (lambda told: told.update(parts=[]), "is damaged"),
        (lambda told: told["parts"][0].update(at=1), r"its parts begin at \[1, 1, 3\]"),
        (lambda told: told["parts"][2].update(at=9), r"its parts begin at \[0, 1, 9\]"),
        (lambda told: told["parts"][1].update(at=True), "at is True"),
        (lambda told: told["parts"][2]["settings"].update(sigmas=[1, 0.5, 0]), "parts begin"),
        (lambda told: told["parts"][0]["settings"].update(sigmas=[1, 0.9, 0]), "different noise levels"),
        (lambda told: told["parts"][0]["settings"].update(latent_size=[4, 8]), "another size"),
        (lambda told: told["parts"][0]["settings"].update(prompt=3), "the prompt is 3"),
        (lambda told: told["parts"][0]["settings"].update(cfg_weight=float("inf")), "cfg_weight is inf"),
        (lambda told: told["parts"][0]["settings"].update(wings=2), "have an unknown 'wings'"),
        (lambda told: told["parts"][0]["settings"].pop("seed"), "is damaged .*lack 'seed'"),
        (lambda told: told["parts"][0]["settings"].update(embedding="ab" * 32), r"it lacks text\.0\.txt"),
        (lambda told: told["parts"][1]["settings"].update(intervention="[3]"), "no saved intervention"),
        (lambda told: told.update(model="demo"), "is damaged"),
        (lambda told: told["model"].update(name=None), "the model's name is None"),
        (lambda told: told["model"].update(name="\x1b[2J"), r"name is '\\x1b\[2J', which is no name"),
        (lambda told: told.update(mlx="9" * 201), "the version of mlx is '9+', which is no name"),
    ],
)
def test_a_head_that_cannot_be_is_one_error(path, session, change, message):
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=message):
        session.open(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"latents": None}, "it lacks latents"),
        ({"extra": np.zeros(2, np.float32)}, "it holds extra, which belongs to nothing"),
        ({"latents": np.zeros((5, 8, 8, 16))}, r"latents is float64 .*expected float32"),
        ({"latents": np.zeros((4, 8, 8, 16), np.float32)}, "4 steps with latents"),
        ({"velocities": np.zeros((4, 8, 8, 4), np.float32)}, "4 steps with latents"),
        ({"velocities": np.zeros((4, 8, 8), np.float32)}, "expected float32 in 4 dimensions"),
        ({"velocities": np.full((4, 8, 8, 16), np.nan, np.float32)}, "all finite"),
    ],
)
def test_tensors_that_cannot_be_are_one_error(path, session, tensors, message):
    rewritten(path, **tensors)
    with pytest.raises(CheckpointError, match=message):
        session.open(path)


def test_a_run_that_is_not_finite_is_not_saved(session, tmp_path):
    run = session.start(PROMPT, latents=np.full((8, 8, 16), 3e38, np.float32)).finish()
    with pytest.raises(InputError, match="not all finite, so it cannot be saved"):
        run.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
