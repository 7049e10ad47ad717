"""Trainings that stop in the middle and go on, or are done twice: the same bits every time."""

import shutil
from itertools import count

import numpy as np
import pytest
import torch

from fluxnb.training import latents, text, tokenizers, transformer, vae
from fluxnb.training.export import export
from fluxnb.training.unpack import unpack

STEPS, EVERY = 5, 2
STAGES = {
    "text": (text, "losses", lambda out: text.train(out, STEPS, seed=2, every=EVERY)),
    "vae": (vae, "step_loss", lambda out: vae.train(out, STEPS, False, seed=1, batch=2, every=EVERY)),
    "decoder": (vae, "step_loss", lambda out: vae.train(out, STEPS, True, seed=1, batch=2, every=EVERY)),
    "transformer": (
        transformer,
        "step_loss",
        lambda out: transformer.train(out, STEPS, 2, 4, 0, 0.02, 1.5e-3, False, every=EVERY),
    ),
}


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module", autouse=True)
def few_captions():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BATCH", 8)
        yield


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A run of which every stage is done."""
    out = tmp_path_factory.mktemp("ready")
    tokenizers.build(out)
    for name in ("vae", "text"):
        STAGES[name][2](out)
    latents.make(out, count=8, others=4, shard=4, seed=0)
    for name in ("transformer", "decoder"):
        STAGES[name][2](out)
    return out


@pytest.fixture
def again(ready, tmp_path):
    """A copy of the run, to do a stage again in."""
    return shutil.copytree(ready, tmp_path / "again")


def forget(out, name):
    for suffix in (".pt", ".csv"):
        (out / f"{name}{suffix}").unlink()


def leaves(value, path=()):
    """Every tensor and number of a checkpoint, but for minutes."""
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    elif path[-1] != "minutes":
        yield path, torch.as_tensor(value) if value is not None else None


def assert_same(one, two, name):
    states = [dict(leaves(torch.load(out / f"{name}.pt", weights_only=True))) for out in (one, two)]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 50
    unlike = [
        path
        for path, value in states[0].items()
        if value is not None and not torch.equal(value, states[1][path])
    ]
    assert unlike == []


@pytest.mark.parametrize("name", STAGES)
def test_two_trainings_with_one_seed_agree(ready, again, name):
    forget(again, name)
    STAGES[name][2](again)
    assert_same(ready, again, name)


@pytest.mark.parametrize("name", STAGES)
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(ready, again, name, monkeypatch):
    module, loss, train = STAGES[name]
    whole, calls = getattr(module, loss), count()

    def dies(*arguments):
        if next(calls) == EVERY + 1:  # a step after the checkpoint is lost
            raise KilledError
        return whole(*arguments)

    forget(again, name)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(module, loss, dies)
        train(again)
    assert torch.load(again / f"{name}.pt", weights_only=True)["step"] == EVERY
    train(again)
    assert_same(ready, again, name)
    logs = [(out / f"{name}.csv").read_text().splitlines() for out in (ready, again)]
    unlike = [(a, b) for a, b in zip(*logs, strict=True) if cells(a) != cells(b)]
    assert unlike == []


def cells(row):
    """A row of a log without its minutes."""
    step, _, *others = row.split(",")
    return step, others


def test_another_seed_is_another_training(ready, again):
    forget(again, "vae")
    vae.train(again, STEPS, False, seed=3, batch=2, every=EVERY)
    with pytest.raises(AssertionError):
        assert_same(ready, again, "vae")


def test_a_killed_encoding_leaves_no_half_shard(ready, again, monkeypatch):
    (again / "latents" / "001.npz").unlink()

    def dies(file, **arrays):
        file.write(b"half a shard")
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(latents.np, "savez", dies)
        latents.make(again, count=8, others=4, shard=4, seed=0)
    assert len(latents.load(again)[8, 8][2]) == 4  # the other shard alone
    latents.make(again, count=8, others=4, shard=4, seed=0)
    for (a, touched, captions), (b, *rest) in zip(
        latents.load(ready).values(), latents.load(again).values(), strict=True
    ):
        assert torch.equal(a, b) and torch.equal(touched, rest[0]) and captions == rest[1]


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"pairs": 0.5}, {"big": 3}, {"count": 12}, {"others": 0}, {"shard": 2}]
)
def test_shards_of_other_arguments_are_refused(again, other):
    before = {file.name: file.read_bytes() for file in (again / "latents").iterdir()}
    with pytest.raises(FileExistsError, match=r"npz holds 4 scenes of seed \d, .* or another folder"):
        latents.make(again, **{"count": 8, "others": 4, "shard": 4, "seed": 0} | other)
    assert {file.name: file.read_bytes() for file in (again / "latents").iterdir()} == before


def test_parts_of_the_encoding_make_the_shards_of_the_whole(ready, again):
    shutil.rmtree(again / "latents")
    for part in (1, 0):
        latents.make(again, count=8, others=4, shard=4, seed=0, part=part, parts=2)
    names = [sorted(file.name for file in (out / "latents").iterdir()) for out in (ready, again)]
    assert names[0] == names[1] == ["000.npz", "001.npz", "002.npz"]
    for name in names[0]:
        one, two = (np.load(out / "latents" / name) for out in (ready, again))
        assert np.array_equal(one["latents"], two["latents"])


@pytest.fixture(scope="module")
def unpacked(ready, tmp_path_factory):
    """A run made from the finished checkpoint of another, with the same scenes."""
    folder = tmp_path_factory.mktemp("unpacked")
    export(ready, folder / "demo")
    unpack(folder / "demo", folder / "run")
    shutil.copytree(ready / "latents", folder / "run" / "latents")
    return folder / "run"


def test_an_unpacked_checkpoint_holds_what_was_exported(ready, unpacked):
    for name in ("tokenizer", "tokenizer_2"):
        files = [
            {file.name: file.read_bytes() for file in (out / name).iterdir()} for out in (ready, unpacked)
        ]
        assert files[0] == files[1] != {}
    was, now = (
        {file.stem: torch.load(file, weights_only=True) for file in out.glob("*.pt")}
        for out in (ready, unpacked)
    )
    assert set(now) == {"text", "vae", "transformer"}
    assert_rounded(now["text"]["net"], was["text"]["net"], torch.float32)
    for key in ("net", "ema"):
        assert_rounded(now["vae"][key], was["decoder"]["ema"], torch.float16)
        assert_rounded(now["transformer"][key], was["transformer"]["ema"], torch.float16)
    assert now["transformer"]["scale"] == pytest.approx(was["transformer"]["scale"])


def assert_rounded(got, wanted, dtype):
    assert got.keys() == wanted.keys()
    assert [name for name in got if not torch.equal(got[name], wanted[name].to(dtype).float())] == []


def test_an_unpacked_checkpoint_is_trained_on(unpacked, tmp_path):
    more = shutil.copytree(unpacked, tmp_path / "more")
    before = torch.load(more / "transformer.pt", weights_only=True)
    name = "x_embedder.weight"
    before["net"][name] += 3.0  # what no new network has
    before["scale"] = (0.25, 2.0)  # and not what the shards have
    torch.save(before, more / "transformer.pt")
    STAGES["transformer"][2](more)
    after = torch.load(more / "transformer.pt", weights_only=True)
    assert after["step"] == STEPS and after["scale"] == (0.25, 2.0)
    assert 0 < (after["net"][name] - before["net"][name]).abs().max() < 0.5


def test_trained_text_encoders_stay_as_they_are_while_only_new_heads_learn(unpacked, tmp_path):
    more = shutil.copytree(unpacked, tmp_path / "more")
    given = torch.load(more / "text.pt", weights_only=True)
    assert given["heads"] is None

    def learnt(steps):
        text.train(more, steps, seed=2, heads_alone=STEPS, every=1)
        return torch.load(more / "text.pt", weights_only=True)

    alone, further = learnt(STEPS), learnt(STEPS + 2)
    assert alone["step"] == STEPS and alone["heads"]
    assert_rounded(alone["net"], given["net"], torch.float32)
    name = "t5.encoder.final_layer_norm.weight"
    assert not torch.equal(further["net"][name], given["net"][name])


def test_a_folder_of_a_run_is_not_unpacked_over(unpacked, tmp_path):
    (tmp_path / "decoder.pt").touch()  # export would take it
    with pytest.raises(FileExistsError, match="is not empty; take another folder"):
        unpack(unpacked.parent / "demo", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["decoder.pt"]
