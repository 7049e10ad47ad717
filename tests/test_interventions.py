"""Interventions: what they say, that they act where they are meant to, and that nothing else changes."""

import json
import math

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb.asked import tokens
from fluxnb.errors import InputError
from fluxnb.interventions import Intervention, cut, cut_block, cut_head, scale, swap
from fluxnb.model.layers import attention
from fluxnb.model.mmdit import without
from fluxnb.model.tokenizers import Word

PROMPT = "a sunflower and a cat"  # a | sunfl ower | and | a | cat
SECOND_A = Word("a", (4,))
ALL = (
    cut("cat")
    + cut(SECOND_A, steps=(1, 3), blocks=[2, 0], queries="image")
    + scale("and", 2.5, blocks="single")
    + swap("cat", "sunflower", blocks="double")
    + cut_head(3, 1, steps=(0, 2))
    + cut_block(1)
    + scale("PAD", 0.5)
    + cut(3)
)


@pytest.fixture(scope="module")
def pipeline():
    return stubs.pipeline()


@pytest.fixture(scope="module")
def text(pipeline):
    return pipeline.encode_text(PROMPT)


@pytest.fixture(scope="module")
def latents(pipeline):
    return pipeline.noise(stubs.session().start(PROMPT, seed=5).settings)


def there(text, latents):
    return tokens(text, latents.shape[1:3])


def velocity(pipeline, latents, text, intervention, step=0, **options):
    attend, left_out = intervention.at(step, there(text, latents), pipeline.networks.mmdit.config)
    return pipeline.velocity(latents, 0.7, text, attend=attend, without=left_out, **options)


class Cutting:
    """Attention by an explicit softmax in float64, -inf for some keys in some blocks."""

    def __init__(self, keys, layers, first_query=0):
        self.keys, self.layers, self.first = keys, layers, first_query

    def __call__(self, q, k, v, layer):
        q64, k64, v64 = (np.array(x, np.float64) for x in (q, k, v))
        scores = q64 @ k64.swapaxes(2, 3) / math.sqrt(q.shape[-1])
        if layer in self.layers:
            scores[:, :, self.first :, self.keys] = -math.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return mx.array((weights / weights.sum(-1, keepdims=True) @ v64).astype(np.float32))


@pytest.mark.parametrize(
    ("made", "keys", "layers", "first"),
    [
        (cut("sunflower"), [1, 2], {0, 1, 2, 3}, 0),
        (cut("sunflower", queries="image"), [1, 2], {0, 1, 2, 3}, stubs.LENGTH),
        (cut("a", blocks="single"), [0, 4], {2, 3}, 0),
        (cut(SECOND_A, blocks=1), [4], {1}, 0),
        (scale("cat", 0), [5], {0, 1, 2, 3}, 0),
        (cut("PAD"), range(7, stubs.LENGTH), {0, 1, 2, 3}, 0),
        (cut("pad tokens", blocks=2, queries="image"), range(7, stubs.LENGTH), {2}, stubs.LENGTH),
        (cut("end"), [6], {0, 1, 2, 3}, 0),
        (cut("words"), range(6), {0, 1, 2, 3}, 0),
        (cut("image", blocks=3), range(stubs.LENGTH, stubs.LENGTH + 16), {3}, 0),
        (cut(2), [2], {0, 1, 2, 3}, 0),
    ],
)
def test_a_cut_is_the_softmax_without_these_keys(pipeline, text, latents, made, keys, layers, first):
    expected = pipeline.velocity(latents, 0.7, text, attend=Cutting(list(keys), layers, first))
    assert mx.abs(velocity(pipeline, latents, text, made) - expected).max() < 1e-6 * mx.abs(expected).max()
    assert mx.abs(velocity(pipeline, latents, text, Intervention()) - expected).max() > 1e-3


@pytest.mark.parametrize(
    "nothing", [Intervention(), scale("cat", 1), cut("cat", steps=(1, 9)), scale("a", 1.0) + scale("and", 1)]
)
def test_what_changes_nothing_leaves_the_same_bits(pipeline, text, latents, nothing):
    plain = pipeline.velocity(latents, 0.7, text)
    assert nothing.at(0, there(text, latents), pipeline.networks.mmdit.config) == (attention, frozenset())
    assert mx.array_equal(velocity(pipeline, latents, text, nothing), plain)


def test_steps_are_from_a_up_to_but_without_b():
    made = cut("cat", steps=(2, 4))
    assert [made.acts_on(step) for step in range(6)] == [False, False, True, True, False, False]
    assert cut("cat").acts_on(999) and not Intervention().acts_on(0)


def test_swapping_twice_is_as_before(pipeline, text, latents):
    once, twice = swap("and", "cat"), swap("and", "cat") + swap("and", "cat")
    plain = pipeline.velocity(latents, 0.7, text)
    assert mx.array_equal(velocity(pipeline, latents, text, twice), plain)
    assert mx.abs(velocity(pipeline, latents, text, once) - plain).max() > 1e-3


