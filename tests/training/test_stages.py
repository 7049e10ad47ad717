"""Every stage of the demo model's training at toy length, end to end, by processes that share the work."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fluxnb.pipeline import FluxPipeline
from fluxnb.training import latents, train

STAGES = {
    "tokenizers", "vae", "text", "latents", "transformer", "decoder", "export", "preview", "judge", "sheets",
    "curves",
}  # fmt: skip
pytestmark = pytest.mark.timeout(900)  # seconds; about a minute's work where nothing else runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "fluxnb.training.train", "--out", out, "--to", out / "demo"]
    subprocess.run([*map(str, command), "--smoke", "--processes", "2"], check=True)
    return out


def test_the_result_is_a_checkpoint_that_fluxnb_draws_with(run):
    pipeline = FluxPipeline(local_ckpt=str(run / "demo"))
    image, _ = pipeline.generate_image("a photo of a cat", num_steps=2)
    assert image.size == (128, 128)
    assert (run / "demo" / "vae" / "linear_preview.json").exists()


def test_the_latents_of_the_checkpoint_have_unit_spread(run):
    config = FluxPipeline(local_ckpt=str(run / "demo")).networks.vae.config
    mean, spread = torch.load(run / "transformer.pt", weights_only=True)["scale"]
    assert config.shift_factor == pytest.approx(mean)
    assert config.scale_factor == pytest.approx(1 / spread)


def test_two_processes_made_all_shards(run):
    shards = latents.load(run)
    assert {grid: len(captions) for grid, (_, _, captions) in shards.items()} == {
        (8, 8): 32, (6, 6): 8, (8, 6): 8,
    }  # fmt: skip


def test_every_training_logs_its_steps(run):
    for name in ("vae", "text", "transformer", "decoder", "judge"):
        with (run / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows and all(np.isfinite(float(row["loss"])) for row in rows)


def test_curves_and_sheets_are_drawn(run):
    for name in ("curves", "samples", "autoencoder"):
        with Image.open(run / f"{name}.png") as picture:
            assert min(picture.size) > 200 and np.ptp(np.asarray(picture)) > 200


def test_a_finished_stage_is_not_done_again(run):
    marks = {mark.stem: mark.stat().st_mtime_ns for mark in run.glob("*.done")}
    train.train(run.resolve(), (run / "demo").resolve(), train.SMOKE, processes=2, threads=1)
    assert marks == {mark.stem: mark.stat().st_mtime_ns for mark in run.glob("*.done")}
    assert set(marks) == STAGES


def test_a_folder_of_another_length_is_refused(run):
    with pytest.raises(SystemExit, match=r"vae\.done is of another run"):
        train.train(run.resolve(), (run / "demo").resolve(), train.FULL, processes=2, threads=1)


def test_a_stage_that_fails_has_no_mark(tmp_path):
    with pytest.raises(SystemExit, match="the stage vae failed"):
        train.Stages(tmp_path, threads=1)("vae", ("fluxnb.no_such_module",), ("fluxnb",))
    assert list(tmp_path.iterdir()) == []
