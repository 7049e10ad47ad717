"""The real huggingface_hub against a small hub on loopback."""

import errno
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hub_server
import mlx.core as mx
import pytest
import tiny_checkpoint as tiny
from huggingface_hub import constants
from mlx.utils import tree_flatten

from fluxnb import FluxPipeline
from fluxnb.checkpoints import catalog, hub, sources, store
from fluxnb.errors import CheckpointError, DownloadError, FluxnbError, InputError, UnknownModelError
from fluxnb.model.config import VAEConfig
from fluxnb.model.layers import random_weights
from fluxnb.model.vae import VAE

TINY = "someone/tiny-flux"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
CONTENT = b"".join(i.to_bytes(2, "big") for i in range(30_000))
NEEDED = {
    "model_index.json": b'{"_class_name": "FluxPipeline"}',
    WEIGHTS: CONTENT,
    "transformer/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"vae",
    "vae/config.json": b"{}",
    "text_encoder/model.safetensors": b"clip",
    "text_encoder/config.json": b"{}",
    "text_encoder_2/model.safetensors": b"t5",
    "text_encoder_2/config.json": b"{}",
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"#",
    "tokenizer_2/tokenizer_config.json": b"{}",
    "tokenizer_2/tokenizer.json": b"{}",
    "scheduler/scheduler_config.json": b"{}",
}
"""A repository in the layout of diffusers; `fetch` does not look into the weights."""

NOT_NEEDED = {
    "README.md": b"#",
    "flux1-schnell.safetensors": b"once more",
    "transformer/model.onnx": b"onnx",
    "text_encoder/pytorch_model.bin": b"pickle",
    "text_encoder/model.fp16.safetensors": b"half",
    "tokenizer_2/spiece.model": b"protobuf",
}


@pytest.fixture
def repo(server):
    """The server with a model on it, beside files that nobody needs."""
    server.add(TINY, NEEDED | NOT_NEEDED)
    return server


@pytest.fixture
def real(server, tmp_path):
    """The server with a model on it that can be loaded, and its folder."""
    folder = tiny.write(tmp_path / "tiny")
    (folder / "model_index.json").write_bytes(NEEDED["model_index.json"])
    server.add_folder(TINY, folder)
    return server, folder


def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def cached(name=TINY):
    """Files that the cache shows of a repository."""
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return {p.relative_to(snapshots).as_posix().split("/", 1)[1] for p in snapshots.rglob("*") if p.is_file()}


def refused(kind, *words, name=TINY, **options):
    """Fetches what cannot be had; returns the message, which is one line and holds the words."""
    with pytest.raises(FluxnbError) as caught:
        hub.fetch(catalog.find(name), **options)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def parameters(network):
    return dict(tree_flatten(network.parameters()))


def test_a_named_model_is_downloaded_and_loaded(real):
    server, folder = real
    pipeline, local = FluxPipeline(TINY), store.load(folder)
    own = {"name": TINY, "places": catalog.find(TINY).places, "commit": server.repos[TINY].commit}
    assert pipeline.entry == replace(local.entry, **own)
    for name in ("mmdit", "vae", "clip", "t5"):
        ours, theirs = parameters(getattr(pipeline.networks, name)), parameters(getattr(local, name))
        assert ours.keys() == theirs.keys()
        assert all(mx.array_equal(ours[key], theirs[key]) for key in ours)


def test_only_what_is_needed_is_downloaded(repo):
    parts = hub.fetch(catalog.find(TINY))
    assert cached() == set(NEEDED)
    assert {p.name for p in parts.text_encoder.iterdir()} == {"config.json", "model.safetensors"}


def test_a_second_load_asks_once_and_downloads_nothing(repo):
    first = hub.fetch(catalog.find(TINY))
    repo.requests.clear()
    assert hub.fetch(catalog.find(TINY)) == first
    assert [(method, path) for method, path, _, _ in repo.requests] == [("GET", f"/api/models/{TINY}")]


def test_a_new_commit_brings_only_the_files_that_changed(repo):
    first = hub.fetch(catalog.find(TINY))
    repo.repos[TINY].files |= {"README.md": b"# new", "vae/diffusion_pytorch_model.safetensors": b"better"}
    repo.requests.clear()
    second = hub.fetch(catalog.find(TINY))
    assert second.vae.parent != first.vae.parent
    assert repo.got(".safetensors") == [None]
    assert repo.got("vae/diffusion_pytorch_model.safetensors") == [None]


def test_offline_a_model_in_the_cache_is_loaded_without_a_request(repo, monkeypatch):
    first = hub.fetch(catalog.find(TINY))
    repo.requests.clear()
    offline(monkeypatch)
    assert hub.fetch(catalog.find(TINY)) == first
    assert repo.requests == []


