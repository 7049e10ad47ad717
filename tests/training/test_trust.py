"""The measuring of maps: on toy networks, at a few scenes."""

import json
import random

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb import concepts
from fluxnb.asked import tokens
from fluxnb.interventions import cut
from fluxnb.model.layers import attention
from fluxnb.pipeline import FluxPipeline
from fluxnb.training import scenes, subjects, tables, trust

COUNT, SIGMAS = 4, (0.8, 0.2)


@pytest.fixture(scope="module", autouse=True)
def captions_without_commas():
    """To the stub's tokenizer, which splits at blanks, a comma is a part of the word before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "GROUNDS", [words for words in scenes.GROUNDS if "," not in words])
        yield


@pytest.fixture(scope="module")
def pipeline():
    return stubs.pipeline()


@pytest.fixture(scope="module")
def made(pipeline):
    return list(subjects.subjects(pipeline, 12))


@pytest.fixture(scope="module")
def results(pipeline):
    return trust.measure(pipeline, COUNT, SIGMAS)


def test_subjects_are_the_same_every_time_and_of_both_kinds(pipeline, made):
    again = list(subjects.subjects(pipeline, 3))
    assert [one.text.text for one in again] == [one.text.text for one in made[:3]]
    assert mx.array_equal(again[2].latents, made[2].latents)
    assert {len(one.shares) for one in made} == {1, 2}


def test_subjects_name_each_object_by_a_word_of_its_own(pipeline):
    for one in subjects.subjects(pipeline, 40):
        assert set(one.shares) <= set(one.text.text.split())


def test_the_absent_word_is_in_its_caption_and_not_in_the_scene(made):
    for one in made:
        first, words = next(iter(one.shares)), one.absent_text.text.replace(",", " ").split()
        assert one.absent in words and first not in words and one.absent not in one.shares
        other = one.text.text.replace(",", " ").split()
        same = [word for word in words if word not in (one.absent, "a", "an")]
        assert same == [word for word in other if word not in (first, "a", "an")]
        assert scenes.article(one.absent) in one.absent_text.text or f" {one.absent}" in one.absent_text.text


def test_the_latents_are_those_of_the_picture():
    demo = FluxPipeline()
    subject = next(iter(subjects.subjects(demo, 1)))
    picture, masks = scenes.render(scenes.make_scene(random.Random(subjects.SEED), subjects.PAIRS))
    decoded = np.asarray(demo.decode(subject.latents), float)
    assert np.abs(decoded - picture).mean() < 12  # of 255
    assert {name: shares.shape for name, shares in subject.shares.items()} == dict.fromkeys(masks, (8, 8))


@pytest.fixture(scope="module")
def run():
    return stubs.session().start("a cat and a sunflower").finish()


def look(run, step):
    pipeline, record = run.session.pipeline, run.steps[step]
    words = {word: concepts.encode(pipeline.networks, word) for word in ("sunflower", "background")}
    return trust.look(pipeline.networks.mmdit, record.latents, record.sigma, run.text, words)


@pytest.mark.parametrize("direction", ["word_to_image", "image_to_word"])
def test_a_method_gives_the_maps_of_run_attention(run, direction):
    by_block = trust.METHODS[direction](look(run, 1), "sunflower")
    for blocks in (0, 3, "single"):
        heard = run.attention(1, "sunflower", blocks, direction=direction)
        assert by_block[list(heard.blocks)].mean(axis=0) == pytest.approx(heard.weights.ravel(), abs=1e-6)


def test_concepts_are_the_maps_of_run_concepts(run):
    by_block = trust.METHODS["concepts"](look(run, 1), "sunflower")
    for blocks in (0, 1, "double"):
        made = run.concepts(["sunflower", "background"], 1, blocks)
        expected = by_block[list(made.blocks)].mean(axis=0)
        assert expected == pytest.approx(made["sunflower"].ravel(), abs=1e-5)


def test_text_only_columns_are_shares_among_the_text(run):
    seen = look(run, 1)
    q, k = (np.array(x, np.float64)[0] for x in heard(run, 1)[0])
    scores = np.exp(q[:, stubs.LENGTH :] @ k[:, : stubs.LENGTH].swapaxes(1, 2) / np.sqrt(q.shape[-1]))
    expected = (scores / scores.sum(-1, keepdims=True)).mean(0)[:, [4, 5]].sum(1)
    assert trust.columns_of_text_only(seen, "sunflower")[0] == pytest.approx(expected, abs=1e-6)


def heard(run, step):
    """q and k of every block."""
    kept = []

    def attend(q, k, v, layer):
        kept.append((q, k))
        return attention(q, k, v, layer)

    run.replay(step, attend)
    return kept


def test_results_have_every_method_group_and_sigma_with_intervals(results):
    kinds = {(one["method"], one["blocks"], one["sigma"]) for one in results["maps"]}
    groups = ("0", "1", "2", "3", "double", "single", "all")
    assert kinds >= {(m, g, s) for m in ("word_to_image", "image_to_word") for g in groups for s in SIGMAS}
    assert kinds >= {("concepts", g, s) for g in ("0", "1", "double", "later") for s in SIGMAS}
    for one in results["maps"]:
        value, low, high = one["average_precision"]
        assert 0 <= low <= value <= high <= 1
    assert (results["scenes"], results["model"]) == (COUNT, "stub")
    assert results["objects"] >= results["scored"] >= COUNT - 1
    assert results == json.loads(json.dumps(results))


def test_random_networks_are_like_each_other_and_like_noise(results):
    """A stub is an untrained network: its maps score as those of the control, near what noise gets."""
    own = np.mean([one["average_precision"][0] for one in results["maps"]])
    control = np.mean([one["controls"]["untrained"][0] for one in results["maps"]])
    assert abs(own - control) < 0.2 and abs(own - results["noise"][0]) < 0.3


def test_a_cut_is_measured_by_its_own_definition(pipeline, made):
    subject, network = next(one for one in made if len(one.shares) == 1), pipeline.networks.mmdit
    (name, shares), text = next(iter(subject.shares.items())), subject.text
    seen = trust.look_at(network, network, subject, subject.latents, 0.5)[""]
    told = next(trust.causes(network, subject, seen, subject.latents, 0.5))
    figures = dict(zip(trust.CAUSES, told, strict=True))
    attend, _ = cut(name).at(0, tokens(text, subject.latents.shape[1:3]), network.config)
    plain, changed = (
        np.array(pipeline.velocity(subject.latents, 0.5, text, **options), np.float64)[0]
        for options in ({}, {"attend": attend})
    )
    change = ((changed - plain) ** 2).reshape(8, 2, 8, 2, -1).sum(axis=(1, 3, 4))
    inside, outside = (np.average(change, weights=weights) for weights in (shares, 1 - shares))
    assert figures["inside_over_outside"] == pytest.approx(inside / outside, rel=1e-3)
    assert np.isnan(figures["other_word"]) and -1 <= figures["rank_with_rows"] <= 1


def test_the_tables_tell_figures_with_intervals(results):
    text = tables.tables(results)
    value = results["maps"][0]["average_precision"]
    assert "{:.2f} ({:.2f} to {:.2f})".format(*value) in text
    for title in ("Average precision", "All scores at sigma", "Controls", "Cuts"):
        assert title in text
