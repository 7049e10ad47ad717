import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import stubs
from mlx.utils import tree_flatten
from PIL import Image

from fluxnb.checkpoints.adapters import combine
from fluxnb.errors import InputError
from fluxnb.model.lora import LowRank, changed
from fluxnb.training import finetune as module
from fluxnb.training import sprites
from fluxnb.training.finetune import finetune, measure

PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)) for i in (0, 1)]
CAPTIONS = ["a red thing", "a thing on the left"]
SHORT = {"rank": 2, "steps": 4, "batch": 2}


def layers_of(pipeline, up=0.0):
    """Matrices as training begins with them, with some of `up`, as they are later on."""
    layers = module._first(pipeline.networks.configs.mmdit, 2, np.random.default_rng(0))
    for i, one in enumerate(layers.values()):
        one["up"] = one["up"] + up * mx.random.normal(one["up"].shape, key=mx.random.key(i))
    return layers


@pytest.mark.parametrize("guidance", [False, True])
def test_the_slope_is_that_of_finite_differences(guidance):
    pipeline = stubs.pipeline(guidance=guidance)
    networks, layers = pipeline.networks, layers_of(pipeline, up=0.1)
    x = mx.random.normal((2, 8, 8, 16), key=mx.random.key(0))
    texts = [pipeline.encode_text(caption) for caption in CAPTIONS]

    def loss(layers):
        parts = [({name: LowRank(**one) for name, one in layers.items()}, 1.0)]
        network = changed(networks.mmdit, combine(networks.configs.mmdit, parts))
        said = module._velocity(
            network, x, mx.array([0.3, 0.8]), texts, pipeline.entry.guidance, networks.dtype
        )
        return mx.mean(said**2)

    slope = mx.grad(loss)(layers)
    for side in ("down", "up"):
        ways = {name: one[side] for name, one in slope.items()}
        steepness = mx.sqrt(sum((way**2).sum() for way in ways.values())).item()

        def at(step, side=side, ways=ways, steepness=steepness):
            moved = {name: layers[name][side] + step / steepness * way for name, way in ways.items()}
            return loss({name: {**one, side: moved[name]} for name, one in layers.items()}).item()

        assert steepness > 0.01
        assert (at(0.01) - at(-0.01)) / 0.02 == pytest.approx(steepness, rel=0.01)


def test_training_lowers_the_loss_on_what_is_shown():
    pipeline = stubs.pipeline()
    before = measure(pipeline, PICTURES, CAPTIONS)
    adapter = finetune(pipeline, PICTURES, CAPTIONS, rank=4, steps=60, batch=4, learning_rate=1e-2)
    assert len(adapter.losses) == 60
    pipeline.load_lora_weights(adapter)
    assert measure(pipeline, PICTURES, CAPTIONS) < 0.9 * before


def test_what_is_kept_changes_less():
    pipeline = stubs.pipeline()
    kept, drift = ["a blue cat", "a dog"], []
    arguments = {"rank": 4, "steps": 60, "batch": 4, "learning_rate": 1e-2}
    network = pipeline.networks
    moments = module._drawn(pipeline, [pipeline.encode_text(text) for text in kept], 0, 2)
    for keep in ([], kept):
        adapter = finetune(pipeline, PICTURES, CAPTIONS, keep=keep, **arguments)
        pipeline.load_lora_weights(adapter)
        there = moments.latents, moments.sigmas, moments.texts
        said = module._velocity(pipeline.transformer(), *there, None, network.dtype)
        drift.append(mx.mean((said - moments.velocity) ** 2).item())
        pipeline.unload_lora_weights()
    assert drift[1] < 0.7 * drift[0]


