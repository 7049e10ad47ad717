"""The demo model as it is shipped: its size, its files, and that it draws what it is told."""

import json

import mlx.core as mx
import numpy as np
import pytest

from fluxnb import FluxPipeline, FluxSession
from fluxnb.checkpoints.sources import DEMO_FOLDER

GROUNDS = {"red": (214, 60, 54), "green": (96, 170, 92), "blue": (84, 140, 214), "black": (34, 34, 38)}


@pytest.fixture(scope="module")
def session():
    return FluxSession.from_pretrained()


def test_it_takes_at_most_25_megabytes_with_its_sibling():
    folders = DEMO_FOLDER, DEMO_FOLDER.with_name("demo-schnell")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6


def test_it_is_a_flux_checkpoint_in_the_diffusers_layout():
    index = json.loads((DEMO_FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "FluxPipeline"
    for component, (library, name) in {k: v for k, v in index.items() if k[0] != "_" and v[0]}.items():
        assert library in ("diffusers", "transformers") and name
        assert (DEMO_FOLDER / component).is_dir()


def test_it_comes_with_its_recipe_and_the_fonts_licence():
    assert "evaluate" in (DEMO_FOLDER / "RECIPE.md").read_text()
    assert "SIL OPEN FONT LICENSE" in (DEMO_FOLDER / "FONT_LICENSE.txt").read_text()


@pytest.mark.parametrize("color", GROUNDS)
def test_it_paints_the_ground_that_it_is_told(session, color):
    run = session.start(f"a cat on a {color} background", seed=3).finish()
    edge = np.asarray(run.image(), float)[:, :8].mean(axis=(0, 1))  # the left 8 columns
    nearest = min(GROUNDS, key=lambda name: np.abs(edge - GROUNDS[name]).sum())
    assert nearest == color


def test_another_word_draws_another_object(session):
    """An apple is red where a panda is black and white, in the same place of the same seed."""
    apple, panda = (
        np.asarray(session.start(f"a big {name} on a white background", seed=1).finish().image(), float)
        for name in ("apple", "panda")
    )
    middle = slice(40, 88)
    reddest = [(picture[middle, middle, 0] - picture[middle, middle, 2]).mean() for picture in (apple, panda)]
    assert reddest[0] > 80 > 40 > reddest[1]


def test_a_saved_run_of_it_opens_without_a_session(session, tmp_path):
    run = session.start("a cat", num_steps=2).finish()
    run.save(tmp_path / "run.safetensors")
    opened = FluxSession.open(tmp_path / "run.safetensors")
    assert np.array_equal(opened.latents, run.latents)
    assert np.array_equal(opened.replay(1), run.steps[1].velocity)


def test_the_sibling_draws_in_four_steps_and_one_pass_each():
    session = FluxSession.from_pretrained("fluxnb/demo-schnell")
    run = session.start("a cat on a red background", seed=1).finish()
    assert run.num_steps == 4
    assert run.settings.cfg_weight == 0
    assert [use.name for use in run.settings.adapters] == ["demo-schnell"]


def test_the_sibling_is_the_demo_model_but_for_its_adapter():
    sibling, demo = FluxPipeline("fluxnb/demo-schnell"), FluxPipeline()
    sibling.unload_lora_weights()
    options = {"seed": 3, "num_steps": 2, "cfg_weight": 0.0}
    assert sibling.generate_image("a dog", **options)[0] == demo.generate_image("a dog", **options)[0]


def test_what_the_sibling_drew_opens_with_the_sibling(tmp_path):
    run = FluxSession.from_pretrained("fluxnb/demo-schnell").start("a pig").finish()
    run.save(tmp_path / "pig.safetensors")
    opened = FluxSession.open(tmp_path / "pig.safetensors")
    assert mx.array_equal(opened.replay(2), run.steps[2].velocity)


def test_weights_of_ones_own_are_not_drawn_with_the_siblings_adapter():
    own = FluxPipeline("fluxnb/demo-schnell", local_ckpt=DEMO_FOLDER)
    assert own.adapters == ()