def test_a_block_is_cut_as_if_it_added_nothing(pipeline, text, latents):
    """The gates of an adaLN block multiply all that it adds: with gates of 0 it is the identity."""
    networks = stubs.networks()
    for block, modulations in (
        (networks.mmdit.double_blocks[1], ("img_mod", "txt_mod")),
        (networks.mmdit.single_blocks[0], ("modulation",)),
    ):
        for name in modulations:
            layer = block[name].lin
            layer.weight, layer.bias = mx.zeros_like(layer.weight), mx.zeros_like(layer.bias)
    expected = type(pipeline).from_networks(networks).velocity(latents, 0.7, text)
    made = velocity(pipeline, latents, text, cut_block(1) + cut_block(2))
    assert mx.abs(made - expected).max() < 1e-6
    assert mx.abs(pipeline.velocity(latents, 0.7, text) - expected).max() > 1e-3


def test_the_network_without_blocks_shares_its_parameters_and_keeps_the_numbers(pipeline, text, latents):
    network = pipeline.networks.mmdit
    shorter, heard = without(network, frozenset({0, 3})), []

    def listen(q, k, v, layer):
        heard.append(layer)
        return attention(q, k, v, layer)

    pipeline.velocity(latents, 0.7, text, attend=listen, without=frozenset({0, 3}))
    assert heard == [1, 2]
    assert shorter.double_blocks[1] is network.double_blocks[1] and shorter.img_in is network.img_in
    assert without(network, frozenset()) is network
    assert [len(network.double_blocks), len(network.single_blocks)] == [2, 2]


def test_a_cut_head_is_a_head_of_zeros(pipeline, text, latents):
    def silent(q, k, v, layer):
        if layer == 2:
            v = mx.concatenate([v[:, :1], mx.zeros_like(v[:, 1:])], axis=1)
        return attention(q, k, v, layer)

    expected = pipeline.velocity(latents, 0.7, text, attend=silent)
    assert mx.abs(velocity(pipeline, latents, text, cut_head(2, 1)) - expected).max() < 1e-6
    assert mx.abs(pipeline.velocity(latents, 0.7, text) - expected).max() > 1e-3


def test_cfg_is_changed_in_the_pass_with_the_prompt(pipeline, text, latents):
    made, negative = cut("cat") + cut_block(3), pipeline.encode_text("cat fog")
    one, other = velocity(pipeline, latents, text, made), pipeline.velocity(latents, 0.7, negative)
    both = velocity(pipeline, latents, text, made, negative=negative, cfg_weight=3.0)
    assert mx.array_equal(both, other + 3.0 * (one - other))


def test_a_composition_does_what_its_parts_do_one_after_the_other(pipeline, text, latents):
    parts = cut("cat", blocks=0) + scale("sunflower", 3, blocks=0) + swap("and", SECOND_A, blocks=0)
    attend, _ = parts.at(0, there(text, latents), pipeline.networks.mmdit.config)
    q, k, v = (mx.random.normal((1, 2, 40, 16), key=mx.random.key(seed)) for seed in range(3))
    weights = np.exp(np.array(q, np.float64) @ np.array(k, np.float64).swapaxes(2, 3) / 4)
    weights[..., 5] = 0
    weights[..., [1, 2]] *= 3
    values = np.array(v, np.float64)
    values[:, :, [3, 4]] = values[:, :, [4, 3]]
    expected = weights / weights.sum(-1, keepdims=True) @ values
    assert np.abs(np.array(attend(q, k, v, 0)) - expected).max() < 1e-6


def test_it_spells_the_calls_that_make_it():
    assert repr(ALL) == (
        "cut('cat') + cut(Word(text='a', tokens=(4,)), steps=(1, 3), blocks=(0, 2), queries='image') + "
        "scale('and', 2.5, blocks='single') + swap('cat', 'sunflower', blocks='double') + "
        "cut_head(3, 1, steps=(0, 2)) + cut_block(1) + scale('PAD', 0.5) + cut(3)"
    )
    assert eval(repr(ALL)) == ALL
    assert repr(Intervention()) == "Intervention()"


def test_records_can_be_compared_and_hashed_and_not_changed():
    assert cut("cat") == scale("cat", 0) != cut("cat", steps=(0, 1))
    assert len({ALL, ALL + Intervention(), cut("cat")}) == 2
    with pytest.raises(AttributeError):
        ALL.changes = ()


