"""A pipeline, its runs and its pictures with adapters."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import stubs
import tiny_checkpoint
from test_adapters import adapter

from fluxnb import FluxPipeline, FluxSession, recipe, saved, settings
from fluxnb.checkpoints.adapters import Adapter, places
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.lora import LowRank

PROMPT = "a cat"


@pytest.fixture
def pipeline():
    return stubs.pipeline()


def draw(pipeline, **arguments):
    return pipeline.generate_image(PROMPT, num_steps=2, **arguments)[0]


def test_an_adapter_changes_the_picture_and_unloading_it_restores_every_bit(pipeline, tmp_path):
    before = draw(pipeline)
    pipeline.load_lora_weights(adapter().save(tmp_path))
    assert draw(pipeline) != before
    pipeline.unload_lora_weights()
    assert draw(pipeline) == before
    assert pipeline.adapters == ()


def test_the_strength_can_be_set_anew(pipeline):
    before, text = draw(pipeline), pipeline.encode_text(PROMPT)
    pipeline.load_lora_weights(adapter(), adapter_name="one", scale=0.5)
    pipeline.load_lora_weights(adapter(), adapter_name="two", scale=0.5)
    x = mx.random.normal((1, 8, 8, 16), key=mx.random.key(0))
    halves = np.array(pipeline.velocity(x, 0.5, text))
    pipeline.set_adapters("two")
    whole = np.array(pipeline.velocity(x, 0.5, text))
    np.testing.assert_allclose(halves, whole, atol=1e-4 * np.abs(whole).max())
    pipeline.set_adapters(["one", "two"], [1, -1])
    assert np.abs(np.array(draw(pipeline), int) - np.array(before, int)).max() <= 1
    pipeline.set_adapters(["one", "two"], 0)
    assert draw(pipeline) == before


def test_a_run_keeps_the_adapters_that_it_began_with(pipeline):
    session = FluxSession(pipeline)
    pipeline.load_lora_weights(adapter())
    run = session.start(PROMPT, num_steps=4)
    run.advance()
    pipeline.set_adapters("thing", 0.1)
    run.finish()
    assert mx.array_equal(run.replay(3), run.steps[3].velocity)
    fork = run.fork(at=2).finish()
    assert mx.array_equal(fork.latents, run.latents)
    other = session.start(PROMPT, num_steps=4).finish()
    assert not mx.array_equal(other.latents, run.latents)
    run.attention(step=3, word="cat")
    run.concepts(["cat", "dog"], step=3)


def test_maps_with_an_adapter_carry_no_figure_of_trust():
    session = FluxSession.from_pretrained()
    run = session.start(PROMPT, num_steps=1).finish()
    assert run.attention(step=0, word="cat", direction="image_to_word").trust is not None
    session.pipeline.load_lora_weights(demo_adapter(session.pipeline))
    run = session.start(PROMPT, num_steps=1).finish()
    assert run.attention(step=0, word="cat", direction="image_to_word").trust is None


def demo_adapter(pipeline):
    """An adapter that changes one matrix."""
    place = next(
        one for one in places(pipeline.networks.configs.mmdit) if one.layer == "single_blocks.0.linear2"
    )
    change = LowRank(mx.ones((1, place.columns)), mx.full((place.rows[0], 1), 1e-3))
    return Adapter("thing", {place.sources[0]: change})


def test_a_run_whose_adapter_is_gone_says_so(pipeline):
    pipeline.load_lora_weights(adapter())
    run = FluxSession(pipeline).start(PROMPT).finish()
    pipeline.unload_lora_weights()
    with pytest.raises(InputError, match=r"adapter 'thing' .*load_lora_weights"):
        run.replay(0)
    assert run.image()


def test_recipes_and_saved_runs_name_adapters(pipeline, tmp_path):
    session = FluxSession(pipeline)
    pipeline.load_lora_weights(adapter(), scale=0.5)
    run = session.start(PROMPT, num_steps=2).finish()
    run.save(tmp_path / "run.safetensors")
    assert saved.read(tmp_path / "run.safetensors").settings == run.settings
    opened = session.open(tmp_path / "run.safetensors")
    assert mx.array_equal(opened.replay(1), run.steps[1].velocity)
    told = recipe.from_text(recipe.to_text(pipeline.generate_image(PROMPT, num_steps=2)[1]["recipe"]))
    assert [(use.name, use.scale) for use in told.settings.adapters] == [("thing", 0.5)]
    assert told.settings.adapters[0].digest == adapter().digest()


def test_settings_without_adapters_are_written_as_before(pipeline):
    plain = settings.fill_in(pipeline.entry, PROMPT)
    assert "adapters" not in settings.to_tree(plain)
    assert settings.from_tree(settings.to_tree(plain)) == plain


@pytest.mark.parametrize(
    "use", [{}, {"name": "a", "digest": "x", "scale": 1}, {"name": "\n", "digest": "a" * 64, "scale": 1}]
)
def test_adapters_of_a_damaged_recipe_are_one_error(pipeline, use):
    tree = settings.to_tree(settings.fill_in(pipeline.entry, PROMPT)) | {"adapters": [use]}
    with pytest.raises((InputError, TypeError)):
        settings.from_tree(tree)


def test_with_little_memory_it_draws_the_same(tmp_path):
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    drawn = []
    for low in (False, True):
        pipeline = FluxPipeline(local_ckpt=str(folder), low_memory_mode=low)
        pipeline.load_lora_weights(random_adapter(pipeline.networks.configs.mmdit))
        drawn.append(np.array(pipeline.generate_image(PROMPT, num_steps=2, latent_size=(8, 8))[0], int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


@pytest.mark.parametrize("options", [{"quantize": 4}, {"w16": True}])
def test_weights_of_few_bits_take_adapters(options, tmp_path):
    pipeline = FluxPipeline(**options)
    pipeline.load_lora_weights(random_adapter(pipeline.networks.configs.mmdit))
    text, x = pipeline.encode_text(PROMPT), mx.random.normal((1, 8, 8, 16), key=mx.random.key(0))
    found, base = (np.array(pipeline.velocity(x, 0.5, text, adapters=one)) for one in (None, ()))
    assert np.abs(found - base).max() > 0.01


def random_adapter(config):
    """An adapter of all matrices."""
    rng, layers = np.random.default_rng(0), {}
    for place in places(config):
        for name, rows in zip(place.sources, place.rows, strict=True):
            down = rng.standard_normal((2, place.columns)) / place.columns**0.5
            layers[name] = LowRank(
                mx.array(down, mx.float32), mx.array(0.1 * rng.standard_normal((rows, 2)), mx.float32)
            )
    return Adapter("thing", layers)


def test_a_model_is_not_saved_with_an_adapter_in_use(pipeline, tmp_path):
    pipeline.load_lora_weights(adapter())
    with pytest.raises(InputError, match="unload_lora_weights"):
        pipeline.save(tmp_path / "model")


def test_another_adapter_of_the_same_name_gets_a_number_and_the_same_one_is_refused(pipeline):
    layers = adapter().layers
    pipeline.load_lora_weights(adapter())
    for scale in (2, 3):
        other = {name: replace(one, up=scale * one.up) for name, one in layers.items()}
        pipeline.load_lora_weights(Adapter("thing", other))
        with pytest.raises(InputError, match=f"'thing-{scale}' is loaded already"):
            pipeline.load_lora_weights(Adapter("thing", other))
    assert [use.name for use in pipeline.adapters] == ["thing", "thing-2", "thing-3"]


def test_wrong_arguments_are_one_error_each(pipeline):
    pipeline.load_lora_weights(adapter())
    with pytest.raises(InputError, match="'thing' is loaded already"):
        pipeline.load_lora_weights(adapter())
    with pytest.raises(InputError, match="no adapter 'other' is loaded, 'thing'"):
        pipeline.set_adapters("other")
    with pytest.raises(InputError, match="1 adapters have 2 weights"):
        pipeline.set_adapters("thing", [1, 2])
    with pytest.raises(InputError, match="scale is nan"):
        pipeline.load_lora_weights(adapter(name="b"), scale=float("nan"))
    layers = adapter().layers
    wrong = {name: replace(one, down=one.down[:, :1]) for name, one in layers.items()}
    with pytest.raises(CheckpointError, match="made for another model"):
        pipeline.load_lora_weights(Adapter("wrong", wrong))
    assert [use.name for use in pipeline.adapters] == ["thing"]


def test_workers_of_a_sweep_load_no_adapters():
    from concurrent.futures import ThreadPoolExecutor

    session = FluxSession.from_pretrained()
    session.pipeline.load_lora_weights(demo_adapter(session.pipeline))
    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match="workers load no adapters"):
        session.sweep(PROMPT, executor=pool)
