import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
import stubs
from test_taesd import CONFIG, save

from fluxnb import FluxPipeline, FluxSession, decoding
from fluxnb.checkpoints import linear, sources, store
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import TAESDConfig
from fluxnb.model.layers import random_weights
from fluxnb.model.taesd import TAESD

EIGHTFOLD = TAESDConfig(channels=4, encoder_blocks=(1,) * 4, decoder_blocks=(1,) * 4)
BLOCKS = {"num_encoder_blocks": [1] * 4, "num_decoder_blocks": [1] * 4}
CHANNELS = {"encoder_block_out_channels": [4] * 4, "decoder_block_out_channels": [4] * 4}


@pytest.fixture(scope="module")
def demo():
    return FluxPipeline()


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path, random_weights(TAESD(EIGHTFOLD), seed=0), **BLOCKS, **CHANNELS)


def latents(*size):
    return mx.random.normal((1, *size, 16), key=mx.random.key(0))


def test_a_large_picture_is_decoded_in_strips_and_looks_the_same(monkeypatch):
    pipeline = stubs.pipeline()
    whole = np.asarray(pipeline.decode(latents(10, 6)), int)
    calls = []
    original = decoding.strips.decode
    monkeypatch.setattr(decoding.strips, "decode", lambda *args: calls.append(args) or original(*args))
    pipeline.decode(latents(10, 6))
    assert not calls
    monkeypatch.setattr(decoding, "MANY_CELLS", 59)
    assert np.abs(np.asarray(pipeline.decode(latents(10, 6)), int) - whole).max() <= 1
    assert len(calls) == 1


def test_the_tiny_autoencoder_decodes_once_it_is_loaded(folder):
    pipeline = stubs.pipeline()
    with pytest.raises(InputError, match=r"no tiny autoencoder is loaded; call load_preview\(\)"):
        pipeline.decode(latents(4, 6), "taef1")
    pipeline.load_preview(folder)
    picture = pipeline.decode(latents(4, 6), "taef1")
    assert picture.size == (48, 32)
    assert picture != pipeline.decode(latents(4, 6))


def test_a_tiny_autoencoder_of_another_model_is_refused_and_the_old_one_stays(folder, tmp_path):
    pipeline = stubs.pipeline()
    pipeline.load_preview(folder)
    before = pipeline.preview
    other = tmp_path / "other"
    other.mkdir()
    save(other, random_weights(TAESD(CONFIG), seed=0), latent_channels=4)
    with pytest.raises(CheckpointError, match="4 channels"):
        pipeline.load_preview(other)
    assert pipeline.preview is before


def test_a_model_without_a_fit_says_what_else_there_is():
    with pytest.raises(InputError, match="no linear fit comes with stub; decode by 'vae'"):
        stubs.pipeline().decode(latents(4, 4), "linear")


def test_an_unknown_decoder_lists_those_there_are():
    with pytest.raises(InputError, match="decoder is 'taesd'; give one of 'vae', 'taef1', 'linear'"):
        stubs.pipeline().decode(latents(4, 4), "taesd")


def test_a_linear_picture_is_one_colour_a_cell_near_the_mean_of_the_decoded_ones(demo):
    run = FluxSession(demo).start("a photo of a cat on a blue background", num_steps=8).finish()
    rough = np.asarray(run.image(decoder="linear"), float)
    cells = rough.reshape(16, 8, 16, 8, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    means = np.asarray(run.image(), float).reshape(16, 8, 16, 8, 3).mean(axis=(1, 3))
    assert np.abs(cells[:, 0, :, 0] - means).mean() < 20  # grey levels; 11 was seen


def test_a_session_decodes_by_what_it_was_opened_with_or_is_asked_for(demo):
    session = FluxSession(demo, decoder="linear")
    run = session.start("a photo of a cat", num_steps=1).finish()
    assert run.image() == run.image(decoder="linear") == demo.decode(run.latents, "linear")
    assert run.image(decoder="vae") == demo.decode(run.latents)
    assert run.image(kind="noisy", i=0) == demo.decode(run.steps[0].latents, "linear")


def test_a_session_is_not_opened_with_a_decoder_that_is_not_there(demo):
    with pytest.raises(InputError, match="no tiny autoencoder is loaded"):
        FluxSession(demo, decoder="taef1")


def test_a_pipeline_loads_its_preview_at_once(folder):
    pipeline = FluxPipeline(preview=str(folder))
    assert pipeline.decode(latents(2, 2), "taef1").size == (16, 16)


def test_the_stored_fit_says_what_it_is_worth():
    fit = json.loads((sources.DEMO_FOLDER / "vae" / linear.FILE).read_text())
    assert fit["psnr_db"] > 15
    assert fit["r_squared"] > 0.7


@pytest.mark.parametrize(
    "fit",
    [
        {},
        {"weight": [[0.0] * 16] * 3},
        {"weight": [[0.0] * 15] * 3, "bias": [0.0] * 3},
        {"weight": [["0"] * 16] * 3, "bias": [0, 0, 0]},
    ],
)
def test_a_file_that_holds_no_fit_is_refused(tmp_path, fit):
    (tmp_path / linear.FILE).write_text(json.dumps(fit))
    with pytest.raises(CheckpointError, match=r"a weight \(3, 16\) and a bias"):
        linear.read(tmp_path, 16)


def test_a_fit_goes_with_its_autoencoder(tmp_path):
    folder = shutil.copytree(sources.DEMO_FOLDER, tmp_path / "copy")
    assert store.load(local_ckpt=folder).linear == store.load().linear != None  # noqa: E711
    (folder / "vae" / linear.FILE).unlink()
    assert store.load(local_ckpt=folder).linear is None