def test_offline_a_model_that_is_not_in_the_cache_is_named_with_its_files(repo, monkeypatch):
    offline(monkeypatch)
    refused(
        DownloadError, "model_index.json, transformer/config.json", "HF_HUB_OFFLINE", "start Python without"
    )
    assert repo.requests == []


def test_offline_a_model_half_in_the_cache_is_named_with_what_is_missing(repo, monkeypatch):
    hub.fetch(catalog.find(TINY))
    for link in Path(constants.HF_HUB_CACHE).rglob("vae/*.safetensors"):
        link.unlink()
    offline(monkeypatch)
    refused(DownloadError, f"lacks vae/diffusion_pytorch_model.safetensors of {TINY}, and")


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_in_trouble_is_not_missed_where_the_cache_is_whole(repo, status):
    first = hub.fetch(catalog.find(TINY))
    repo.status = status
    assert hub.fetch(catalog.find(TINY)) == first


def test_without_a_network_the_cache_will_do_and_an_empty_one_says_what_to_check(repo, monkeypatch):
    first = hub.fetch(catalog.find(TINY))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert hub.fetch(catalog.find(TINY)) == first
    words = ("http://127.0.0.1:9 cannot be reached", "check the network", "transformer/config.json")
    refused(DownloadError, *words, name="black-forest-labs/FLUX.1-schnell")


def test_a_download_cut_off_in_the_middle_goes_on_where_it_stopped(repo):
    stop = 20_000
    repo.cut[WEIGHTS] = stop
    refused(DownloadError, f"the download of {TINY}/{WEIGHTS} broke off", "call again, it goes on where it")
    assert repo.got(WEIGHTS)[0] is None
    repo.cut.clear()
    repo.requests.clear()
    parts = hub.fetch(catalog.find(TINY))
    assert repo.got(WEIGHTS) == [f"bytes={stop}-"]
    assert (parts.transformer / Path(WEIGHTS).name).read_bytes() == CONTENT
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def test_what_an_interrupted_call_has_is_kept(repo, monkeypatch):
    http_get, stop = hub.http_get, 1000

    def interrupted(url, file, **options):
        file.write(CONTENT[:stop])
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "http_get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(catalog.find(TINY))
    monkeypatch.setattr(hub, "http_get", http_get)
    hub.fetch(catalog.find(TINY))
    assert repo.got(WEIGHTS) == [f"bytes={stop}-"]


def test_a_part_that_belongs_to_no_file_is_found_out_and_thrown_away(repo):
    repo.cut[WEIGHTS] = 1000
    refused(DownloadError, "broke off")
    repo.cut.clear()
    (partial,) = Path(constants.HF_HUB_CACHE).rglob("*.incomplete")
    partial.write_bytes(b"x" * 1000)
    refused(DownloadError, f"{TINY}/{WEIGHTS} arrived damaged", "call again")
    hub.fetch(catalog.find(TINY))
    assert repo.got(WEIGHTS)[-1] is None


def test_a_file_of_another_size_than_the_hub_lists_is_found_out(repo):
    size = len(CONTENT)
    repo.repos[TINY].sizes[WEIGHTS] = size + 1
    repo.repos[TINY].hashes[WEIGHTS] = "0" * 64
    refused(DownloadError, "arrived damaged", f"({size} bytes, expected {size + 1} with SHA-256 00000000...)")


def test_too_little_space_is_said_before_anything_is_downloaded(repo, monkeypatch):
    repo.repos[TINY].sizes[WEIGHTS] = 24_000_000_000
    usage = shutil.disk_usage("/")._replace(free=12_300_000_000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)
    refused(DownloadError, f"{TINY} needs 24.0 GB more", "12.3 GB free", "HF_HOME")
    assert [path for method, path, _, _ in repo.requests] == [f"/api/models/{TINY}"]


def test_what_is_in_the_cache_needs_no_space(repo, monkeypatch):
    hub.fetch(catalog.find(TINY))
    usage = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)
    hub.fetch(catalog.find(TINY))


def test_a_disk_that_fills_up_on_the_way_says_so_and_the_next_call_goes_on(repo, monkeypatch):
    http_get = hub.http_get

    def full(url, file, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "http_get", full)
    refused(DownloadError, "the disk is full", "make room and call again", "HF_HOME")
    monkeypatch.setattr(hub, "http_get", http_get)
    hub.fetch(catalog.find(TINY))


def test_a_cache_that_cannot_be_written_to_is_named(repo, tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(taken / "hub"))
    refused(DownloadError, f"cannot be written to {taken}/hub (Not a directory)", "HF_HOME")