def test_json_gives_the_same_record_back():
    assert Intervention.from_json(ALL.to_json()) == ALL
    assert Intervention.from_json(Intervention().to_json()) == Intervention()
    assert json.loads(cut("cat", steps=(2, 4)).to_json()) == [
        {"kind": "cut", "word": "cat", "steps": [2, 4], "blocks": "all", "queries": "all"}
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        '"cut"',
        "[[]]",
        '[{"kind": "burn"}]',
        '[{"kind": "cut"}]',
        '[{"word": "cat"}]',
        '[{"kind": "cut", "word": "cat", "force": 2}]',
        '[{"kind": "cut", "word": {"text": "a"}}]',
    ],
)
def test_json_of_something_else_is_refused(text):
    with pytest.raises(InputError, match="no saved intervention"):
        Intervention.from_json(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: cut(0.5),
            r"the word is 0\.5; give a word of the prompt, 'PAD', 'end' or an integer of at least 0",
        ),
        (lambda: cut(-1), "the word is -1; give a word"),
        (lambda: cut(True), "the word is True; give a word"),
        (lambda: cut(["cat"]), r"the word is \['cat'\]; give a word"),
        (lambda: swap("cat", 3), "the word is 3; give a string"),
        (lambda: cut("cat", blocks="triple"), "blocks is 'triple'; give one of 'all', 'double', 'single'"),
        (lambda: cut("cat", blocks=-1), "a block is -1; give an integer of at least 0"),
        (lambda: cut("cat", queries="text"), "queries is 'text'; give one of 'all', 'image'"),
        (lambda: cut("cat", steps=3), r"steps is 3; give \(a, b\): from step a up to but without step b"),
        (lambda: cut("cat", steps=(3, 3)), "the end of steps is 3; give an integer of at least 4"),
        (lambda: cut("cat", steps=(-1, 3)), "the first of steps is -1"),
        (lambda: scale("cat", -1), "factor is -1; give a finite number of at least 0"),
        (lambda: scale("cat", math.inf), "factor is inf"),
        (lambda: cut_head(0.5, 1), "layer is 0.5"),
        (lambda: cut_head(0, -1), "head is -1"),
        (lambda: cut_block("all"), "layer is 'all'"),
        (lambda: Intervention.from_json('[{"kind": "scale", "word": "cat", "factor": -2}]'), "factor is -2"),
    ],
)
def test_what_cannot_be_meant_is_answered_at_once(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (cut("dog"), "the prompt has no word 'dog'; its words are 'a', 'sunflower', 'and', 'a', 'cat'"),
        (scale("dog", 1), "no word 'dog'"),
        (swap("cat", "dog"), "no word 'dog'"),
        (swap("cat", "PAD"), "no word 'PAD'"),
        (cut("dog"), "instead of a word you can give 'PAD', 'end', 'image', 'words' or a token's number"),
        (cut(32), r"the token is 32; give an integer in 0\.\.31"),
        (swap("cat", "CAT"), r"swap\('cat', 'CAT'\) names the same word twice"),
        (cut("cat", blocks=4), r"block is 4; give an integer in 0\.\.3"),
        (cut_block(4), r"block is 4; give an integer in 0\.\.3"),
        (cut_head(4, 0), r"block is 4; give an integer in 0\.\.3"),
        (cut_head(0, 2), r"head is 2; give an integer in 0\.\.1"),
        (
            cut("cat", steps=(0, 9)),
            r"steps=\(0, 9\)\) is for steps 0 to 8, but there are 2 to 7; .* b in 3\.\.8",
        ),
        (cut("cat", steps=(0, 2)), "is for steps 0 to 1, but there are 2 to 7"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_exists(pipeline, text, latents, made, message):
    with pytest.raises(InputError, match=message):
        (scale("cat", 2) + made).check(
            there(text, latents), pipeline.networks.mmdit.config, num_steps=8, first=2
        )


def test_what_comes_after_the_last_step_is_refused(pipeline, text, latents):
    words, config = there(text, latents), pipeline.networks.mmdit.config
    with pytest.raises(InputError, match=r"no step is left for cut\('cat'\) after all 8; fork at an earlier"):
        cut("cat").check(words, config, num_steps=8, first=8)
    Intervention().check(words, config, num_steps=8, first=8)


def test_what_exists_passes_the_check(pipeline, text, latents):
    ALL.check(there(text, latents), pipeline.networks.mmdit.config, num_steps=8)


def test_a_prompt_without_padding_has_none_to_cut(pipeline, latents):
    full = there(pipeline.encode_text(" ".join(["cat"] * (stubs.LENGTH - 1))), latents)
    with pytest.raises(InputError, match="there are no PAD tokens: the prompt takes 15 of 16 text tokens"):
        cut("PAD").check(full, pipeline.networks.mmdit.config, num_steps=8)
    cut("end").check(full, pipeline.networks.mmdit.config, num_steps=8)


def test_a_word_of_the_prompt_goes_before_the_group_of_its_name(pipeline, latents):
    config, prompt = pipeline.networks.mmdit.config, there(pipeline.encode_text("a pad"), latents)
    heard = [
        made.at(0, prompt, config)[0].scores(0, prompt.length)[0] for made in (cut("PAD"), cut("PAD tokens"))
    ]
    assert [np.flatnonzero(added).tolist() for added in heard] == [[1], list(range(3, stubs.LENGTH))]


def test_not_everything_can_be_cut(pipeline, text, latents):
    made = cut("words") + cut("end") + cut("PAD") + cut("image", queries="image", blocks=2)
    with pytest.raises(InputError, match="in block 2 all 32 tokens are cut"):
        velocity(pipeline, latents, text, made)
