"""The evaluation: pictures that are right by making, and wrong ones, get the shares that they should."""

import json
import random

import mlx.core as mx
import numpy as np
import pytest
import stubs
from diffusers import FluxTransformer2DModel

from fluxnb.checkpoints import catalog
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.pipeline import FluxPipeline
from fluxnb.training import costs, drawn, evaluate, exam, figures, judge, prompts, scenes, variety
from fluxnb.training.drawn import Order
from fluxnb.training.exam import Examiner


@pytest.fixture(scope="module")
def model():
    return judge.load()


class Painter:
    """Draws the scene itself whose caption is ordered, or what `instead` makes of it."""

    def __init__(self, made, instead=lambda scene, order: scene):
        """Knows these scenes."""
        self.scenes, self.instead, self.orders = {one.caption: one for one in made}, instead, []

    def __call__(self, orders):
        """Paints."""
        self.orders += orders
        return np.stack([scenes.render(self.instead(self.scenes[one.prompt], one))[0] for one in orders])


def examined(model, made, instead=lambda scene, order: scene):
    painter = Painter(made, instead)
    return Examiner(painter, model).ask(made), painter


def by_name(made):
    return {figure.what: figure for figure in made}


SINGLES, PAIRS, TWINS = prompts.seen(24, 0, 0), prompts.seen(24, 1, 1), prompts.twins(4)


def test_true_pictures_are_right_in_everything(model):
    usual, painter = examined(model, SINGLES + PAIRS)
    made = exam.pictures_of(usual, examined(model, TWINS)[0])
    assert {figure.value for figure in made} == {100} and not any(figure.met is False for figure in made)
    assert len(made) == 10 and [order.seed for order in painter.orders] == list(range(48))
    assert exam.most_missed(usual).endswith(": none.")


def test_pictures_of_other_prompts_are_wrong(model):
    made = SINGLES + PAIRS
    after = dict(zip((one.caption for one in made), made[5:] + made[:5], strict=True))
    usual, _ = examined(model, made, lambda scene, order: after[scene.caption])
    told = by_name(exam.pictures_of(usual, usual))
    for question in ("object", "both", "exact"):
        assert told[exam.QUESTIONS[question]].value < 20
    assert " 1 of 1 (" in exam.most_missed(usual)


def test_turned_pictures_have_objects_right_and_relations_wrong(model):
    painter = Painter(PAIRS)
    made = [scene for scene in PAIRS if scene.relation in ("left", "above")]
    turned = Examiner(lambda orders: painter(orders)[:, ::-1, ::-1].copy(), model).ask(made)
    relations = exam.answers(turned.scenes, turned.verdicts)["relation"]
    assert len(relations) > 5 and np.mean(relations) < 0.2
    told = by_name(exam.by_relation(turned))
    assert set(told) == {"left of, right of", "above, below"}
    assert sum(figure.count for figure in told.values()) == len(relations)
    assert max(figure.value for figure in told.values()) < 40


def test_pairs_are_told_apart_by_what_is_said_of_them(model):
    missing = scenes.make_scene(random.Random(1), name="key")
    blind = examined(model, PAIRS, lambda scene, order: missing if scene.relation == "and" else scene)[0]
    told = {figure.what: figure.value for figure in exam.by_relation(blind)}
    assert told == {"left of, right of": 100, "above, below": 100, "next to": 100, "and": 0}


def test_the_gap_of_held_out_pairs_is_what_they_lack(model):
    seen = [examined(model, made)[0] for made in (SINGLES, PAIRS)]
    hidden = prompts.held_grounds(10), prompts.held_pairs(10)
    other = scenes.make_scene(random.Random(1), name="key")
    blind = [examined(model, made, lambda scene, order: other)[0] for made in hidden]
    sighted = [examined(model, made)[0] for made in hidden]
    for held, gap in ((blind, 100), (sighted, 0)):
        told = by_name(exam.held_out(*seen, *held))
        for what in ("object and ground", "both objects"):
            assert told[f"{what}: shown less held-out"].value == gap
            assert told[f"{what}: shown less held-out"].met is (gap == 0)