@pytest.mark.parametrize("token", [None, hub_server.STRANGER])
def test_a_gated_model_says_where_its_licence_is_accepted(repo, token, monkeypatch):
    repo.repos[TINY].gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    refused(DownloadError, "is gated: accept its licence at", f"{repo.endpoint}/{TINY}", "hf auth login")
    assert cached() == set()


def test_a_token_with_access_opens_the_gate_and_never_reaches_the_storage(repo, monkeypatch):
    repo.repos[TINY].gated = True
    monkeypatch.setenv("HF_TOKEN", hub_server.GOOD)
    hub.fetch(catalog.find(TINY))
    tokens = {path.startswith("/storage/"): token for _, path, _, token in repo.requests}
    assert tokens == {True: None, False: hub_server.GOOD}


def test_a_wrong_token_says_where_to_make_another(repo, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(DownloadError, "refuses your token", "/settings/tokens", "hf auth login", "HF_TOKEN")


def test_a_repository_that_is_not_there_is_an_unknown_model(server, monkeypatch):
    refused(UnknownModelError, "there is no 'nobody/nothing' on the hub", name="nobody/nothing")
    monkeypatch.setenv("HF_TOKEN", hub_server.GOOD)
    near = "black-forest-labs/FLUX.1-shnell"
    refused(UnknownModelError, "did you mean 'black-forest-labs/FLUX.1-schnell'?", name=near)


def test_a_revision_can_be_pinned_and_an_unknown_one_is_refused(repo):
    entry, commit = catalog.find(TINY), repo.repos[TINY].commit
    assert hub.fetch(entry, revision=commit).vae.parent.name == commit
    refused(InputError, f"{TINY} has no revision 'v2'", "leave revision out", revision="v2")


@pytest.mark.parametrize("revision", ["", 7, "../../etc", "/etc/passwd", "main\n"])
def test_what_is_no_revision_is_refused_at_once(repo, revision):
    refused(InputError, f"revision is {revision!r}", revision=revision)
    assert repo.requests == []


def test_another_pipeline_is_refused_before_its_weights_are_downloaded(repo):
    repo.repos[TINY].files["model_index.json"] = b'{"_class_name": "StableDiffusion3Pipeline"}'
    refused(CheckpointError, "is a StableDiffusion3Pipeline, expected a FluxPipeline")
    assert repo.got(".safetensors") == []


def test_a_repository_in_no_layout_says_what_it_lacks(server):
    server.add("someone/else", {"model.safetensors": b""})
    refused(CheckpointError, "someone/else on the hub is no FLUX.1", "model_index.json", name="someone/else")


def test_a_checksum_that_is_none_becomes_no_path(repo):
    repo.repos[TINY].hashes[WEIGHTS] = "../../../elsewhere"
    refused(DownloadError, "gives '../../../elsewhere' as a hash")


def test_a_model_of_diffusionkit_is_put_together_from_its_repositories(server):
    entry = catalog.SCHNELL_4BIT
    own = {"flux-schnell-4bit-quantized.safetensors": b"t", "ae.safetensors": b"v", "config.json": b"{}"}
    server.add(entry.name, own)
    text = {"clip_l/model.fp16.safetensors": b"c", "t5/t5xxl.safetensors": b"5", "clip_g/x.safetensors": b"g"}
    server.add("argmaxinc/stable-diffusion", text)
    words = {"tokenizer_config.json": b"{}", "tokenizer.json": b"{}", "vocab.json": b"{}", "merges.txt": b"#"}
    server.add("openai/clip-vit-large-patch14", words | {"model.safetensors": b"vision"})
    server.add("google/flan-t5-xxl", words | {"model-00001-of-00005.safetensors": b"decoder"})
    parts = hub.fetch(entry)
    assert (parts.transformer.read_bytes(), parts.vae.read_bytes()) == (b"t", b"v")
    assert (parts.text_encoder.read_bytes(), parts.text_encoder_2.read_bytes()) == (b"c", b"5")
    assert cached("openai/clip-vit-large-patch14") == {"tokenizer_config.json", "vocab.json", "merges.txt"}
    assert cached("google/flan-t5-xxl") == {"tokenizer_config.json", "tokenizer.json"}
    assert parts.scheduler is None
    assert hub.held(entry) == parts


def test_shards_are_downloaded_as_their_number_says(server):
    name = "black-forest-labs/FLUX.1-schnell"
    server.add(name, NEEDED)
    files = server.repos[name].files
    del files[WEIGHTS]
    shards = [f"transformer/diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    files |= {"transformer/diffusion_pytorch_model.safetensors.index.json": b"{}"} | dict.fromkeys(
        shards, b"w"
    )
    hub.fetch(catalog.find(name))
    assert set(shards) < cached(name)
    del files[shards[1]]
    refused(CheckpointError, f"it lacks {shards[1]}", name=name)


def test_what_a_file_of_the_user_lacks_comes_from_the_model_that_was_named(real, tmp_path):
    server, folder = real
    name = "black-forest-labs/FLUX.1-schnell"
    server.add_folder(name, folder)
    mine = tmp_path / "mine" / "flux1.safetensors"
    mine.parent.mkdir()
    shutil.copy(folder / WEIGHTS, mine)
    with pytest.raises(CheckpointError, match=r"lacks vae, text_encoder, .* put them beside it, or name the"):
        sources.locate(mine)
    assert server.requests == []
    _, parts = sources.locate(name, local_ckpt=mine)
    assert parts.transformer == mine
    assert parts.vae.is_relative_to(constants.HF_HUB_CACHE)
    assert WEIGHTS not in cached(name)
    server.requests.clear()
    assert sources.locate(mine)[1] == parts  # from now on the cache has them
    assert server.requests == []


@pytest.mark.parametrize("given", ["mine", "mine/transformer"])
def test_what_a_folder_of_the_user_lacks_comes_from_the_model_that_was_named(real, tmp_path, given):
    server, folder = real
    name = "black-forest-labs/FLUX.1-schnell"
    server.add_folder(name, folder)
    shutil.copytree(folder / "transformer", tmp_path / "mine" / "transformer")
    with pytest.raises(CheckpointError, match=r"lacks vae, .* or name the model on the hub"):
        sources.locate(tmp_path / given)
    assert server.requests == []
    _, parts = sources.locate(name, local_ckpt=tmp_path / given)
    assert parts.transformer == tmp_path / "mine" / "transformer"
    assert parts.vae.is_relative_to(constants.HF_HUB_CACHE) and parts.scheduler is not None
    assert WEIGHTS not in cached(name)


PROGRAM = f"""
from fluxnb import FluxPipeline
print(FluxPipeline({TINY!r}).entry.name)
"""


def test_the_environment_says_which_hub_which_cache_and_whether_to_ask(real, tmp_path):
    repo, _ = real
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": repo.endpoint}
    environment |= {"NO_PROXY": "*", "HF_HUB_OFFLINE": "0", "TQDM_POSITION": "-1"}  # a bar without a terminal

    def run(**more):
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True)

    offline = run(HF_HUB_OFFLINE="1")
    assert re.search(
        r"^fluxnb\.errors\.DownloadError: .* HF_HUB_OFFLINE forbids", offline.stderr, re.MULTILINE
    )
    first = run()
    assert first.stdout == f"{TINY}\n", first.stderr
    assert "diffusion_pytorch_model.safetensors: 100%" in first.stderr  # the bar
    assert (tmp_path / "home" / "hub" / "models--someone--tiny-flux").is_dir()
    repo.requests.clear()
    assert run(HF_HUB_OFFLINE="1").stdout == f"{TINY}\n"
    assert repo.requests == []


