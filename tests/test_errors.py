import pytest

from fluxnb import errors

KINDS = [one for one in vars(errors).values() if isinstance(one, type)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_message_is_one_line_that_steers_no_terminal(kind):
    hostile = "the file \x1b]0;title\x07 holds \x9b2J\r\n\u2028\u202e\ud800"
    assert str(kind(hostile)) == r"the file \x1b]0;title\x07 holds \x9b2J\r\n\u2028\u202e\ud800"
    assert str(kind("größe 猫 is 3; give 'ω'")) == "größe 猫 is 3; give 'ω'"


def test_the_tree_in_the_docstring_has_every_kind():
    for kind in KINDS:
        assert f" {kind.__name__} " in errors.__doc__