def test_ways_are_drawn_with_their_options_and_the_same_seeds(model):
    singles, pairs = SINGLES[:4], PAIRS[:4]
    empty = scenes.Scene("", "red", (), 0.0, says_color=False)
    painter = Painter(singles + pairs, lambda scene, order: empty if order.cfg_weight == 0 else scene)
    examiner = Examiner(painter, model)
    usual = examiner.ask(singles).and_then(examiner.ask(pairs))  # seeds begin anew, as in `measure`
    told = by_name(exam.ways(examiner, usual, catalog.DEMO))
    assert told["right objects, no CFG"].value == 0 and told["right objects, 8 steps"].value == 100
    assert told["right objects, 20 steps, CFG 3 less no CFG"].value == 100
    assert told["50 steps against 20 steps, CFG 3, PSNR"].value == 100  # the same pictures
    assert told["no CFG against 20 steps, CFG 3, PSNR"].value < 30
    options = {(order.num_steps, order.cfg_weight) for order in painter.orders}
    assert options == {(None, None), (50, None), (8, None), (None, 0.0)}
    assert [order.seed for order in painter.orders] == [0, 1, 2, 3] * 8


def test_a_model_without_cfg_is_not_compared_with_itself(model):
    painter = Painter(SINGLES[:2])
    examiner = Examiner(painter, model)
    told = by_name(exam.ways(examiner, examiner.ask(SINGLES[:2]), catalog.DEMO_SCHNELL))
    assert "right objects, 4 steps, CFG 0" in told and not any("no CFG" in what for what in told)


def test_other_sizes_are_ordered_in_latent_cells(model, monkeypatch):
    monkeypatch.setattr(exam, "CANVASES", ((96, 128),))
    made = prompts.seen(3, 0.5, 10, (96, 128))
    painter = Painter(made)
    told = by_name(exam.sizes(Examiner(painter, model), 3, 20))
    assert {order.latent_size for order in painter.orders} == {(16, 12)}
    assert told["right objects, 96 x 128 px"].value == 100
    assert told["the judge on real scenes, 96 x 128 px"].count == 20


def test_pictures_that_hardly_differ_have_little_variety(model, monkeypatch):
    monkeypatch.setattr(variety, "SEEDS", 4)
    pipeline = stubs.pipeline()
    made = prompts.seen(2, 0.5, 6)
    rng = random.Random(0)
    few, many = (
        variety.variety(pipeline, Painter(made, instead), 2)
        for instead in (
            lambda scene, order: scene if order.seed else prompts.alike(random.Random(1), scene),
            lambda scene, order: prompts.alike(rng, scene),
        )
    )
    assert few[0].value < 0.8 * many[0].value and 0.5 < many[0].value < 2
    assert many[1].value < many[0].value  # real scenes of any caption are further apart


def test_the_spread_is_the_mean_distance_of_two_pictures():
    pipeline, rng = stubs.pipeline(), np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    vae = pipeline.networks.vae
    a, b = (np.array(vae.encode(mx.array(x[None] / 127.5 - 1.0)), np.float64) for x in (one, other))
    distance = np.sqrt(np.square((a - b) * vae.config.scale_factor).mean())
    assert variety.spread(pipeline, np.stack([one, other])) == pytest.approx(distance, rel=1e-3)
    assert variety.spread(pipeline, np.stack([one, one, other])) == pytest.approx(2 / 3 * distance, rel=1e-3)


def test_the_autoencoder_is_told_in_decibels_and_by_the_judge(model):
    psnr, seen = variety.autoencoder(stubs.pipeline(), model, 3)
    assert (psnr.unit, psnr.count, psnr.met) == ("dB", 3, False)  # random weights
    assert seen.value < 50


def test_an_order_is_drawn_as_the_pipeline_draws_it():
    pipeline = stubs.pipeline()
    order = Order("a cat", seed=3, num_steps=2, cfg_weight=2.0, latent_size=(4, 6))
    image, _ = pipeline.generate_image("a cat", 2, 2.0, latent_size=(4, 6), seed=3)
    assert np.array_equal(drawn.draw_with(pipeline, order), np.asarray(image))
    other, _ = pipeline.generate_image("a cat", seed=3)
    assert np.array_equal(drawn.draw_with(pipeline, Order("a cat", 3)), np.asarray(other))


def test_workers_draw_in_the_order_of_what_is_asked():
    pipeline = FluxPipeline()
    orders = [Order("a cat", seed, num_steps=1, cfg_weight=0.0, latent_size=(12, 12)) for seed in range(3)]
    with drawn.workers(catalog.DEMO.name, None, 2) as draw:
        pictures = draw(orders)
    assert pictures.shape == (3, 96, 96, 3)
    assert np.array_equal(pictures, [drawn.draw_with(pipeline, order) for order in orders])


def test_the_fastest_pass_counts_and_the_first_time_does_not():
    calls = []
    ours, theirs = costs.fastest([lambda: calls.append("a"), lambda: calls.append("b")], rounds=3)
    assert calls == ["a", "b"] * 4 and ours < 5 and theirs < 5
    assert costs.fastest([lambda: None], rounds=1)[1] is None


