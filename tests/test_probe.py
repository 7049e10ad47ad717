"""What can be asked of a pass, and which tokens, blocks, heads and steps are meant."""

import numpy as np
import pytest

from fluxnb import probe
from fluxnb.errors import InputError
from fluxnb.model.tokenizers import Word
from fluxnb.probe import Probe

WORDS = (Word("a", (0,)), Word("sunflower", (1, 2)), Word("and", (3,)), Word("A", (4,)), Word("Image", (5,)))
TOKENS = probe.Tokens(WORDS, end=6, text=10, size=(2, 3))
FULL = probe.Tokens((Word("cat", (0,)),), end=1, text=2, size=(2, 3))


def mask(*patches):
    made = np.zeros((2, 3), bool)
    for patch in patches:
        made[patch] = True
    return made


@pytest.mark.parametrize(
    ("subject", "label", "positions"),
    [
        ("Sunflower ", "sunflower", (1, 2)),
        ("a", "a", (0, 4)),
        (WORDS[3], "A", (4,)),
        (["and", "sunflower"], "and, sunflower", (1, 2, 3)),
        ("image", "Image", (5,)),
        ("image tokens", "image tokens", tuple(range(10, 16))),
        ("pad", "PAD tokens", (7, 8, 9)),
        ("PAD tokens", "PAD tokens", (7, 8, 9)),
        ("end", "end token", (6,)),
        ("words", "all words", (0, 1, 2, 3, 4, 5)),
        (7, "token 7", (7,)),
        (np.int64(15), "token 15", (15,)),
        ((1, 2), "patch (1, 2)", (15,)),
        (mask((0, 1), (1, 0)), "region of 2 patches", (11, 13)),
    ],
)
def test_a_subject_is_found_by_its_name_or_place(subject, label, positions):
    assert probe.find_subject(subject, TOKENS)[:2] == (label, positions)


@pytest.mark.parametrize(
    ("subject", "direction", "told", "is_row"),
    [
        ("and", "word_to_image", "word_to_image", True),
        ("and", "columns", "image_to_word", False),
        (3, "rows", "word_to_image", True),
        ((0, 0), "word_to_image", "rows", True),
        ("PAD", "image_to_word", "columns", False),
        ("and", None, "image_to_word", False),
        ("PAD", None, "columns", False),
        ((0, 0), None, "rows", True),
        ("image tokens", None, "rows", True),
    ],
)
def test_a_direction_is_told_by_the_name_that_fits_the_subject(subject, direction, told, is_row):
    question = probe.resolve(Probe(subject, direction=direction), TOKENS, (2, 4), 3)
    assert (question.direction, question.is_row) == (told, is_row)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("cat", "no word 'cat'; its words are 'a', 'sunflower', 'and', 'A', 'Image'; instead of a word you"),
        (["and", "cat"], "no word 'cat'"),
        ([], r"no \[\] to ask for; give a word of the prompt, 'PAD'"),
        (None, "no None to ask for"),
        (True, "no True to ask for"),
        (1.5, "no 1.5 to ask for"),
        (16, r"the token is 16; give an integer in 0\.\.15"),
        (-1, "the token is -1"),
        ((2, 0), r"the patch's row is 2; give an integer in 0\.\.1"),
        ((0, 3), r"the patch's column is 3; give an integer in 0\.\.2"),
        ((0, 1, 2), r"no \(0, 1, 2\) to ask for"),
        ((0.0, 1), "to ask for"),
        (
            np.ones((3, 2), bool),
            r"region has shape \(3, 2\) and 6 of them set; give booleans of shape \(2, 3\)",
        ),
        (np.zeros((2, 3), bool), "0 of them set"),
        (np.ones((2, 3)), "type float64; give booleans"),
        (np.ones(6, bool), "to ask for"),
    ],
)
def test_a_subject_that_is_not_there_is_answered_with_what_is(subject, message):
    with pytest.raises(InputError, match=message):
        probe.find_subject(subject, TOKENS)


def test_padding_that_is_not_there_is_said():
    with pytest.raises(
        InputError, match="no PAD tokens: the prompt takes 1 of 2 text tokens, and one ends it"
    ):
        probe.find_subject("PAD", FULL)


def test_groups_hold_each_token_once_in_order():
    assert [position for group in TOKENS.groups for position in group] == list(range(TOKENS.length))


@pytest.mark.parametrize(
    ("steps", "found"), [(0, (0,)), (-1, (4,)), ("all", (0, 1, 2, 3, 4)), ((3, 1, -1), (3, 1, 4))]
)
def test_steps_are_found_in_the_order_given(steps, found):
    assert probe.find_steps(steps, 5) == found


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (5, r"step is 5; give an integer in -1\.\.4"),
        ((0, -2), "step is -2"),
        ("last", "step is 'last', which is none; give an integer in 0"),
        ((), r"none; give an integer in 0\.\.4 or 'all'"),
        (0.0, "step is 0.0"),
    ],
)
def test_steps_that_are_not_there_are_answered_with_what_is(steps, message):
    with pytest.raises(InputError, match=message):
        probe.find_steps(steps, 5)
