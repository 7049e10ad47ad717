"""The parts of the demo model's training that can be right or wrong by themselves."""

import random
import re
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
import torch
from torch.nn import functional

from fluxnb import flow
from fluxnb.training import (
    curves,
    networks,
    optim,
    scenes,
    sheets,
    text,
    tokenizers,
    transformer,
    vae,
)


def test_pack_is_in_the_order_of_the_reference():
    latents = torch.arange(2 * 16 * 6 * 4, dtype=torch.float32).view(2, 16, 6, 4)
    tokens = networks.pack(latents)
    assert tokens.shape == (2, 3 * 2, 64)
    assert tokens[0, 3, 5 * 4 + 1 * 2 + 0] == latents[0, 5, 2 * 1 + 1, 2 * 1 + 0]  # token (1, 1), channel 5
    ours = flow.pack(mx.array(latents.permute(0, 2, 3, 1).numpy()))
    assert np.array_equal(np.array(ours), tokens.numpy())


def test_plain_attention_equals_torchs():
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0)).unbind()
    bias = torch.randn(1, 4, 7, 7)
    for options in ({}, {"is_causal": True}, {"attn_mask": bias}, {"scale": 0.3}):
        ours = transformer.plain_attention(q, k, v, **options)
        assert torch.allclose(ours, functional.scaled_dot_product_attention(q, k, v, **options), atol=1e-6)


def test_where_objects_stand_is_asked_of_captions_that_say_it():
    rng = random.Random(0)
    words = {"across": r"left|right|next to|beside|and", "down": r"top|bottom|above|over|below|under"}
    counts = [0, 0]
    for _ in range(300):
        scene = scenes.make_scene(rng)
        said = [bool(re.search(rf"\b({one})\b", scene.caption)) for one in words.values()]
        assert list(text.fixed_axes(scene)) == said, scene.caption
        counts = [count + one for count, one in zip(counts, said, strict=True)]
    assert min(counts) > 30


