"""Marks of pictures, by verdicts written by hand."""

from dataclasses import replace

import pytest

from fluxnb.training.scenes import Scene, Sprite
from fluxnb.training.verdicts import Found, Verdict, answers, marks


def found(name, left, top, side, chance=1.0):
    return Found(name, (left + side / 2) / 16, (top + side / 2) / 16, side / 16, chance)


def verdict(*objects, ground="red"):
    return Verdict(objects, ground)


def scene(*sprites, **fields):
    return Scene("", "red", sprites, 0.0, **{"says_color": True, **fields})


def true_verdict(made):
    return verdict(*(found(one.name, one.left, one.top, one.side) for one in made.sprites), ground=made.color)


CAT = Sprite("cat", 16, 32, 64)
BIG_CAT, SMALL_CAT = Sprite("cat", 16, 16, 96, "big"), Sprite("cat", 16, 32, 48, "small")
BESIDE = Sprite("dog", 80, 32, 48)
SCENES = {
    "one": scene(CAT),
    "big": scene(BIG_CAT),
    "small": scene(SMALL_CAT),
    "left": scene(Sprite("cat", 0, 32, 64), place="left"),
    "middle": scene(Sprite("cat", 32, 32, 64), place="middle"),
    "pair": scene(Sprite("cat", 0, 32, 48), BESIDE, relation="and"),
    "before": scene(Sprite("cat", 0, 32, 48), BESIDE, relation="left"),
    "above": scene(Sprite("cat", 0, 0, 48), Sprite("dog", 16, 80, 48), relation="above"),
    "two": scene(Sprite("cat", 0, 0, 48), Sprite("cat", 64, 0, 48), relation="two"),
    "bigger": scene(Sprite("cat", 0, 32, 48, "small"), Sprite("dog", 64, 32, 64), relation="and"),
}


@pytest.mark.parametrize("kind", SCENES)
def test_a_true_picture_is_right_in_all_that_is_asked(kind):
    given = marks(SCENES[kind], true_verdict(SCENES[kind]))
    assert given and all(given.values())


def test_questions_are_those_that_the_caption_answers():
    asked = {kind: set(marks(one, true_verdict(one))) - {"exact", "ground"} for kind, one in SCENES.items()}
    assert asked == {
        "one": {"object", "normal"},
        "big": {"object", "size"},
        "small": {"object", "size"},
        "left": {"object", "normal", "place"},
        "middle": {"object", "normal", "place"},
        "pair": {"both"},
        "before": {"both", "relation"},
        "above": {"both", "relation"},
        "two": {"two"},
        "bigger": {"both", "bigger"},
    }
    silent = replace(SCENES["one"], says_color=False)
    assert "ground" not in marks(silent, true_verdict(silent))


@pytest.mark.parametrize(
    ("kind", "drawn", "wrong"),
    [
        ("one", verdict(found("dog", 16, 32, 64)), {"object", "exact", "normal"}),
        ("one", verdict(found("cat", 16, 32, 64), found("dog", 80, 32, 48)), {"exact"}),
        ("one", verdict(found("cat", 16, 32, 64), ground="pink"), {"ground"}),
        ("one", verdict(found("cat", 16, 32, 48)), {"normal"}),
        ("one", verdict(), {"object", "exact", "normal"}),
        ("big", verdict(found("cat", 16, 16, 64)), {"size"}),
        ("small", verdict(found("cat", 16, 16, 64)), {"size"}),
        ("left", verdict(found("cat", 64, 32, 64)), {"place"}),
        ("left", verdict(found("cat", 32, 32, 64)), {"place"}),
        ("middle", verdict(found("cat", 32, 0, 64)), {"place"}),
        ("pair", verdict(found("cat", 0, 32, 48)), {"both", "exact"}),
        ("pair", verdict(found("dog", 0, 32, 48), found("cat", 80, 32, 48)), set()),
        (
            "pair",
            verdict(*(found(name, 48 * i, 0, 48) for i, name in enumerate(("dog", "cat", "dog")))),
            {"exact"},
        ),
        (
            "pair",
            verdict(*(found(name, 48 * i, 0, 48) for i, name in enumerate(("fox", "cat", "dog")))),
            {"both", "exact"},
        ),
        ("before", verdict(found("dog", 0, 32, 48), found("cat", 80, 32, 48)), {"relation"}),
        ("before", verdict(found("cat", 0, 0, 48), found("dog", 8, 80, 48)), {"relation"}),
        ("above", verdict(found("cat", 0, 80, 48), found("dog", 16, 0, 48)), {"relation"}),
        ("above", verdict(found("cat", 0, 0, 48)), {"both", "exact", "relation"}),
        ("two", verdict(found("cat", 0, 0, 48)), {"two", "exact"}),
        ("two", verdict(*(found("cat", 48 * i, 0, 32) for i in range(3))), {"two", "exact"}),
        ("bigger", verdict(found("cat", 0, 32, 64), found("dog", 64, 32, 48)), {"bigger"}),
        ("bigger", verdict(found("cat", 0, 32, 64), found("dog", 64, 32, 64)), {"bigger"}),
    ],
)
def test_what_is_wrong_is_marked_so_and_nothing_else(kind, drawn, wrong):
    given = marks(SCENES[kind], drawn)
    assert {name for name, right in given.items() if not right} == wrong


def test_answers_gather_each_question_over_the_scenes_that_ask_it():
    made = [SCENES["one"], SCENES["left"], SCENES["before"]]
    told = answers(
        made, [true_verdict(SCENES["one"]), verdict(found("cat", 64, 0, 64)), true_verdict(made[2])]
    )
    assert told["object"] == [True, True] and told["place"] == [False] and told["exact"] == [True] * 3
    assert "two" not in told
