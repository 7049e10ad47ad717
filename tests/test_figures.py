"""Figures: their intervals by hand and against simulation, their goals, and how they are written."""

import json

import numpy as np
import pytest

from fluxnb.training import figures
from fluxnb.training.figures import Figure


def test_a_wilson_interval_is_that_of_the_textbook():
    assert figures.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert figures.wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert figures.wilson(20, 20)[1] == 1


def test_a_wilson_interval_narrows_with_more():
    assert np.diff(figures.wilson(800, 1000)) < 0.4 * np.diff(figures.wilson(80, 100))


def test_a_gap_is_newcombes_and_turns_with_its_sides():
    one, other = ([True] * right + [False] * (count - right) for right, count in ((56, 70), (48, 80)))
    figure = figures.gap("", "", one, other)  # Newcombe 1998, contrast a: 0.2000, 0.0524 to 0.3339
    assert figure.value == pytest.approx(20) and figure.count == 70
    assert figure.interval == pytest.approx((5.24, 33.39), abs=0.01)
    assert figures.gap("", "", other, one).interval == pytest.approx((-33.39, -5.24), abs=0.01)


def test_a_paired_gain_is_surer_than_a_gap_where_answers_agree():
    one = [True] * 90 + [False] * 10
    other = [True] * 88 + [False] * 12
    paired, apart = figures.paired("", "", one, other), figures.gap("", "", one, other)
    assert paired.value == pytest.approx(2) and apart.value == pytest.approx(2)
    assert np.diff(paired.interval) < 0.5 * np.diff(apart.interval)
    with pytest.raises(ValueError, match="shorter"):
        figures.paired("", "", one, other[1:])


@pytest.mark.parametrize(
    ("value", "goals", "met"),
    [
        (95, {"least": 95}, True),
        (94.9, {"least": 95}, False),
        (3, {"most": 3}, True),
        (3.1, {"most": 3}, False),
        (3, {}, None),
    ],
)
def test_a_goal_is_met_at_its_very_number(value, goals, met):
    assert Figure("", "", value, **goals).met is met


def test_a_missed_goal_is_told_in_the_table():
    made = [
        figures.share("Pictures", "right", [True] * 9 + [False], least=95),
        figures.average("Pictures", "PSNR", [30.0, 31.0, 32.0], "dB", least=30),
        Figure("Size", "folder", 18.9, "MB", most=25),
    ]
    assert figures.markdown(made) == (
        "Pictures:\n\n"
        "| what | goal | measured | 95 % interval | n |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| right | at least 95.0 % | 90.0 % (missed) | 59.6 to 98.2 % | 10 |\n"
        "| PSNR | at least 30.0 dB | 31.0 dB | 30.0 to 32.0 dB | 3 |\n\n"
        "Size:\n\n"
        "| what | goal | measured | 95 % interval | n |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| folder | at most 25.0 MB | 18.9 MB |  |  |"
    )


def test_figures_are_written_as_their_files_name_says(tmp_path):
    made = [figures.share("Pictures", "right", [True, False], least=40)]
    figures.write(tmp_path / "table.md", made, ["A note."])
    assert (tmp_path / "table.md").read_text() == figures.markdown(made) + "\n\nA note.\n"
    figures.write(tmp_path / "table.json", made, ["A note."])
    read = json.loads((tmp_path / "table.json").read_text())
    assert read["notes"] == ["A note."]
    assert read["figures"][0]["value"] == 50 and read["figures"][0]["met"] is True


def test_a_line_tells_number_interval_count_and_goal():
    text = figures.line(figures.share("", "right", [True] * 9 + [False], least=95))
    assert " ".join(text.split()) == "right 90.0 % (missed) 59.6 to 98.2 % n = 10 at least 95.0 %"