def test_the_same_seed_teaches_the_same_bits_and_another_others():
    pipeline = stubs.pipeline()
    digests = [
        finetune(pipeline, PICTURES, CAPTIONS, keep=["a cat"], seed=seed, **SHORT).digest()
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_pipeline_that_draws_with_an_adapter_is_not_taught_another():
    pipeline = stubs.pipeline()
    pipeline.load_lora_weights(finetune(pipeline, PICTURES, CAPTIONS, name="first", **SHORT))
    with pytest.raises(InputError, match=r"the adapter 'first', .* unload_lora_weights\(\) first"):
        finetune(pipeline, PICTURES, CAPTIONS, **SHORT)
    pipeline.set_adapters("first", 0)  # draws as if it were not there
    finetune(pipeline, PICTURES, CAPTIONS, **SHORT)


def test_the_pipeline_is_left_as_it_was():
    pipeline = stubs.pipeline()
    before = dict(tree_flatten(pipeline.networks.mmdit.parameters()))
    finetune(pipeline, PICTURES, CAPTIONS, **SHORT)
    after = dict(tree_flatten(pipeline.networks.mmdit.parameters()))
    assert pipeline.adapters == ()
    assert all(after[name] is array for name, array in before.items())


def test_an_interrupt_leaves_what_was_learnt():
    def stop(step):
        if step.index == 1:
            raise KeyboardInterrupt

    adapter = finetune(stubs.pipeline(), PICTURES, CAPTIONS, on_step=stop, **SHORT)
    assert len(adapter.losses) == 2
    assert any(mx.abs(one.up).max() > 0 for one in adapter.layers.values())


def test_every_step_is_told():
    told = []
    adapter = finetune(stubs.pipeline(), PICTURES, CAPTIONS, on_step=told.append, **SHORT)
    assert [step.index for step in told] == [0, 1, 2, 3]
    assert tuple(step.loss for step in told) == adapter.losses


def test_what_was_learnt_draws_the_same_from_its_file(tmp_path):
    adapter = finetune(stubs.pipeline(), PICTURES, CAPTIONS, **SHORT | {"learning_rate": 0.1})
    drawn = []
    for source in (adapter, adapter.save(tmp_path / "thing.safetensors")):
        pipeline = stubs.pipeline()
        pipeline.load_lora_weights(source)
        drawn.append(pipeline.generate_image("a thing")[0])
    assert drawn[0] == drawn[1] != stubs.pipeline().generate_image("a thing")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": ["one"]}, "2 pictures and 1 captions"),
        ({"pictures": [], "captions": []}, "0 pictures"),
        ({"captions": [1, 2]}, "captions holds 1"),
        ({"rank": 0}, "rank is 0"),
        ({"batch": 1, "keep": ["a cat"]}, "batch is 1"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"pictures": ["nowhere.png", "nowhere.png"]}, "no picture nowhere.png"),
    ],
)
def test_what_cannot_be_taught_is_one_error(arguments, message):
    with pytest.raises(InputError, match=message):
        finetune(stubs.pipeline(), **{"pictures": PICTURES, "captions": CAPTIONS} | SHORT | arguments)


def test_a_sprite_comes_on_grounds_with_true_captions():
    sprite = Image.new("RGBA", (50, 40))
    sprite.paste((200, 0, 200, 255), (10, 5, 40, 25))
    pictures, captions = sprites.on_grounds(sprite, "dragon", count=20, seed=1)
    assert len(pictures) == len(captions) == 20
    for picture, caption in zip(pictures, captions, strict=True):
        assert "dragon" in caption and picture.size == (128, 128)
        shown = (np.asarray(picture) == (200, 0, 200)).all(axis=-1)
        columns, rows = shown.any(axis=0).sum(), shown.any(axis=1).sum()
        side = 48 if {"small", "little", "tiny"} & set(caption.replace(",", "").split()) else 64
        assert columns == pytest.approx(side, abs=2) or (columns > 64 and side == 64)
        assert 1.3 < columns / rows < 1.7  # the ratio of what is cut out


def test_sprites_need_no_font_and_nothing_of_torch():
    code = (
        "import os; os.environ['FLUXNB_EMOJI_FONT'] = 'nowhere'\n"
        "import sys\n"
        "from fluxnb.training import finetune, scenes, sprites\n"
        "scenes.FONT_PLACES = ()\n"
        "from PIL import Image\n"
        "sprites.on_grounds(Image.new('RGBA', (8, 8), 'red'), 'dragon', 2)\n"
        "assert sprites.others(4)[-1] == ''\n"
        "assert not {'torch', 'diffusers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_sprite_is_one_error():
    with pytest.raises(InputError, match="transparent all over"):
        sprites.on_grounds(Image.new("RGBA", (8, 8)), "dragon")


def test_the_command_refuses_a_model_with_an_adapter_of_its_own(tmp_path, monkeypatch, capsys):
    PICTURES[0].save(tmp_path / "sprite.png")
    given = ["--sprite", str(tmp_path / "sprite.png"), "--word", "dragon", "--count", "2"]
    given += ["--to", str(tmp_path), "--model-version", "fluxnb/demo-schnell"]
    monkeypatch.setattr(sys, "argv", ["finetune", *given])
    with pytest.raises(SystemExit):
        module.main()
    assert "fluxnb/demo-schnell is another model with an adapter" in capsys.readouterr().err


def test_the_command_teaches_from_a_folder_and_from_a_sprite(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "FluxPipeline", lambda name: stubs.pipeline())
    monkeypatch.setattr(sprites, "others", lambda count: ["a cat", ""])  # fewer
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, (picture, caption) in enumerate(zip(PICTURES, CAPTIONS, strict=True)):
        picture.save(folder / f"thing-{i}.png")
        (folder / f"thing-{i}.txt").write_text(caption + "\n")
    PICTURES[0].save(tmp_path / "sprite.png")
    short = ["--steps", "1", "--batch", "2", "--rank", "1"]
    for shown in (
        ["--pictures", str(folder)],
        ["--sprite", str(tmp_path / "sprite.png"), "--word", "dragon", "--count", "4"],
    ):
        monkeypatch.setattr(sys, "argv", ["finetune", *shown, "--to", str(tmp_path / "out"), *short])
        module.main()
        file = tmp_path / "out" / "pytorch_lora_weights.safetensors"
        assert capsys.readouterr().out.splitlines()[-1] == str(file)
        stubs.pipeline().load_lora_weights(file)


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    words = ["finetune", "--pictures", str(tmp_path / "nowhere"), "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        module.main()
    assert "there is no folder" in capsys.readouterr().err
