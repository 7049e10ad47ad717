"""What a listener hears, against an explicit softmax over all keys in float64."""

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb import probe
from fluxnb.errors import InputError
from fluxnb.model.layers import attention
from fluxnb.model.tokenizers import Word

PROMPT = "a sunflower and a skyscraper"  # a | sunfl ower | and | a | skysc raper
TOKENS = {"sunflower": (1, 2), "and": (3,), "skyscraper": (5, 6), "a": (0, 4)}
TEXT, END = stubs.LENGTH, 7
BLOCKS = {"double": (0, 1), "single": (2, 3), "all": (0, 1, 2, 3), 2: (2,), (0, 3): (0, 3)}


class Recorder:
    """Keeps every q and k, and mixes as ever."""

    def __init__(self):
        self.kept = {}

    def __call__(self, q, k, v, layer):
        self.kept[layer] = q, k
        return attention(q, k, v, layer)

    def softmax(self, block):
        """(heads, L, L), float64: explicit, over all keys."""
        q, k = (np.array(x, np.float64)[0] for x in self.kept[block])
        scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
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
    heard = run.attention(1, word, blocks, heads)
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


@pytest.mark.parametrize("direction", probe.DIRECTIONS)
def test_mass_sums_to_one_and_agrees_with_the_map(run, direction):
    heard = run.attention(0, "sunflower", direction=direction)
    mass = heard.mass
    assert mass.word + mass.other_words + mass.end + mass.pad + mass.image == pytest.approx(1, abs=1e-6)
    if direction == "word_to_image":
        assert heard.weights.sum() == pytest.approx(mass.image, abs=1e-6)
    else:
        assert heard.weights.mean() == pytest.approx(mass.word, abs=1e-6)


def test_chunks_of_queries_change_nothing(run, monkeypatch):
    whole = run.attention(0, "and", direction="image_to_word")
    monkeypatch.setattr(probe, "CHUNK", 7)
    pieces = run.attention(0, "and", direction="image_to_word")
    assert np.abs(whole.weights - pieces.weights).max() < 1e-6


@pytest.mark.parametrize(("read", "limit"), [(probe.word_to_image, 2), (probe.image_to_word, 50)])
def test_memory_holds_the_rows_asked_for_and_not_all(read, limit):
    """At the tokens of 1024 pixels all rows of 2 heads would be 170 MB a copy."""
    q, k = (mx.random.normal((1, 2, 4608, 16), key=mx.random.key(seed)) for seed in (0, 1))
    mx.eval(q, k)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(read(q, k, probe.token_kinds((3, 4), 10, 512, 4096)))
    assert (mx.get_peak_memory() - before) / 1e6 < limit  # MB


def test_a_map_says_what_it_is_of(run):
    heard = run.attention(-1, " SUNFLOWER ", blocks=[3, 0, 3], heads=1)
    told = (heard.word, heard.step, heard.blocks, heard.heads, heard.direction)
    assert told == ("sunflower", 1, (0, 3), 1, "word_to_image")


def test_a_map_is_frozen(run):
    heard = run.attention(0, "and")
    with pytest.raises(AttributeError):
        heard.step = 1
    with pytest.raises(ValueError, match="read-only"):
        heard.weights[0, 0] = 1


def test_listening_leaves_the_velocity_as_it_was_bit_for_bit(run):
    kinds = probe.token_kinds((1,), END, TEXT, 24)
    listener = probe.Listener(kinds, (0, 1, 2, 3), "mean", "word_to_image")
    assert mx.array_equal(run.replay(1, attend=listener), run.steps[1].velocity)
    assert len(listener.heard) == 4


def test_one_of_two_equal_words_can_be_asked_for(run, explicit):
    second = [word for word in run.words if word.text == "a"][1]
    heard = run.attention(1, second, 0, 0)
    assert np.abs(heard.weights.ravel() - explicit[0][0][4, TEXT:]).max() < 1e-5


def test_cfg_is_listened_to_in_the_pass_with_the_prompt():
    plain = stubs.session().start(PROMPT, num_steps=1).finish()
    guided = stubs.session().start(PROMPT, num_steps=1, cfg_weight=3.0, negative_text="fog").finish()
    assert np.array_equal(plain.attention(0, "and").weights, guided.attention(0, "and").weights)


def test_token_kinds_part_words_end_padding_and_image():
    kinds = [probe.KINDS[kind] for kind in probe.token_kinds((1, 2), 4, 6, 2)]
    assert kinds == ["other_words", "word", "word", "other_words", "end", "pad", "image", "image"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"word": "cat"}, "no word 'cat'; its words are 'a', 'sunflower', 'and', 'a', 'skyscraper'"),
        ({"word": "sun"}, "no word 'sun'"),
        ({"word": ""}, "no word ''"),
        ({"word": 3}, "no word 3"),
        ({"word": Word("and", (9,))}, "no word 'and'"),
        ({"step": 2}, r"step is 2; give an integer in -1\.\.1"),
        ({"step": 0.0}, "step is 0.0"),
        ({"blocks": "triple"}, "blocks is 'triple'; give one of 'all', 'double', 'single'"),
        ({"blocks": 4}, r"block is 4; give an integer in 0\.\.3"),
        ({"blocks": (0, -1)}, r"block is -1; give an integer in 0\.\.3"),
        ({"blocks": ()}, "2 double and 2 single"),
        ({"blocks": None}, "block is None"),
        ({"heads": 2}, r"heads is 2; give 'mean' or an integer in 0\.\.1"),
        ({"heads": "max"}, "heads is 'max'; give 'mean' or an integer"),
        ({"direction": "up"}, "direction is 'up'; give one of 'word_to_image', 'image_to_word'"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_exists(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run.attention(**{"step": 0, "word": "and", **arguments})


def test_an_empty_prompt_has_no_word_to_ask_for():
    with pytest.warns(match="prompt is empty"):
        run = stubs.session().start("", num_steps=1).finish()
    with pytest.raises(InputError, match="its words are none, it is empty"):
        run.attention(0, "cat")
