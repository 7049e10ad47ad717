"""Low memory mode: text encoders, or transformer and autoencoder, in memory, and never both."""

import gc

import mlx.core as mx
import pytest
import tiny_checkpoint as tiny
from mlx.utils import tree_flatten

from fluxnb.checkpoints import store
from fluxnb.checkpoints.networks import PARTS, SIDES
from fluxnb.pipeline import FluxPipeline
from fluxnb.session import FluxSession

PROMPT = "a cat"


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("swapped") / "whole")


@pytest.fixture
def reads(monkeypatch):
    """The networks that were read from files, in order."""
    names, fill = [], store.fill

    def counting(network, *rest):
        names.append(next(name for name, kind in store.NETWORKS.items() if type(network) is kind))
        return fill(network, *rest)

    monkeypatch.setattr(store, "fill", counting)
    return names


def size(network):
    return sum(array.nbytes for _, array in tree_flatten(network.parameters()))


def test_nothing_is_read_before_it_is_needed(whole, reads):
    pipeline = FluxPipeline(local_ckpt=whole, low_memory_mode=True)
    assert pipeline.blocks == (2, 4) and pipeline.networks.configs.vae.latent_channels == 16
    session = FluxSession(pipeline)
    assert reads == []
    session.encode_text(PROMPT)
    assert reads == ["t5", "clip"]


def test_a_picture_reads_each_network_once_and_the_next_of_the_same_prompt_none(whole, reads):
    pipeline = FluxPipeline(local_ckpt=whole, low_memory_mode=True)
    first, _ = pipeline.generate_image(PROMPT, num_steps=2, latent_size=(4, 4))
    assert reads == ["t5", "clip", "mmdit", "vae"]
    again, _ = pipeline.generate_image(PROMPT, num_steps=2, latent_size=(4, 4))
    assert reads == ["t5", "clip", "mmdit", "vae"]
    assert first.tobytes() == again.tobytes()
    pipeline.generate_image("a dog", num_steps=1, latent_size=(4, 4))
    assert reads == ["t5", "clip", "mmdit", "vae"] * 2


def test_it_draws_the_same_bits_as_with_all_in_memory(whole):
    arguments = {"num_steps": 2, "cfg_weight": 2.0, "negative_text": "dog", "latent_size": (4, 4)}
    pictures = [
        FluxPipeline(local_ckpt=whole, low_memory_mode=low).generate_image(PROMPT, **arguments)[0].tobytes()
        for low in (False, True)
    ]
    assert pictures[0] == pictures[1]


def test_a_run_with_cfg_reads_each_network_once(whole, reads):
    session = FluxSession.from_pretrained(local_ckpt=whole, low_memory_mode=True)
    run = session.start(PROMPT, num_steps=2, cfg_weight=2.0, negative_text="dog", latent_size=(4, 4)).finish()
    run.image(0), run.image(), run.attention(0, "cat")
    assert reads == ["t5", "clip", "mmdit", "vae"]
    run.fork(at=1, prompt="a dog").finish()
    assert reads == ["t5", "clip", "mmdit", "vae", "t5", "clip", "mmdit"]


def test_the_two_sides_are_never_in_memory_together(whole, monkeypatch):
    networks = store.load(local_ckpt=whole, low_memory_mode=True)
    sizes = {name: size(getattr(networks, name)) for name in PARTS}
    networks.mmdit  # noqa: B018
    gc.collect()
    before = mx.get_active_memory() - sizes["mmdit"]
    slack = min(sizes.values()) / 2
    read, fill = [], store.fill

    def watched(network, *rest):
        mine = next(name for name, kind in store.NETWORKS.items() if type(network) is kind)
        side = next(side for side in SIDES if mine in side)
        read[:] = [name for name in read if name in side]
        assert mx.get_active_memory() - before < sum(sizes[name] for name in read) + slack
        read.append(mine)
        return fill(network, *rest)

    monkeypatch.setattr(store, "fill", watched)
    pipeline = FluxPipeline.from_networks(networks)
    for prompt in (PROMPT, "a dog"):
        pipeline.generate_image(prompt, num_steps=1, latent_size=(2, 2))
        assert read == ["mmdit", "vae"]
        assert mx.get_active_memory() - before < sizes["mmdit"] + sizes["vae"] + slack


def test_files_that_do_not_fit_are_found_out_at_once(whole, tmp_path):
    with pytest.raises(store.InputError, match="quantised to 8 bits already"):
        saved = FluxPipeline(local_ckpt=whole, quantize=8).save(tmp_path / "saved")
        store.load(saved, quantize=4, low_memory_mode=True)
    folder = tiny.link(whole, tmp_path / "model")
    weights = tiny.tensors("transformer")
    weights.pop("proj_out.bias")
    tiny.save(folder / "transformer" / tiny.WEIGHTS["transformer"], weights)
    with pytest.raises(store.CheckpointError, match="1 missing"):
        store.load(local_ckpt=folder, low_memory_mode=True)


def test_files_that_are_gone_by_then_are_missed(whole, tmp_path):
    folder = tiny.link(whole, tmp_path / "model")
    networks = store.load(local_ckpt=folder, low_memory_mode=True)
    (folder / "vae" / tiny.WEIGHTS["vae"]).unlink()
    with pytest.raises(store.CheckpointError, match="holds no safetensors"):
        networks.vae  # noqa: B018


def test_16_bit_streams_change_a_picture_little_and_leave_the_latents_in_float32(whole):
    runs = [
        FluxSession.from_pretrained(local_ckpt=whole, a16=a16)
        .start(PROMPT, num_steps=3, latent_size=(8, 8))
        .finish()
        for a16 in (False, True)
    ]
    assert {run.latents.dtype for run in runs} == {step.velocity.dtype for run in runs for step in run.steps}
    assert runs[1].latents.dtype == runs[1].text.txt.dtype == mx.float32
    exact, near = (run.latents for run in runs)
    assert 0 < mx.abs(near - exact).max() < 0.05 * mx.abs(exact).max()
    weights = runs[1].attention(0, "cat").weights
    assert abs(weights - runs[0].attention(0, "cat").weights).max() < 0.05


def test_16_bit_streams_are_16_bit_in_every_block_but_not_the_time(whole, monkeypatch):
    pipeline = FluxPipeline(local_ckpt=whole, a16=True)
    seen, times = set(), []

    def attend(q, k, v, layer):
        seen.add((layer, q.dtype, v.dtype))
        return v

    network = pipeline.networks.mmdit
    embed = network.time_in
    monkeypatch.setattr(network, "time_in", lambda x: times.append(embed(x)) or times[-1])
    text = pipeline.encode_text(PROMPT)
    velocity = pipeline.velocity(mx.ones((1, 4, 4, 16)), 0.75, text, attend=attend)
    assert seen == {(layer, mx.bfloat16, mx.bfloat16) for layer in range(6)}
    assert times[0].dtype == velocity.dtype == mx.float32