def test_a_model_of_diffusionkit_is_loaded_from_its_repositories(server, tmp_path):
    demo, entry = FluxPipeline(), catalog.SCHNELL_DIFFUSIONKIT
    vae = random_weights(
        VAE(VAEConfig(channels=(32, 32, 32, 32), layers=1)), seed=0
    )  # its norms as in FLUX.1
    kernels = {
        name: array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        for name, array in parameters(vae).items()
    }
    tiny.save(tmp_path / "flux-schnell.safetensors", parameters(demo.networks.mmdit))  # whose names are ours
    tiny.save(tmp_path / "ae.safetensors", kernels)
    server.add(entry.name, {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")})
    shipped = {path.name: path for path in sources.DEMO_FOLDER.iterdir()}
    text = {"clip_l/model.fp16.safetensors": "text_encoder", "t5/t5xxl.safetensors": "text_encoder_2"}
    files = {name: (shipped[folder] / "model.safetensors").read_bytes() for name, folder in text.items()}
    server.add("argmaxinc/stable-diffusion", files)
    server.add_folder("openai/clip-vit-large-patch14", shipped["tokenizer"])
    server.add_folder("google/flan-t5-xxl", shipped["tokenizer_2"])
    pipeline = FluxPipeline(entry.name)
    assert pipeline.entry.name == entry.name
    for name in ("mmdit", "clip", "t5"):
        ours, theirs = (parameters(getattr(one.networks, name)) for one in (pipeline, demo))
        assert ours.keys() == theirs.keys()
        assert all(mx.array_equal(ours[key], theirs[key].astype(ours[key].dtype)) for key in ours)
