"""Every stage of the demo model's training at toy length, end to end, and going on after a stop."""

import subprocess
import sys

import pytest
import torch

from fluxnb.pipeline import FluxPipeline
from fluxnb.training import transformer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "fluxnb.training.train", "--out", out, "--to", out / "demo", "--smoke"]
    subprocess.run(list(map(str, command)), check=True)
    return out


def test_the_result_is_a_checkpoint_that_fluxnb_draws_with(run):
    pipeline = FluxPipeline(local_ckpt=str(run / "demo"))
    image, _ = pipeline.generate_image("a photo of a cat", num_steps=2)
    assert image.size == (128, 128)


def test_the_latents_of_the_checkpoint_have_unit_spread(run):
    config = FluxPipeline(local_ckpt=str(run / "demo")).networks.vae.config
    mean, spread = torch.load(run / "transformer.pt", weights_only=True)["scale"]
    assert config.shift_factor == pytest.approx(mean)
    assert config.scale_factor == pytest.approx(1 / spread)


def test_a_stopped_training_goes_on_where_it_was(run):
    before = torch.load(run / "transformer.pt", weights_only=True)
    minutes = before["minutes"] + 0.05
    transformer.train(run, minutes, batch=4, seed=0, muon_lr=0.02, adam_lr=1e-3, final=0.1)
    after = torch.load(run / "transformer.pt", weights_only=True)
    assert after["step"] > before["step"] and after["samples"] > before["samples"]
    assert after["scale"] == before["scale"]


def test_a_finished_stage_is_not_done_again(run):
    marks = {mark.name: mark.stat().st_mtime_ns for mark in run.glob("*.done")}
    command = [sys.executable, "-m", "fluxnb.training.train", "--out", run, "--to", run / "demo", "--smoke"]
    subprocess.run(list(map(str, command)), check=True)
    assert marks == {mark.name: mark.stat().st_mtime_ns for mark in run.glob("*.done")}
    assert len(marks) == 8