def test_costs_count_bytes_and_parameters(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "torch_passes", lambda folder, pipeline, batch: [])
    monkeypatch.setattr(costs, "ROUNDS", 2)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "weights").write_bytes(bytes(26_000_000))
    told = by_name(costs.costs(stubs.pipeline(), tmp_path))
    assert told["folder"].value == 26 and told["folder"].met is False
    assert 0 < told["parameters"].value < 1
    assert {"one pass, the fastest of 2", "both passes of a step with CFG, the fastest of 2"} <= set(told)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_step_with_cfg_is_measured_against_a_batch_of_two(passes, monkeypatch):
    sizes = []
    forward = FluxTransformer2DModel.forward
    monkeypatch.setattr(
        FluxTransformer2DModel,
        "forward",
        lambda self, image, **given: sizes.append(len(image)) or forward(self, image, **given),
    )
    pipeline = FluxPipeline()
    ours = costs.fluxnb_passes(pipeline, passes)
    seen = []
    monkeypatch.setattr(pipeline, "_pass", lambda *args: seen.append(args) or mx.zeros((1, 16, 16, 16)))
    ours()
    for one in costs.torch_passes(DEMO_FOLDER / "transformer", pipeline, passes):
        one()
    assert len(seen) == passes and set(sizes) == {passes}


def test_the_best_maps_stand_beside_their_own_controls():
    found = {"method": "image_to_word", "sigma": 0.5, "average_precision": [0.7, 0.6, 0.8], "controls": {}}
    best = {**found, "average_precision": [0.9, 0.85, 0.95], "controls": {"other_word": [0.2, 0.1, 0.3]}}
    results = {"maps": [{**found, "blocks": "0"}, {**best, "blocks": "double"}], "scored": 12}
    figure, control = evaluate.maps(results)
    assert (figure.value, figure.interval, figure.count, figure.met) == (0.9, (0.85, 0.95), 12, True)
    assert "image to word, blocks double, sigma 0.5" in figure.what
    assert control.what.endswith("other word") and control.value == 0.2


def test_everything_is_measured_and_told_with_goals(model, monkeypatch, capsys):
    """By a painter of true scenes; the stub's autoencoder is the only thing that fails."""
    for module, name, value in ((variety, "SEEDS", 2), (exam, "CANVASES", ((96, 96),))):
        monkeypatch.setattr(module, name, value)
    count = 12
    known = [
        *prompts.seen(6, 0, 0), *prompts.seen(6, 1, 1), *prompts.twins(2), *prompts.held_grounds(4),
        *prompts.held_pairs(4), *prompts.seen(2, 0.5, 6), *prompts.seen(2, 0.5, 10, (96, 96)),
    ]  # fmt: skip
    painter = Painter(known)
    made, missed = evaluate.measure(stubs.pipeline(), painter, model, count, reference=60)
    parts = list(dict.fromkeys(figure.part for figure in made))
    assert parts == [
        "The judge on real scenes", "Autoencoder", "Pictures", "Two objects, by what is said of them",
        "One object, as near to a real scene of its caption", "Held-out pairs",
        "Steps and CFG, the same prompts with the same noise", "Seeds", "Other sizes",
    ]  # fmt: skip
    failed = {figure.part for figure in made if figure.met is False}
    assert failed <= {"Autoencoder", "Seeds"}  # one scene over and over has no variety
    assert missed.endswith("none.")
    shown = capsys.readouterr().out
    assert all(figures.line(figure) in shown for figure in made)


def test_the_command_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "costs", lambda pipeline, folder: [figures.share("A", "b", [True])])
    monkeypatch.setattr("sys.argv", ["evaluate", "--only", "costs", "--table", str(tmp_path / "t.json")])
    evaluate.main()
    assert json.loads((tmp_path / "t.json").read_text())["figures"][0]["what"] == "b"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([], "--checkpoint FOLDER, or --only pictures"),
        (["--only", "maps"], "--checkpoint FOLDER, or --only pictures"),
        (["--only", "costs"], "--checkpoint FOLDER, or --only pictures"),
        (["--only", "maps", "--checkpoint", "folder"], "--to FILE"),  # not into the demo's own figures
    ],
)
def test_what_would_be_measured_of_another_model_is_refused(arguments, advice, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate", "--model", "fluxnb/demo-schnell", *arguments])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert advice in capsys.readouterr().err
