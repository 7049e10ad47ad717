"""What runs answer, against an explicit softmax over all keys in float64."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb.asked import tokens
from fluxnb.errors import InputError
from fluxnb.interventions import cut, cut_block
from fluxnb.model.layers import attention
from fluxnb.model.tokenizers import Word
from fluxnb.probe import Probe

PROMPT = "a sunflower and a skyscraper"  # a | sunfl ower | and | a | skysc raper
TOKENS = {"sunflower": (1, 2), "and": (3,), "skyscraper": (5, 6), "a": (0, 4)}
TEXT, END = stubs.LENGTH, 7
BLOCKS = {"double": (0, 1), "single": (2, 3), "all": (0, 1, 2, 3), 2: (2,), (0, 3): (0, 3)}


class Recorder:
    """Keeps every q and k, and what is added to the scores, and mixes as ever."""

    def __init__(self, attend=attention):
        self.attend = attend
        self.kept = {}

    def __call__(self, q, k, v, layer):
        scores = getattr(self.attend, "scores", lambda layer, length: None)(layer, k.shape[2])
        self.kept[layer] = q, k, scores
        return self.attend(q, k, v, layer)

    def softmax(self, block):
        """(heads, L, L), float64: explicit, over all keys."""
        *qk, added = self.kept[block]
        q, k = (np.array(x, np.float64)[0] for x in qk)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        if added is not None:
            scores = scores + added[(np.arange(len(q[0])) >= TEXT).astype(int)]
        scores = np.exp(scores)
        return scores / scores.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def run():
    return stubs.session().start(PROMPT, num_steps=2, latent_size=(8, 12)).finish()


@pytest.fixture(scope="module")
def explicit(run):
    """Attention of step 1: blocks -> (heads, L, L)."""
    recorder = Recorder()
    run.replay(1, attend=recorder)
    return {block: recorder.softmax(block) for block in range(4)}


def mean_of(explicit, blocks, heads):
    mean = np.mean([explicit[block] for block in blocks], axis=0)
    return mean.mean(0) if heads == "mean" else mean[heads]


def groups(word):
    """The five kinds of keys, as sets of positions."""
    words = set(range(END)) - set(TOKENS[word])
    return TOKENS[word], sorted(words), [END], range(END + 1, TEXT), range(TEXT, TEXT + 24)


@pytest.mark.parametrize("word", TOKENS)
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("heads", ["mean", 1])
def test_a_word_row_is_the_mean_of_its_tokens_rows_of_the_softmax_over_all_keys(
    run, explicit, word, blocks, heads
):
    row = mean_of(explicit, BLOCKS[blocks], heads)[list(TOKENS[word])].mean(0)
    heard = run.attention(1, word, blocks, heads, direction="word_to_image")
    assert heard.weights.shape == (4, 6) and heard.weights.dtype == np.float32
    assert np.abs(heard.weights.ravel() - row[TEXT:]).max() < 1e-5
    mass = [heard.mass.word, heard.mass.other_words, heard.mass.end, heard.mass.pad, heard.mass.image]
    assert mass == pytest.approx([row[list(group)].sum() for group in groups(word)], abs=1e-5)


@pytest.mark.parametrize("word", TOKENS)
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("heads", ["mean", 0])
def test_a_word_column_is_the_sum_of_its_tokens_columns(run, explicit, word, blocks, heads):
    rows = mean_of(explicit, BLOCKS[blocks], heads)[TEXT:]
    heard = run.attention(1, word, blocks, heads, direction="image_to_word")
    assert np.abs(heard.weights.ravel() - rows[:, list(TOKENS[word])].sum(1)).max() < 1e-5
    mass = [heard.mass.word, heard.mass.other_words, heard.mass.end, heard.mass.pad, heard.mass.image]
    assert mass == pytest.approx([rows[:, list(group)].sum(1).mean() for group in groups(word)], abs=1e-5)


@pytest.mark.parametrize("direction", ["word_to_image", "image_to_word"])
def test_mass_sums_to_one_and_agrees_with_the_map(run, direction):
    heard = run.attention(0, "sunflower", direction=direction)
    mass = heard.mass
    assert mass.word + mass.other_words + mass.end + mass.pad + mass.image == pytest.approx(1, abs=1e-6)
    if direction == "word_to_image":
        assert heard.weights.sum() == pytest.approx(mass.image, abs=1e-6)
    else:
        assert heard.weights.mean() == pytest.approx(mass.word, abs=1e-6)


def test_a_map_says_what_it_is_of(run):
    heard = run.attention(-1, " SUNFLOWER ", blocks=[3, 0, 3], heads=1)
    told = (heard.word, heard.step, heard.blocks, heard.heads, heard.direction)
    assert told == ("sunflower", 1, (0, 3), 1, "image_to_word")


def test_a_map_is_frozen(run):
    heard = run.attention(0, "and")
    with pytest.raises(AttributeError):
        heard.step = 1
    with pytest.raises(ValueError, match="read-only"):
        heard.weights[0, 0] = 1


def test_one_of_two_equal_words_can_be_asked_for(run, explicit):
    second = [word for word in run.words if word.text == "a"][1]
    heard = run.attention(1, second, 0, 0, "rows")
    assert np.abs(heard.weights.ravel() - explicit[0][0][4, TEXT:]).max() < 1e-5


def test_cfg_is_listened_to_in_the_pass_with_the_prompt():
    plain = stubs.session().start(PROMPT, num_steps=1).finish()
    guided = stubs.session().start(PROMPT, num_steps=1, cfg_weight=3.0, negative_text="fog").finish()
    assert np.array_equal(plain.attention(0, "and").weights, guided.attention(0, "and").weights)


def test_a_ledger_of_a_fork_without_a_word_of_the_first_prompt_leaves_its_row_empty():
    run = stubs.session().start("a cat", num_steps=2).finish()
    fork = run.fork(1, prompt="a dog").finish()
    ledger = fork.ledger(heads="mean")
    cat = ledger.queries.index("cat")
    assert np.isnan(ledger.shares[1, ..., cat, :]).all() and (ledger.shares[1, ..., :1, cat] == 0).all()
    assert np.isfinite(ledger.shares[0, ..., cat, :]).all()
    with pytest.raises(InputError, match="no word 'cat'"):
        fork.ledger("cat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"word": "cat"}, "no word 'cat'; its words are 'a', 'sunflower', 'and', 'a', 'skyscraper'"),
        ({"word": "sun"}, "no word 'sun'"),
        ({"word": ""}, "no word ''"),
        ({"word": 40}, r"the token is 40; give an integer in 0\.\.39"),
        ({"word": (4, 0)}, r"the patch's row is 4; give an integer in 0\.\.3"),
        ({"word": np.ones((6, 4), bool)}, r"give booleans of shape \(4, 6\)"),
        ({"word": Word("and", (9,))}, "no word 'and'"),
        ({"step": 2}, r"step is 2; give an integer in -1\.\.1"),
        ({"step": (0, 2)}, r"step is 2; give an integer in -1\.\.1"),
        ({"step": "last"}, r"step is 'last', which is none; give an integer in 0\.\.1 or 'all'"),
        ({"step": 0.0}, "step is 0.0"),
        ({"blocks": "triple"}, "blocks is 'triple'; give one of 'all', 'double', 'single'"),
        ({"blocks": 4}, r"block is 4; give an integer in 0\.\.3"),
        ({"blocks": (0, -1)}, r"block is -1; give an integer in 0\.\.3"),
        ({"blocks": ()}, "2 double and 2 single"),
        ({"blocks": None}, "block is None"),
        ({"heads": 2}, r"heads is 2; give 'mean', 'each' or an integer in 0\.\.1"),
        ({"heads": "max"}, "heads is 'max'; give 'mean', 'each' or an integer"),
        ({"direction": "up"}, "direction is 'up'; give one of 'word_to_image', 'image_to_word'"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_exists(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run.attention(**{"step": 0, "word": "and", **arguments})


def test_an_empty_prompt_has_no_word_to_ask_for():
    with pytest.warns(match="prompt is empty"):
        run = stubs.session().start("", num_steps=1).finish()
    with pytest.raises(InputError, match="no word 'cat'; it has no words at all"):
        run.attention(0, "cat")
    with pytest.raises(InputError, match="there are no words: the prompt takes 0 of 16 text tokens"):
        run.attention(0, "words")


H, W = 4, 6
IMAGE = range(TEXT, TEXT + H * W)
MASK = np.zeros((H, W), bool)
MASK[1:3, 2] = True
SUBJECTS = {  # what is asked for -> its tokens
    "PAD": range(END + 1, TEXT),
    "end": [END],
    "words": range(END),
    "image": IMAGE,
    (2, 5): [TEXT + 17],
    9: [9],
    "mask": [TEXT + 8, TEXT + 14],
    ("and", "skyscraper"): [3, 5, 6],
}


def asked(subject):
    return {"mask": MASK, ("and", "skyscraper"): ["and", "skyscraper"]}.get(subject, subject)


def kinds_without(positions):
    """Words, end, PAD and image, each without the subject."""
    groups = (range(END), [END], range(END + 1, TEXT), IMAGE)
    return [[position for position in group if position not in positions] for group in groups]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("heads", ["mean", "each", 1])
def test_anything_looks_at_what_the_mean_of_its_rows_says(run, explicit, subject, heads):
    positions = list(SUBJECTS[subject])
    heard = run.attention(1, asked(subject), "all", heads, "rows")
    row = np.mean([explicit[block] for block in range(4)], axis=0)[:, positions].mean(1)  # (heads, L)
    row = {"mean": row.mean(0), "each": row, 1: row[1]}[heads]
    assert heard.shape == ((2, H, W) if heads == "each" else (H, W))
    assert np.abs(heard.weights.reshape(row[..., TEXT:].shape) - row[..., TEXT:]).max() < 1e-5
    words = [row[..., list(word.tokens)].sum(-1) for word in run.words]
    assert np.abs(heard.text - np.stack(words, -1)).max() < 1e-5
    row = row.mean(0) if heads == "each" else row
    groups = [positions, *kinds_without(positions)]
    assert astuple(heard.mass) == pytest.approx([row[list(group)].sum() for group in groups], abs=1e-5)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("heads", ["mean", "each", 1])
def test_anything_is_looked_at_as_the_sum_of_its_columns_says(run, explicit, subject, heads):
    positions = list(SUBJECTS[subject])
    heard = run.attention(1, asked(subject), (1, 3), heads, "columns")
    full = np.mean([explicit[1], explicit[3]], axis=0)  # (heads, L, L)
    full = {"mean": full.mean(0), "each": full, 1: full[1]}[heads]
    column = full[..., positions].sum(-1)  # (..., L)
    assert np.abs(heard.weights.reshape(column[..., TEXT:].shape) - column[..., TEXT:]).max() < 1e-5
    words = [column[..., list(word.tokens)].mean(-1) for word in run.words]
    assert np.abs(heard.text - np.stack(words, -1)).max() < 1e-5
    image = (full.mean(0) if heads == "each" else full)[TEXT:].mean(0)
    groups = [positions, *kinds_without(positions)]
    assert astuple(heard.mass) == pytest.approx([image[list(group)].sum() for group in groups], abs=1e-5)


def test_several_steps_give_a_map_each(run):
    maps = run.attention("all", "and")
    assert [heard.step for heard in maps] == [0, 1] and [heard.sigma for heard in maps] == [1.0, 0.5]
    assert np.array_equal(maps[1].weights, run.attention(1, "and").weights)
    assert [heard.step for heard in run.attention([-1, 0], "and")] == [1, 0]
    assert len(run.attention([0], "and")) == 1


def test_a_map_knows_its_unit_and_words(run):
    row, column = run.attention(0, "and", direction="rows"), run.attention(0, (0, 1), direction="columns")
    assert row.unit == "share of the attention of 'and' that goes to an image token"
    assert column.unit == "share of the attention of an image token that goes to 'patch (0, 1)'"
    assert row.words == ("a", "sunflower", "and", "a", "skyscraper") and row.text.shape == (5,)


def test_a_patch_of_a_patch_run_is_at_its_place(run, explicit):
    heard = run.attention(1, (2, 5), blocks=0, heads=0)
    assert (heard.word, heard.direction) == ("patch (2, 5)", "rows")
    assert heard.weights[1, 3] == pytest.approx(explicit[0][0][TEXT + 17, TEXT + 9], abs=1e-6)


LEDGER_WORDS = ("sunflower", "and", "a")
LABELS = ("sunflower", "and", "a", "other words", "end token", "PAD tokens", "image tokens")
PARTS = ([1, 2], [3], [0, 4], [5, 6], [END], range(END + 1, TEXT), IMAGE)


@pytest.mark.parametrize("heads", ["each", "mean", 1])
def test_a_ledger_holds_the_explicit_masses_between_groups(run, explicit, heads):
    ledger = run.ledger(LEDGER_WORDS, step=1, blocks=(0, 2, 3), heads=heads)
    full = np.stack([explicit[block] for block in (0, 2, 3)])  # (blocks, heads, L, L)
    full = {"each": full, "mean": full.mean(1, keepdims=True), 1: full[:, 1:]}[heads]
    masses = np.stack([full[..., list(part)].sum(-1) for part in PARTS], -1)  # (blocks, heads, L, keys)
    queries = [*PARTS, range(TEXT)]
    expected = np.stack([masses[:, :, list(part)].mean(2) for part in queries], 2)
    assert np.abs(ledger.shares - expected[None]).max() < 1e-5
    assert (ledger.keys, ledger.queries) == (LABELS, (*LABELS, "all text tokens"))
    assert (ledger.steps, ledger.sigmas, ledger.blocks) == ((1,), (0.5,), (0, 2, 3))
    assert ledger.heads == {"each": (0, 1), "mean": ("mean",), 1: (1,)}[heads]


def test_a_ledger_sums_to_one_and_makes_bars(run):
    ledger = run.ledger()
    assert ledger.shares.shape == (2, 4, 2, 8, 7)  # all words named: no other words
    assert "other words" not in ledger.keys and ledger.shares.dtype == np.float32
    assert np.abs(ledger.shares.sum(-1) - 1).max() < 1e-6
    for along, count in (("step", 2), ("block", 4), ("head", 2)):
        assert np.abs(ledger.bars("image tokens", along).sum(-1) - np.ones(count)).max() < 1e-6
    assert np.allclose(ledger.bars("and", "block"), ledger.shares[:, :, :, 2].mean((0, 2)))


def test_a_ledger_repeats_each_step_once_and_no_further_than_its_last_block(run, monkeypatch):
    passes, velocity = [], type(run.session.pipeline).velocity
    monkeypatch.setattr(
        type(run.session.pipeline), "velocity", lambda *args, **k: passes.append(1) or velocity(*args, **k)
    )
    run.ledger(step="all", blocks="double")
    assert len(passes) == 2


def test_a_ledger_of_a_fork_leaves_a_row_without_tokens_empty():
    run = stubs.session().start("a cat", num_steps=2).finish()
    fork = run.fork(1, prompt="cat").finish()
    ledger = fork.ledger("cat", heads="mean")
    other = ledger.queries.index("other words")
    assert np.isnan(ledger.shares[1, ..., other, :]).all()
    assert np.isfinite(ledger.shares[0]).all() and (ledger.shares[1, ..., :1, other] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": "cat"}, "no word 'cat'; its words are"),
        ({"words": ("and", "AND")}, "'and', 'AND' share tokens; give each once"),
        ({"step": 7}, "step is 7"),
        ({"blocks": "triple"}, "blocks is 'triple'"),
        ({"heads": 2}, "heads is 2"),
    ],
)
def test_a_ledger_of_what_does_not_exist_is_answered_with_what_exists(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run.ledger(**arguments)


def test_bars_leave_out_what_an_intervention_cuts():
    run = stubs.session().start(PROMPT, num_steps=2).fork(0, intervention=cut_block(1)).finish()
    ledger = run.ledger(["and"])
    bars = ledger.bars("and", "block")
    assert np.isnan(bars[1]).all() and not np.isnan(bars[[0, 2, 3]]).any()
    assert np.allclose(ledger.bars("and", "step"), ledger.shares[:, :, :, 0][:, [0, 2, 3]].mean((1, 2)))


def test_bars_of_what_does_not_exist_are_answered_with_what_exists(run):
    ledger = run.ledger("and", step=0)
    with pytest.raises(InputError, match="query is 'cat'; give one of 'and', 'other words', 'end token'"):
        ledger.bars("cat")
    with pytest.raises(InputError, match="along is 'word'; give one of 'step', 'block', 'head'"):
        ledger.bars(along="word")


PROBES = (
    Probe("and", blocks="all"),
    Probe("sunflower", blocks="all"),
    Probe("sunflower", blocks=(0, 3), heads="each", direction="image_to_word"),
    Probe((1, 1), blocks="single", heads=0),
    Probe("PAD", direction="columns"),
)


@pytest.mark.parametrize("options", [{}, {"cfg_weight": 3.0, "negative_text": "fog"}], ids=["plain", "CFG"])
def test_maps_captured_in_a_run_are_those_of_its_replay_and_the_picture_is_the_same_bit_for_bit(options):
    session = stubs.session()
    plain = session.start(PROMPT, num_steps=3, **options).finish()
    heard = session.start(PROMPT, num_steps=3, probes=PROBES, **options).finish()
    assert mx.array_equal(plain.latents, heard.latents)
    assert [len(maps) for maps in heard.maps] == [5, 5, 5] and plain.maps == ((), (), ())
    for step, maps in enumerate(heard.maps):
        for probe, captured in zip(PROBES, maps, strict=True):
            later = plain.attention(step, probe.word, probe.blocks, probe.heads, probe.direction)
            assert captured.shape == later.shape and np.abs(captured.weights - later.weights).max() < 1e-6
            assert np.abs(captured.text - later.text).max() < 1e-6
            assert astuple(captured.mass) == pytest.approx(astuple(later.mass), abs=1e-6)
            assert (captured.word, captured.step, captured.blocks) == (later.word, step, later.blocks)


def test_captured_maps_can_be_read_in_another_thread_than_that_of_the_run():
    with ThreadPoolExecutor(1) as worker:
        session = worker.submit(stubs.session).result()
        start = partial(session.start, PROMPT, num_steps=1, probes=PROBES)
        run = worker.submit(lambda: start().finish()).result()
        later = worker.submit(run.attention, 0, "and", "all").result()
    assert np.abs(run.maps[0][0].weights - later.weights).max() < 1e-6


def test_a_fork_keeps_the_maps_of_shared_steps_and_asks_its_own_probes():
    run = stubs.session().start("a cat", num_steps=3, probes=[Probe("cat")]).finish()
    fork = run.fork(2, prompt="a dog").finish()
    assert fork.maps == (*run.maps[:2], ())
    (heard,) = run.fork(2, prompt="a dog", probes=[Probe("dog")]).finish().maps[2]
    assert np.abs(heard.weights - fork.attention(2, "dog").weights).max() < 1e-6


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ([Probe("dog")], "no word 'dog'; its words are 'a', 'cat'"),
        ([Probe("cat", blocks=9)], "block is 9"),
        ("cat", r"probes holds 'c'; give a list of Probe\(...\)"),
        (Probe, "probes holds <class"),
    ],
)
def test_a_probe_of_what_does_not_exist_is_answered_before_the_run(probes, message):
    with pytest.raises(InputError, match=message):
        stubs.session().start("a cat", probes=probes)


def altered(intervention, step=0):
    """A run with an intervention from its first step on, and its attention: blocks -> (heads, L, L)."""
    run = stubs.session().start(PROMPT, num_steps=2, latent_size=(8, 12))
    run = run.fork(0, intervention=intervention).finish()
    text, config = run.text, run.session.pipeline.networks.mmdit.config
    attend, _ = intervention.at(step, tokens(text, run.latent_size), config)
    recorder = Recorder(attend)
    run.session.pipeline.velocity_at(
        step,
        run.steps[step].latents,
        run.steps[step].sigma,
        run.settings,
        text,
        None,
        hear=lambda _: recorder,
    )
    return run, {block: recorder.softmax(block) for block in recorder.kept}


@pytest.mark.parametrize("queries", ["all", "image"])
def test_maps_of_a_step_with_a_cut_word_show_the_attention_with_the_cut(queries):
    run, explicit = altered(cut("and", queries=queries, blocks=(1, 2)))
    full = np.mean([explicit[block] for block in range(4)], axis=0).mean(0)
    row = run.attention(0, "a", "all", direction="word_to_image")
    assert np.abs(row.weights.ravel() - full[[0, 4], TEXT:].mean(0)).max() < 1e-5
    column = run.attention(0, "and", "all", direction="image_to_word")
    assert np.abs(column.weights.ravel() - full[TEXT:, 3]).max() < 1e-5
    assert run.attention(0, "and", (1, 2), direction="image_to_word").weights.max() == 0
    ledger = run.ledger("and", step=0, heads="mean")
    image = np.mean([explicit[block] for block in (1,)], axis=0).mean(0)[TEXT:].mean(0)
    assert np.abs(ledger.shares[0, 1, 0, 4, [0, 2]] - image[[3, END]]).max() < 1e-5
    captured = run.fork(
        0, intervention=run.settings.intervention, probes=[Probe("a", "all", direction="rows")]
    ).finish()
    assert np.abs(captured.maps[0][0].weights - row.weights).max() < 1e-6
    assert mx.array_equal(captured.latents, run.latents)


def test_a_block_that_is_cut_is_left_out_and_said(explicit):
    run, explicit = altered(cut_block(1) + cut_block(3, steps=(1, 2)))
    assert sorted(explicit) == [0, 2, 3]
    heard = run.attention(0, "and", "double", direction="word_to_image")
    assert heard.blocks == (0,)
    assert np.abs(heard.weights.ravel() - explicit[0].mean(0)[3, TEXT:]).max() < 1e-5
    assert run.attention(1, "and", (0, 3)).blocks == (0,)
    with pytest.raises(InputError, match="of blocks 1 none is left in this step, an intervention cuts them"):
        run.attention(0, "and", 1)
    with pytest.raises(InputError, match="of blocks 3 none is left"):
        run.fork(0, probes=[Probe("and", 3)])
    ledger = run.ledger(step=0)
    assert np.isnan(ledger.shares[0, 1]).all() and np.isfinite(ledger.shares[0, [0, 2, 3]]).all()


def test_blocks_may_be_an_iterator_for_several_steps(run):
    maps = run.attention("all", "sunflower", blocks=iter((0, 1)))
    again = run.attention("all", "sunflower", blocks=(0, 1))
    assert [one.weights.tobytes() for one in maps] == [one.weights.tobytes() for one in again]
