"""Claims about `fluxnb.widgets.film`."""

import numpy as np
import pytest
import stubs

from fluxnb import images
from fluxnb.widgets.film import Film


@pytest.fixture(scope="module")
def film():
    film = Film(7, stubs.session().start("a cat and a sunflower", num_steps=3).finish())
    for kind in ("clean", "noisy"):
        for step in film.undeveloped(kind):
            film.develop(kind, step)
    return film


def frames(film, kind):
    for message in film.messages():
        if message.content["type"] == "frames" and message.content["kind"] == kind:
            return dict(zip(message.content["steps"], message.buffers, strict=True))


@pytest.mark.parametrize("kind", ["clean", "noisy"])
def test_a_film_holds_the_picture_of_every_step_and_the_result(film, kind):
    found = frames(film, kind)
    assert sorted(found) == [0, 1, 2, 3]
    for step in range(3):
        assert images.decode(found[step]).tobytes() == film.run.image(step, kind).tobytes()
    assert images.decode(found[3]).tobytes() == film.run.image(-1).tobytes()


def test_a_film_opens_with_what_was_drawn(film):
    content = next(film.messages()).content
    assert (content["type"], content["run"], content["num_steps"]) == ("run", 7, 3)
    assert content["sigmas"] == film.run.sigmas
    assert content["words"] == ("a", "cat", "and", "a", "sunflower")
    assert (content["double"], content["single"]) == (2, 2)


def test_maps_travel_as_bytes_of_the_runs_own_attention(film):
    for step in (2, 0):
        film.look(4, "3", step)
    message = film.maps(4, "3", [2, 0], last=False)
    grids = np.frombuffer(message.buffers[0], np.uint8).reshape(2, 4, 4)
    for grid, mass, step in zip(grids, message.content["mass"], (2, 0), strict=True):
        truth = film.run.attention(step, film.run.words[4], blocks=3)
        assert np.abs(grid / 255 - truth.weights / truth.weights.max()).max() <= 0.5 / 255 + 1e-6
        assert mass[4] == truth.mass.image
        assert sum(mass) == pytest.approx(1, abs=1e-5)


def test_one_of_two_equal_words_is_looked_at_alone(film):
    film.look(0, "all", 0)
    film.look(3, "all", 0)
    first, second = (film.maps(word, "all", [0], last=False).buffers[0] for word in (0, 3))
    assert first != second


def test_a_contact_sheet_spans_the_run(film):
    sheet = film.contact_sheet()
    assert sheet.width == 4 * 128 + 3 * 8
    assert Film(8, film.run).contact_sheet() is None
