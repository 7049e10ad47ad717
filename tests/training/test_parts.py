"""The parts of the demo model's training that can be right or wrong by themselves."""

import random

import numpy as np
import torch
from torch.nn import functional

from fluxnb.training import evaluate, judge, networks, optim, scenes, transformer, vae


def test_unpack_undoes_pack_in_the_order_of_the_reference():
    latents = torch.arange(2 * 16 * 6 * 6, dtype=torch.float32).view(2, 16, 6, 6)
    tokens = networks.pack(latents)
    assert torch.equal(networks.unpack(tokens), latents)
    assert tokens[0, 4, 5 * 4 + 1 * 2 + 0] == latents[0, 5, 2 * 1 + 1, 2 * 1 + 0]  # token (1, 1), channel 5


def test_plain_attention_equals_torchs():
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0)).unbind()
    bias = torch.randn(1, 4, 7, 7)
    for options in ({}, {"is_causal": True}, {"attn_mask": bias}, {"scale": 0.3}):
        ours = transformer.plain_attention(q, k, v, **options)
        assert torch.allclose(ours, functional.scaled_dot_product_attention(q, k, v, **options), atol=1e-6)


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


def test_crops_are_pictures_on_the_grid_of_cells():
    batch = vae.Crops(seed=1).batch()
    assert batch.shape == (vae.BATCH, 3, vae.CROP, vae.CROP)
    assert batch.min() >= -1 and batch.max() <= 1 and batch.std() > 0.1


def test_the_shipped_judge_is_right_on_98_of_100_real_scenes():
    objects, ground = judge.accuracy(judge.load(), count=200)
    assert objects >= 0.98 and ground >= 0.98


def test_the_judge_finds_where_an_object_stands():
    scene = scenes.Scene("", "blue", (scenes.Sprite("cat", 8, 64, 56),), 0.0, says_color=False)
    verdict = judge.judge_pictures(judge.load(), scenes.render(scene)[0][None])[0]
    assert (verdict.objects[0], verdict.ground) == ("cat", "blue")
    x, y = verdict.centres[0]
    assert abs(x - 36 / 128) < 0.08 and abs(y - 92 / 128) < 0.08


def test_the_judge_does_not_find_an_object_that_is_not_there():
    rng = random.Random(9)
    made = [scenes.make_scene(rng, pairs=0, name="dog") for _ in range(20)]
    pictures = np.stack([scenes.render(scene)[0] for scene in made])
    assert all(v.objects[0] != "cat" for v in judge.judge_pictures(judge.load(), pictures))


def test_the_interval_holds_the_share_and_narrows_with_more():
    low, high = evaluate.interval(80, 100)
    assert 0.70 < low < 0.8 < high < 0.88
    assert np.diff(evaluate.interval(800, 1000)) < high - low
