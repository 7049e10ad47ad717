import json

import mlx.core as mx
import pytest
from full_size import parameters, released
from mlx.utils import tree_flatten

from fluxnb.checkpoints import layouts, taesd
from fluxnb.errors import CheckpointError, InputError, UnknownModelError
from fluxnb.model.config import TAESDConfig, taef1
from fluxnb.model.layers import random_weights
from fluxnb.model.taesd import TAESD
from fluxnb.pipeline import FluxPipeline

CONFIG = TAESDConfig(channels=4, encoder_blocks=(1, 1, 2), decoder_blocks=(2, 1, 1), latent_channels=16)
SETTINGS = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [4, 4, 4],
    "decoder_block_out_channels": [4, 4, 4],
    "num_encoder_blocks": [1, 1, 2],
    "num_decoder_blocks": [2, 1, 1],
    "latent_channels": 16,
    "in_channels": 3,
    "out_channels": 3,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def save(folder, network, **settings):
    """Writes a network as diffusers does."""
    arrays = {
        name: mx.contiguous(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value
        for name, value in tree_flatten(network.parameters())
    }
    mx.save_safetensors(str(folder / WEIGHTS), arrays)
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    return folder


def test_every_released_tensor_is_used_once_and_fills_the_network():
    held, shapes = released("diffusers-taef1"), parameters(TAESD(taef1()))
    arrays = {name: mx.zeros(shape) for name, shape in held.items()}
    parts = layouts.plan(taesd.DIFFUSERS_TAESD, shapes, held, "the file")
    assert sorted(source for part in parts for source in part.sources) == sorted(held)
    assert {part.target: layouts.shape(part, arrays) for part in parts} == shapes


def test_sides_are_halved_and_doubled_once_a_level_but_one():
    network = random_weights(TAESD(CONFIG), seed=0)
    picture = network.decode(mx.zeros((1, 3, 5, 16)))
    assert picture.shape == (1, 12, 20, 3)
    assert network.encode(picture).shape == (1, 3, 5, 16)


def test_latents_are_normalised_both_ways():
    plain, shifted = (
        TAESD(TAESDConfig(4, (1, 1), (1, 1), 8, scale_factor=s, shift_factor=t))
        for s, t in ((1, 0), (0.5, 0.2))
    )
    random_weights(plain, seed=0)
    shifted.update(plain.parameters())
    z = mx.random.normal((1, 4, 4, 8), key=mx.random.key(0))
    assert mx.allclose(shifted.decode((z - 0.2) * 0.5), plain.decode(z), atol=1e-5)
    x = mx.random.normal((1, 8, 8, 3), key=mx.random.key(1))
    assert mx.allclose(shifted.encode(x), (plain.encode(x) - 0.2) * 0.5, atol=1e-5)


@pytest.mark.parametrize("of_file", [False, True])
def test_what_diffusers_saves_is_read_from_folder_and_file(tmp_path, of_file):
    if of_file:  # a file has no config: it is taken for a TAEF1
        network = random_weights(TAESD(taef1()), seed=0)
        source = save(tmp_path, network) / WEIGHTS
    else:
        network = random_weights(TAESD(CONFIG), seed=0)
        source = save(tmp_path, network)
    loaded = taesd.load(source, 16)
    ours, theirs = (dict(tree_flatten(one.parameters())) for one in (loaded, network))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL'"),
        ({"act_fn": "silu"}, "act_fn is 'silu'"),
        ({"decoder_block_out_channels": [4, 4, 8]}, "decoder_block_out_channels"),
        ({"latent_channels": 4}, "latents of 4 channels, and those of this model have 16"),
        ({"num_decoder_blocks": [2, 2, 1]}, "missing"),
    ],
)
def test_what_is_no_tiny_autoencoder_for_these_latents_is_refused(tmp_path, settings, words):
    save(tmp_path, random_weights(TAESD(CONFIG), seed=0), **settings)
    with pytest.raises(CheckpointError, match=words):
        taesd.load(tmp_path, 16)


@pytest.mark.parametrize(
    "source", ["", 3, "no/such/folder", "nowhere.safetensors", "a" * 5000, "a/b--c", "a/b..c"]
)
def test_what_is_neither_a_path_nor_a_name_is_refused_without_asking_the_hub(source, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="give a path, or a name on the hub: 'madebyollin/taef1'"):
        taesd.load(source, 16)


def test_it_is_downloaded_where_its_name_is_given_and_only_then(server, tmp_path):
    name, folder = "madebyollin/taef1", tmp_path / "files"
    folder.mkdir()
    server.add_folder(name, save(folder, random_weights(TAESD(CONFIG), seed=0)))
    pipeline = FluxPipeline()
    with pytest.raises(InputError, match="no tiny autoencoder is loaded"):
        pipeline.decode(mx.zeros((1, 2, 2, 16)), "taef1")
    assert server.requests == []
    pipeline.load_preview(name)
    assert server.got(WEIGHTS) == [None]
    here = taesd.load(folder, 16)
    x = mx.random.normal((1, 2, 2, 16), key=mx.random.key(0))
    assert mx.array_equal(pipeline.preview.decode(x), here.decode(x))
    with pytest.raises(UnknownModelError, match="there is no 'madebyollin/taesdxl' on the hub"):
        FluxPipeline(preview="madebyollin/taesdxl")