def test_orthogonalize_brings_singular_values_near_one():
    for shape in ((12, 40), (40, 12)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        values = torch.linalg.svdvals(optim.orthogonalize(matrix))
        assert values.min() > 0.5 and values.max() < 1.3


def test_muon_moves_convolutions_downhill():
    torch.manual_seed(0)
    conv, target = torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(4, 6, 3)
    optimizer = optim.Muon([conv.weight], lr=0.02)
    x = torch.randn(8, 4, 8, 8)
    losses = []
    for _ in range(40):
        loss = (conv(x) - target(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_running_average_ends_between_start_and_now():
    net = torch.nn.Linear(2, 2)
    average = optim.ema_copy(net)
    before = average.weight.clone()
    with torch.no_grad():
        net.weight += 1
    optim.ema_update(average, net, step=10_000, decay=0.9)
    assert torch.allclose(average.weight, before + 0.1, atol=1e-6)


def test_crops_are_pictures_on_the_grid_of_tokens():
    batch = vae.crops(seed=1, step=0, batch=8)
    assert batch.shape == (8, 3, vae.CROP, vae.CROP)
    assert batch.min() >= -1 and batch.max() <= 1 and batch.std() > 0.1


def test_crops_are_of_ever_newer_scenes(monkeypatch):
    seen = []
    monkeypatch.setattr(vae, "picture", lambda seed, n: seen.append(n) or np.zeros((128, 128, 3), np.uint8))
    for step in (0, 2000):
        vae.crops(seed=1, step=step, batch=50)
    first, later = seen[: len(seen) // 3], seen[-len(seen) // 3 :]
    assert min(first) >= 0 and max(first) < vae.FIRST
    assert max(later) - min(later) < vae.POOL and min(later) > vae.FIRST


def test_sigmas_of_a_batch_fill_the_whole_range_evenly():
    sigmas = transformer.draw_sigmas(64, torch.Generator().manual_seed(3))
    shares = torch.special.ndtr(torch.logit(sigmas) - transformer.SIGMA_MEAN)
    assert torch.equal((shares * 64 + 1e-3).long().clamp(max=63), torch.arange(64))


def test_each_step_and_each_process_draws_other_numbers(monkeypatch):
    drawn, shared = [], []
    for rank in (0, 1):
        monkeypatch.setattr(optim, "this_process", lambda rank=rank: (rank, 2))
        for step in range(3):
            drawn.append(torch.rand(1, generator=optim.step_generator(0, step)).item())
            shared.append(torch.rand(1, generator=optim.step_generator(0, step, shared=True)).item())
    assert shared[:3] == shared[3:] and len(set(drawn + shared)) == 9


def test_a_share_of_the_batches_is_of_other_canvases():
    data = mock.Mock(transformer.Data, grids=[(8, 8), (6, 6), (12, 12)])
    generator = torch.Generator().manual_seed(0)
    drawn = [transformer.Data.draw_grid(data, generator) for _ in range(3000)]
    shares = [drawn.count(grid) / 3000 for grid in data.grids]
    assert shares == pytest.approx([5 / 6, 1 / 12, 1 / 12], abs=0.02)
    data.grids = [(8, 8)]
    assert transformer.Data.draw_grid(data, generator) == (8, 8)


def test_losses_are_computed_on_the_device_where_the_networks_are():
    """torch's "meta" device keeps no numbers, and refuses to mix its tensors with others'."""
    tokens = torch.zeros(3, 64, 64).half(), torch.ones(3, 64, dtype=torch.bool)
    text = torch.zeros(3, 24, 128).half(), torch.zeros(3, 128).half()
    data = mock.Mock(transformer.Data, sets={(8, 8): (*tokens, *text)}, grids=[(8, 8)])
    data.empty = tuple(one[:1] for one in text)
    data.batch = lambda *arguments: transformer.Data.batch(data, *arguments)
    generator = torch.Generator().manual_seed(0)
    net = networks.build_transformer().to("meta")
    loss = transformer.step_loss(net, net, data, 2, (8, 8), generator, "meta")
    assert loss.device.type == "meta" and loss.dtype == torch.float32
    with pytest.raises(RuntimeError, match="device"):
        transformer.step_loss(net, net, data, 2, (8, 8), generator, "cpu")
    x, autoencoder = vae.crops(1, 0, 2), networks.build_vae().to("meta")
    assert vae.step_loss(autoencoder, x.to("meta"), False, generator)[0].device.type == "meta"


def test_a_checkpoint_of_a_gpu_loads_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    optim.save_atomically(tmp_path / "a.pt", {"net": {"weight": torch.arange(3)}})
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="map_location"):
            torch.load(tmp_path / "a.pt", weights_only=True)
    state = optim.load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(state["net"]["weight"], torch.arange(3))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_curves_show_what_the_logs_hold(tmp_path):
    (tmp_path / "vae.csv").write_text("step,minutes,loss,psnr,latent_std\n100,1,0.5,16,1\n200,2,0.3,20,1\n")
    (tmp_path / "transformer.csv").write_text(
        "step,minutes,samples,loss\n9,1,90,0.4\n20,2,200,0.2\n20,2,200,0.1\n"
    )
    (tmp_path / "text.csv").write_text("step,minutes,loss,noun,size\n1,0,9,0.1,0.4\n2,0,8,0.2,0.7\n")
    titles = ["autoencoder", "autoencoder", "text encoders", "text encoders", "transformer"]
    shown = [axes for axes in curves.draw_curves(tmp_path).axes if axes.axison]
    assert [axes.get_title() for axes in shown] == titles
    assert [axes.get_ylabel() for axes in shown] == ["loss", "PSNR in dB", "loss", "right answers", "loss"]
    (line,) = shown[-1].lines
    assert line.get_xdata().tolist() == [90, 200] and line.get_ydata().tolist() == [0.4, 0.1]
    assert [line.get_label() for line in shown[3].lines] == ["noun", "size"]


def test_curves_of_a_folder_without_logs_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vae\.csv"):
        curves.draw_curves(tmp_path)


def test_prompts_of_the_sample_sheet_are_made_of_taught_words():
    known = set(tokenizers.caption_words())
    assert [word for prompt in sheets.PROMPTS for word in prompt.split() if word not in known] == []
