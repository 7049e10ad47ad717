"""Claims about flux.js and flux.css in Chromium, without Jupyter."""

import re

import numpy as np
import pytest
import stubs
from browser.stand_in import StandIn

from fluxnb import images
from fluxnb.widgets.film import Film, Message

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect
STEPS = 6
HOSTILE = "<img src=x onerror='window.broken = true'></script><b>bold</b>"


@pytest.fixture(scope="module")
def film():
    """A finished film of the toy model, all pictures developed."""
    film = Film(1, stubs.session().start("a cat and a sunflower", num_steps=STEPS, shift=3.0).finish())
    for kind in ("clean", "noisy"):
        for step in range(STEPS):
            film.develop(kind, step)
    return film


def pictures(film, kind="clean", steps=range(STEPS)):
    return [film.develop(kind, step) for step in steps]


def look(film, word, blocks="double"):
    for step in range(STEPS):
        film.look(word, blocks, step)
    return film.maps(word, blocks, range(STEPS), last=True)


def picture(film, step, kind="clean"):
    message = film.develop(kind, min(step, STEPS - 1))
    return message.buffers[message.content["steps"].index(step)]


@pytest.fixture
def blank(page, tmp_path):
    """A widget that has heard nothing."""
    yield StandIn(page, tmp_path)
    assert page.troubles == []


@pytest.fixture
def view(blank, film):
    """A widget with a finished run; what it sent until now is forgotten."""
    blank.hear(film.opening(), *pictures(film))
    blank.sent()
    return blank


def chip(view, word):
    return view.page.get_by_role("radio", name=word, exact=True)


# ---- pictures


def test_a_new_page_asks_for_the_pictures_and_shows_them_when_they_come(blank, film):
    assert [message["type"] for message in blank.sent()] == ["hello"]
    blank.hear(*film.messages())
    assert blank.shown() == picture(film, STEPS)
    assert blank.where() == "step 6 of 6 · σ 0.000"


def test_a_running_film_is_followed_until_one_looks_back(blank, film):
    blank.put("_status", state="drawing")
    blank.hear(film.opening(), *pictures(film, steps=[0, 1, 2]))
    assert blank.shown() == picture(film, 2)
    blank.scrub(1)
    blank.hear(*pictures(film, steps=[3]))
    assert blank.shown() == picture(film, 1)
    blank.scrub(3)
    blank.hear(*pictures(film, steps=[4]))
    assert blank.shown() == picture(film, 4)


def test_a_picture_that_comes_after_the_result_is_shown_when_it_is_there(blank, film):
    blank.hear(film.opening(), *pictures(film, steps=[0, 5]))
    assert blank.shown() == picture(film, 6)
    blank.scrub(2)
    assert blank.where() == f"step 2 of 6 · σ {film.run.sigmas[2]:.3f}"
    img, empty = blank.page.locator(".fluxnb-frame img"), blank.page.locator(".fluxnb-empty")
    expect(empty).to_have_text("developing …")
    expect(img).to_be_hidden()  # it is another step's
    expect(img).to_have_attribute("alt", "")
    blank.hear(*pictures(film, steps=[1, 2]))
    assert blank.shown() == picture(film, 2)
    expect(img).to_be_visible()
    expect(empty).to_have_text("")


def test_no_picture_stands_under_the_name_of_the_other_kind(view, film):
    img = view.page.locator(".fluxnb-frame img")
    chip(view, "noisy").click()
    expect(img).to_be_hidden()
    chip(view, "clean estimate").click()
    expect(img).to_be_visible()
    chip(view, "noisy").click()
    view.hear(*pictures(film, "noisy"))
    expect(img).to_be_visible()
    assert view.shown() == picture(film, 6, "noisy")


def test_the_last_picture_stays_while_the_next_run_begins_and_goes_if_it_never_does(view, film):
    img = view.page.locator(".fluxnb-frame img")
    view.put("_status", state="drawing", run=2, step=0)
    view.hear(Message({**film.opening().content, "run": 2}))
    expect(img).to_be_visible()
    expect(view.page.locator(".fluxnb-empty")).to_have_text("")
    view.put("_status", state="failed", error="out of memory")
    expect(img).to_be_hidden()


def test_a_picture_is_described_by_the_prompt_that_drew_it(view):
    view.put("_settings", prompt="a dog")
    view.scrub(2)
    expect(view.page.locator(".fluxnb-frame img")).to_have_attribute(
        "alt", "clean estimate at step 2 of 6: a cat and a sunflower"
    )


def test_scrubbing_shows_every_step_without_a_word_to_the_kernel(view, film):
    for step in range(STEPS + 1):
        view.scrub(step)
        assert view.shown() == picture(film, step)
        assert view.where() == f"step {step} of 6 · σ {film.run.sigmas[step]:.3f}"
    assert view.sent() == []


def test_the_slider_answers_to_keys(view, film):
    view.page.get_by_label("step", exact=True).focus()
    view.page.keyboard.press("Home")
    view.page.keyboard.press("ArrowRight")
    assert view.shown() == picture(film, 1)
    assert view.sent() == []


def test_the_marker_on_the_curve_is_a_slider_with_keys(view, film):
    marker = view.page.get_by_role("slider", name="step on the sigma curve")
    marker.focus()
    for key, step in [
        ("Home", 0),
        ("ArrowRight", 1),
        ("ArrowUp", 2),
        ("ArrowLeft", 1),
        ("End", 6),
        ("PageDown", 5),
    ]:
        view.page.keyboard.press(key)
        assert view.shown() == picture(film, step)
        expect(marker).to_have_attribute("aria-valuenow", str(step))
    expect(marker).to_have_attribute("aria-valuetext", f"step 5 of 6, sigma {film.run.sigmas[5]:.3f}")
    assert view.sent() == []


def test_the_marker_can_be_dragged_along_the_curve(view, film):
    marker = view.page.locator(".fluxnb-marker circle").last.bounding_box()
    curve = view.page.locator(".fluxnb-curve").bounding_box()
    mouse, y = view.page.mouse, marker["y"] + marker["height"] / 2
    mouse.move(marker["x"] + marker["width"] / 2, y)
    mouse.down()
    mouse.move(curve["x"] + curve["width"] / 2, y, steps=5)
    mouse.up()
    assert view.shown() == picture(film, 3)
    view.page.keyboard.press("ArrowLeft")  # the drag left the focus on the marker
    assert view.shown() == picture(film, 2)
    assert view.sent() == []


def test_the_marker_lies_on_the_curve(view, film):
    for step in (0, 2, 6):
        view.scrub(step)
        at = view.page.locator(".fluxnb-marker").get_attribute("transform")
        x, y = (float(number) for number in at.removeprefix("translate(").rstrip(")").split())
        assert x == pytest.approx(26 + 324 * step / STEPS)
        assert y == pytest.approx(10 + 102 * (1 - film.run.sigmas[step]))


def test_noisy_pictures_are_asked_for_once_and_then_scrubbed_here(view, film):
    chip(view, "noisy").click()
    assert view.sent() == [{"type": "kind", "kind": "noisy"}]
    view.hear(*pictures(film, "noisy"))
    for step in (0, 3, 6):
        view.scrub(step)
        assert view.shown() == picture(film, step, "noisy")
    chip(view, "clean estimate").click()
    view.scrub(0)
    assert view.shown() == picture(film, 0)
    assert [message["type"] for message in view.sent()] == ["kind"]


def test_a_picture_of_a_run_that_is_gone_is_not_shown(view, film):
    stray = film.develop("noisy", 0)
    view.hear(Message({**stray.content, "kind": "clean", "run": 99}, stray.buffers))
    view.scrub(0)
    assert view.shown() == picture(film, 0)


def test_a_second_view_shows_the_same_film_and_scrubs_by_itself(view, film):
    view.page.evaluate("() => { open_view(); }")
    wheres = view.page.locator(".fluxnb-where")
    expect(wheres).to_have_text(["step 6 of 6 · σ 0.000"] * 2)
    view.page.get_by_label("step", exact=True).first.focus()
    view.page.keyboard.press("Home")
    expect(wheres).to_have_text(["step 0 of 6 · σ 1.000", "step 6 of 6 · σ 0.000"])


def test_noisy_pictures_are_drawn_as_long_as_a_view_shows_them(view):
    view.page.evaluate("() => { open_view(); }")
    kind = [view.page.get_by_role("radio", name=name) for name in ("clean estimate", "noisy")]
    kind[1].nth(0).click()
    kind[1].nth(1).click()
    kind[0].nth(0).click()
    assert [message["kind"] for message in view.sent("kind")] == ["noisy"] * 3
    kind[0].nth(1).click()
    assert [message["kind"] for message in view.sent("kind")] == ["clean"]


def test_a_step_that_is_not_drawn_yet_is_not_pointed_at(view, film):
    view.scrub(5)
    chip(view, "cat").click()
    view.put("_status", state="drawing", run=2, step=0)
    opening = Message({**film.opening().content, "run": 2}, ())
    again = [Message({**one.content, "run": 2}, one.buffers) for one in pictures(film, steps=range(2))]
    view.hear(opening, *again)
    view.sent()
    view.put("_status", state="stopped", step=1)
    marker = view.page.get_by_label("step on the sigma curve")
    x = float(marker.get_attribute("transform").split("(")[1].split()[0])
    assert int(marker.get_attribute("aria-valuenow")) == 1
    assert x == pytest.approx(26 + (360 - 26 - 10) / STEPS)  # of the curve's 360
    assert [message["at"] for message in view.sent("maps")] == [1]


def test_a_page_without_a_kernel_says_what_to_do(page, tmp_path):
    page.clock.install()
    StandIn(page, tmp_path)
    page.clock.fast_forward(5000)
    expect(page.locator(".fluxnb-empty")).to_have_text(
        "The pictures live in the kernel: run this cell again."
    )


@pytest.mark.parametrize("late", [False, True])
def test_a_kernel_that_answers_is_not_called_gone_though_nothing_was_drawn(page, tmp_path, late):
    page.clock.install()
    view = StandIn(page, tmp_path, status={"state": "failed", "error": "num_steps is 0"})
    here = Message({"type": "here"})
    if not late:
        view.hear(here)
    page.clock.fast_forward(5000)
    view.hear(here)
    expect(page.locator(".fluxnb-empty")).to_have_text("")
    view.scrub(0)
    expect(page.locator(".fluxnb-empty")).to_have_text("")


def test_sharp_pixels_are_one_click_away(view):
    img = view.page.locator(".fluxnb-frame img")
    expect(img).to_have_css("image-rendering", "auto")
    view.page.get_by_label("smooth").uncheck()
    expect(img).to_have_css("image-rendering", "pixelated")


# ---- words


def test_a_word_is_asked_for_once_and_its_map_lies_over_the_picture(view, film):
    view.scrub(2)
    chip(view, "sunflower").click()
    [asked] = view.sent()
    assert asked.pop("view")
    assert asked == {"type": "maps", "run": 1, "word": 4, "blocks": "double", "at": 2}
    assert view.heat() is None
    view.hear(look(film, 4))
    for step in (2, 0, 5):
        view.scrub(step)
        truth = film.run.attention(step, film.run.words[4], blocks="double").weights
        assert np.abs(np.array(view.heat()) - images.colours(images.to_grid(truth)).astype(int)).max() <= 1
    assert view.sent() == []


def test_the_result_is_shown_with_the_map_of_the_last_step(view, film):
    chip(view, "cat").click()
    view.hear(look(film, 1))
    view.scrub(5)
    before = view.heat()
    view.scrub(6)
    assert view.heat() == before
    expect(view.page.locator(".fluxnb-mass")).to_contain_text("In step 5 the picture looks at")


def test_where_the_attention_went_is_said_in_shares(view, film):
    chip(view, "cat").click()
    view.hear(look(film, 1))
    mass = film.run.attention(5, film.run.words[1], blocks="double").mass
    text = view.page.locator(".fluxnb-mass")
    expect(text).to_contain_text(f"the picture looks at itself {100 * mass.image:.0f} %")
    expect(text).to_contain_text(f"padding {100 * mass.pad:.0f} %")


def test_a_second_click_or_none_takes_the_map_away(view, film):
    chip(view, "cat").click()
    view.hear(look(film, 1))
    assert view.heat() is not None
    chip(view, "cat").click()
    assert view.heat() is None
    expect(chip(view, "none")).to_have_attribute("aria-checked", "true")


def test_arrows_walk_through_the_words_as_through_radio_buttons(view):
    chip(view, "cat").click()
    view.page.keyboard.press("ArrowRight")
    expect(chip(view, "and")).to_have_attribute("aria-checked", "true")
    expect(chip(view, "and")).to_be_focused()
    view.page.keyboard.press("Home")
    view.page.keyboard.press("ArrowLeft")
    expect(chip(view, "sunflower")).to_be_focused()
    group = view.page.get_by_role("radiogroup", name="word whose attention is shown")
    assert group.locator("[tabindex='0']").count() == 1


def test_of_two_equal_words_each_is_its_own(view):
    chip(view, "a").nth(1).click()
    assert [message["word"] for message in view.sent("maps")] == [3]


def test_another_choice_of_blocks_asks_anew_and_is_kept(view, film):
    chip(view, "cat").click()
    view.hear(look(film, 1))
    blocks = view.page.get_by_label("blocks")
    assert blocks.locator("option").all_text_contents() == [
        "all", "all double", "all single", "double 0", "double 1", "single 0", "single 1",
    ]  # fmt: skip
    blocks.select_option("single 1")
    assert [message["blocks"] for message in view.sent("maps")] == ["double", "3"]
    view.hear(look(film, 1, "3"))
    truth = film.run.attention(5, "cat", blocks=3).weights
    assert np.abs(np.array(view.heat()) - images.colours(images.to_grid(truth)).astype(int)).max() <= 1
    blocks.select_option("double")
    assert view.sent() == []


def test_the_map_is_as_opaque_as_one_likes(view, film):
    chip(view, "cat").click()
    view.hear(look(film, 1))
    opacity = view.page.get_by_label("opacity of the map")
    opacity.focus()
    view.page.keyboard.press("End")
    expect(view.page.locator(".fluxnb-frame canvas")).to_have_css("opacity", "1")


def test_maps_wait_for_the_end_of_the_run(blank, film):
    blank.put("_status", state="drawing", step=3)
    blank.hear(film.opening(), *pictures(film, steps=[0, 1, 2]))
    chip(blank, "cat").click()
    assert blank.sent("maps") == []
    blank.put("_status", state="done")
    assert [message["word"] for message in blank.sent("maps")] == [1]


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_what_a_run_that_came_to_nothing_took_the_place_of_is_asked_for_again(view, state):
    chip(view, "cat").click()
    view.page.get_by_role("radio", name="noisy").click()
    view.sent()
    view.put("_status", state="drawing", run=2, step=0, total=0)
    view.put("_status", state=state)
    assert [message["type"] for message in view.sent()] == ["kind", "maps"]


def test_a_saved_page_says_which_maps_it_does_not_hold(view):
    view.put("_status", state="saved")
    chip(view, "cat").click()
    expect(view.page.locator(".fluxnb-mass")).to_have_text("This page holds no map of “cat” in these blocks.")


def test_a_chosen_word_stays_chosen_when_the_picture_is_drawn_anew(view, film):
    chip(view, "cat").click()
    view.hear(look(film, 1))
    view.sent()
    view.put("_status", state="drawing", run=2)
    view.hear(*[Message({**m.content, "run": 2}, m.buffers) for m in (film.opening(), *pictures(film))])
    assert view.heat() is None and view.sent() == []
    view.put("_status", state="done")
    assert [(message["run"], message["word"]) for message in view.sent("maps")] == [(2, 1)]


def test_a_chosen_word_is_followed_into_another_prompt_and_let_go_if_it_is_not_there(view, film):
    chip(view, "cat").click()
    view.hear(look(film, 1))
    view.sent()
    for run, words in [(2, ["big", "yellow", "cat"]), (3, ["a", "dog", "and", "a", "fox"])]:
        view.hear(Message({**film.opening().content, "run": run, "words": words}))
        view.hear(*[Message({**m.content, "run": run}, m.buffers) for m in pictures(film)])
    assert [(message["run"], message["word"]) for message in view.sent("maps")] == [(2, 2)]
    expect(chip(view, "none")).to_have_attribute("aria-checked", "true")


def test_maps_that_are_refused_are_one_sentence_and_the_widget_goes_on(view, film):
    chip(view, "cat").click()
    view.hear(film.refusal(1, "double", "there is no block 'double'"))
    alert = view.page.locator(".fluxnb-error[role=alert]")
    expect(alert).to_have_text("there is no block 'double'")
    chip(view, "sunflower").click()
    expect(alert).to_be_hidden()
    view.hear(look(film, 4))
    assert view.heat() is not None


# ---- settings


def test_generate_sends_all_settings_in_one_message(view):
    page = view.page
    page.get_by_label("prompt").fill("a dog")
    page.get_by_label("steps", exact=True).fill("8")
    page.get_by_label("CFG weight").fill("2.5")
    page.get_by_role("button", name="Generate").click()
    [message] = view.sent()
    assert message["type"] == "generate" and message["id"] > 0
    assert message["settings"] == {
        "prompt": "a dog", "seed": 0, "num_steps": 8, "shift": None, "cfg_weight": 2.5, "live": True,
    }  # fmt: skip


@pytest.mark.parametrize("label", ["prompt", "seed", "steps", "CFG weight"])
def test_enter_generates(view, label):
    view.page.get_by_label(label, exact=True).press("Enter")
    assert len(view.sent("generate")) == 1


def test_what_is_the_models_own_is_shown_and_left_to_it(view):
    expect(view.page.get_by_label("steps", exact=True)).to_have_value("6")
    expect(view.page.get_by_label("shift", exact=True)).to_have_value("3")
    view.page.get_by_label("steps", exact=True).fill("9")
    view.page.get_by_label("steps", exact=True).fill("")
    view.page.get_by_role("button", name="Generate").click()
    assert view.sent()[-1]["settings"]["num_steps"] is None


def test_live_draws_when_seed_or_shift_move_and_else_not(view):
    page = view.page
    page.get_by_label("steps", exact=True).fill("9")
    page.get_by_label("prompt").fill("a dog")
    page.get_by_label("seed", exact=True).fill("7")
    page.wait_for_function("() => model.sent.length === 1")
    assert view.sent()[0]["settings"]["seed"] == 7
    page.get_by_role("button", name="another seed").click()
    page.wait_for_function("() => model.sent.length === 1")
    assert view.sent()[0]["settings"]["seed"] not in (0, 7)
    page.get_by_role("switch", name="live").uncheck()
    assert view.sent() == [{"type": "live", "live": False}]
    page.clock.install()
    page.get_by_label("seed", exact=True).fill("8")
    page.get_by_label("shift slider").press("ArrowRight")
    page.clock.fast_forward(1000)  # milliseconds, longer than two live requests are apart
    assert view.sent() == []


def test_a_flood_from_the_shift_slider_becomes_few_requests_and_ends_in_the_last(view):
    view.page.get_by_label("shift slider").evaluate(
        """async (node) => {
            for (let i = 0; i <= 40; i++) {
                node.value = i / 20;
                node.dispatchEvent(new Event("input", { bubbles: true }));
                await new Promise((done) => setTimeout(done, 5));
            }
        }"""
    )
    view.page.wait_for_function("() => model.sent.at(-1)?.settings.shift === 4")
    sent = view.sent("generate")
    assert len(sent) <= 21
    assert [message["id"] for message in sent] == sorted({message["id"] for message in sent})


def test_an_answer_to_an_older_request_does_not_pull_the_slider_back(view):
    slider = view.page.get_by_label("shift slider")
    slider.evaluate(
        "(node) => { node.value = 2; node.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    view.page.wait_for_function("() => model.sent.length === 1")
    [message] = view.sent()
    view.put("_settings", shift=1.5, answers=message["id"] - 1)
    expect(slider).to_have_value("2")
    view.put("_settings", shift=2, answers=message["id"])
    expect(slider).to_have_value("1")


def test_a_request_is_newer_than_the_last_answer_also_where_clocks_differ(view):
    ahead = 10**15  # milliseconds, a clock of the year 33658
    view.put("_settings", answers=ahead)
    view.page.get_by_role("button", name="Generate").click()
    assert [message["id"] for message in view.sent("generate")] == [ahead + 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [("CFG", "0 or 1 is off"), ("shift", "above 1 the steps dwell at high noise"),
     ("Which patches look at a word", "not what the word's own tokens look at")],
)  # fmt: skip
def test_what_needs_a_word_more_says_it_under_the_pointer(view, text, said):
    expect(view.page.locator("[title]", has_text=text).last).to_have_attribute("title", re.compile(said))


def test_a_value_from_python_that_is_no_number_is_left_to_the_error(view):
    view.put("_settings", shift="nan", num_steps=0)
    view.put("_status", state="failed", error="shift is nan; give a finite number above 0")
    expect(view.page.get_by_label("shift", exact=True)).to_have_value("")
    expect(view.page.locator(".fluxnb-error")).to_contain_text("shift is nan")


def test_a_seed_that_the_model_drew_is_shown_to_the_last_digit(blank, film):
    blank.put("_settings", seed=None)
    blank.hear(Message({**film.opening().content, "seed": 1234567}))
    expect(blank.page.get_by_label("seed", exact=True)).to_have_value("1234567")


def test_a_seed_of_more_digits_than_a_browser_counts_is_shown_whole_and_sent_as_it_came(blank, film):
    seed = str(2**64 - 1)
    blank.put("_settings", seed=seed)
    blank.hear(Message({**film.opening().content, "seed": seed}))
    expect(blank.page.get_by_label("seed", exact=True)).to_have_value(seed)
    blank.put("_settings", seed=None)
    expect(blank.page.get_by_label("seed", exact=True)).to_have_value(seed)
    blank.put("_settings", seed=seed)
    blank.sent()
    blank.page.get_by_role("button", name="Generate").click()
    assert blank.sent("generate")[0]["settings"]["seed"] == seed


def test_settings_from_python_are_shown_but_what_one_types_is_kept(view):
    view.page.get_by_label("prompt").fill("a do")
    view.put("_settings", prompt="a fox", seed=12)
    expect(view.page.get_by_label("seed", exact=True)).to_have_value("12")
    expect(view.page.get_by_label("prompt")).to_have_value("a do")


# ---- progress and errors


def test_the_button_stops_what_it_began(view):
    view.put("_status", state="drawing", step=2)
    view.page.get_by_role("button", name="Stop").click()
    assert view.sent() == [{"type": "stop"}]
    view.put("_status", state="stopped")
    expect(view.page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"state": "loading", "total": 0}, "loading the model …"),
        ({"state": "drawing", "step": 0, "total": 0}, "starting …"),
        ({"state": "drawing", "step": 2, "seconds": 0.4}, "step 2 of 6 · 0.40 s"),
        ({"state": "done", "seconds": 12.3}, "6 steps in 12 s"),
        ({"state": "stopped", "step": 2, "seconds": 0.4}, "stopped after 2 of 6 steps · 0.40 s"),
        ({"state": "failed", "total": 0, "error": "num_steps is 0"}, "not drawn: see below"),
        ({"state": "saved", "step": 2, "seconds": 0.4}, "a saved page · 2 of 6 steps in 0.40 s"),
    ],
)
def test_the_status_says_step_and_seconds(view, status, text):
    view.put("_status", **status)
    expect(view.page.get_by_role("status").first).to_have_text(text)


def test_an_error_stands_under_the_widget_and_leaves_it_usable(view, film):
    view.put("_status", state="failed", error="num_steps is 0; give an integer of at least 1")
    expect(view.page.get_by_role("alert")).to_have_text("num_steps is 0; give an integer of at least 1")
    view.scrub(1)
    assert view.shown() == picture(film, 1)
    view.page.get_by_role("button", name="Generate").click()
    assert len(view.sent("generate")) == 1


def test_a_hint_stands_under_the_prompt_above_the_settings_and_is_read_out(view):
    note = view.page.locator(".fluxnb-note")
    expect(note).to_be_hidden()
    view.put("_status", note="This model was not taught 'kitten' (try cat).")
    expect(note).to_have_text("This model was not taught 'kitten' (try cat).")
    expect(note).to_have_attribute("aria-live", "polite")
    prompt, hint, seed = (
        one.bounding_box()
        for one in (view.page.get_by_label("prompt"), note, view.page.get_by_label("seed", exact=True))
    )
    assert prompt["y"] + prompt["height"] <= hint["y"] and hint["y"] + hint["height"] <= seed["y"]


def test_text_of_others_stays_text(blank, film):
    opening = film.opening().content
    blank.hear(Message({**opening, "words": [HOSTILE]}), *pictures(film))
    blank.put("_status", state="failed", error=HOSTILE, note=HOSTILE)
    blank.put("_settings", prompt=HOSTILE)
    chip(blank, HOSTILE).click()
    blank.hear(look(film, 0))
    for selector in (".fluxnb-error", ".fluxnb-note"):
        expect(blank.page.locator(selector)).to_have_text(HOSTILE)
    expect(blank.page.locator(".fluxnb-mass")).to_contain_text(HOSTILE)
    assert blank.page.locator(".fluxnb b, .fluxnb img[src=x]").count() == 0
    assert blank.page.evaluate("() => window.broken") is None


# ---- a kernel that is gone, a view that is gone

GONE = "The kernel was restarted or is gone: run this cell again."


def test_a_restarted_kernel_is_told_at_once_and_the_pictures_stay(view, film):
    view.put("_status", state="drawing", step=2)
    view.page.evaluate("() => model.live(false)")
    expect(view.page.get_by_role("alert")).to_have_text(GONE)
    expect(view.page.get_by_role("button", name="Generate")).to_be_visible()
    expect(view.page.get_by_role("status").first).to_contain_text("stopped after 2 of 6 steps")
    view.scrub(0)
    assert view.shown() == picture(film, 0)
    view.page.evaluate("() => model.live(true)")  # it was only the connection
    view.hear(Message({"type": "here"}))
    expect(view.page.locator(".fluxnb-error")).to_have_text("")
    expect(view.page.get_by_role("button", name="Stop")).to_be_visible()


@pytest.mark.parametrize("name", ["Generate", "another seed", "noisy", "cat"])
def test_whatever_cannot_be_sent_says_that_the_kernel_is_gone(view, name):
    view.page.evaluate("() => { model.lost = true; }")
    view.page.get_by_role("radio" if name in ("noisy", "cat") else "button", name=name, exact=True).click()
    expect(view.page.get_by_role("alert")).to_have_text(GONE)


def test_a_run_that_no_view_shows_any_more_is_stopped(page, tmp_path, film):
    page.clock.install()
    view = StandIn(page, tmp_path, status={"state": "drawing"})
    view.sent()
    page.evaluate("() => { close_view(); window.close_view = open_view(); }")  # the cell was run again
    page.clock.fast_forward(5000)
    assert view.sent("stop") == []
    page.evaluate("() => close_view()")
    page.clock.fast_forward(5000)
    assert view.sent("stop") == [{"type": "stop"}]


def test_a_result_that_no_view_shows_any_more_stays(page, tmp_path):
    page.clock.install()
    view = StandIn(page, tmp_path)
    page.evaluate("() => close_view()")
    page.clock.fast_forward(5000)
    assert view.sent("stop") == []


# ---- for every hand and eye


def test_letters_stay_in_the_widget_and_the_notebooks_own_keys_pass(view):
    view.page.evaluate(
        "() => { window.keys = []; document.addEventListener('keydown', (e) => keys.push(e.key)); }"
    )
    view.page.get_by_label("step", exact=True).focus()
    for key in ("m", "d", "ArrowDown", "Enter"):
        view.page.keyboard.press(key)
    assert view.page.evaluate("() => keys") == []
    for key in ("Escape", "Shift+Enter", "Control+s"):
        view.page.keyboard.press(key)
    assert {"Escape", "Enter", "s"} <= set(view.page.evaluate("() => keys"))


def test_the_notebook_s_own_keys_find_no_element_that_keeps_them(view):
    view.page.evaluate(
        """() => { window.kept = []; document.addEventListener("keydown", (event) =>
            kept.push(event.target.hasAttribute("data-lm-suppress-shortcuts"))); }"""
    )
    prompt = view.page.get_by_label("prompt")
    prompt.focus()
    view.page.keyboard.press("Control+s")
    assert view.page.evaluate("() => kept") == [False, False]  # Control alone, and both
    expect(prompt).to_have_attribute("data-lm-suppress-shortcuts", "true")


def test_what_was_typed_can_be_undone(view):
    view.page.evaluate(
        "() => { window.keys = []; document.addEventListener('keydown', (e) => keys.push(e.key)); }"
    )
    prompt = view.page.get_by_label("prompt")
    before = prompt.input_value()
    prompt.focus()
    view.page.keyboard.type("x")
    view.page.keyboard.press("Control+z")
    expect(prompt).to_have_value(before)
    assert "z" not in view.page.evaluate("() => keys")


def test_a_prompt_is_seen_whole_when_the_widget_narrows(view):
    view.put(
        "_settings", prompt="a large purple butterfly to the left of a small strawberry on a yellow ground"
    )
    prompt = view.page.get_by_label("prompt")
    for width in (1100, 430):
        view.page.set_viewport_size({"width": width, "height": 800})
        view.page.wait_for_function(
            "(node) => node.scrollHeight <= node.clientHeight", arg=prompt.element_handle()
        )


@pytest.mark.parametrize("size", [(32, 8), (4, 40)])
def test_a_map_lies_on_the_picture_and_both_on_the_screen_whatever_the_shape(blank, size):
    run = stubs.session().start("a cat", num_steps=1, latent_size=size).finish()
    film = Film(1, run)
    blank.hear(film.opening(), film.develop("clean", 0))
    img, frame = (blank.page.locator(f".fluxnb-frame{what}") for what in (" img", ""))
    blank.page.wait_for_function("() => document.querySelector('.fluxnb-frame img').naturalWidth > 0")
    expect(frame).to_have_attribute("style", re.compile("--shape"))
    inner, outer = img.bounding_box(), frame.bounding_box()
    assert outer["height"] == pytest.approx(inner["height"], abs=1)
    assert outer["height"] <= 0.81 * blank.page.viewport_size["height"]


def test_whatever_takes_the_focus_keeps_notebook_shortcuts_away_and_has_a_name(view):
    nameless = view.page.evaluate(
        """() => {
            const all = [...document.querySelectorAll("button, input, select, textarea, [tabindex]")];
            const label = (node) => node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent;
            const name = (node) => label(node) ?? node.textContent;
            const kept = (node) => node.hasAttribute("data-lm-suppress-shortcuts");
            return all.filter((node) => !kept(node) || !name(node).trim()).map((node) => node.outerHTML);
        }"""
    )
    assert nameless == []


CONTRAST = """() => {
    const paper = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const light = (colour) => {
        paper.clearRect(0, 0, 1, 1); paper.fillStyle = colour; paper.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...paper.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
        return matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#ffffff";
    };
    const says = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    const all = [...document.querySelectorAll(".fluxnb *")].filter((node) => !(node instanceof SVGElement));
    return all.filter(says).map((node) => {
        const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
        return [node.textContent, (a + 0.05) / (b + 0.05)];
    }).filter(([, ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(view, film, scheme):
    view.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour is on its way
    view.put("_status", error="an error", note="a note")
    chip(view, "cat").click()
    view.hear(look(film, 1))
    assert view.page.evaluate(CONTRAST) == []
    view.put("_status", state="drawing")
    assert view.page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [320, 480, 700, 1600])
def test_nothing_sticks_out_whatever_the_width(view, width):
    view.page.set_viewport_size({"width": width, "height": 900})
    out = view.page.evaluate(
        """() => {
            const { left, right } = document.querySelector(".fluxnb-host").getBoundingClientRect();
            return [...document.querySelectorAll(".fluxnb *")].filter((node) => {
                const box = node.getBoundingClientRect();
                return box.width && !node.closest("svg") && (box.right > right + 5 || box.left < left - 5);
            }).map((node) => node.className);
        }"""
    )
    assert out == []
    prompt = view.page.get_by_label("prompt").evaluate("(node) => node.scrollHeight - node.clientHeight")
    assert prompt <= 0


def test_nothing_moves_for_those_who_asked_for_stillness(view):
    view.page.emulate_media(reduced_motion="reduce")
    moving = view.page.evaluate(
        """() => [...document.querySelectorAll(".fluxnb *")].filter((node) => {
            const style = getComputedStyle(node);
            return parseFloat(style.transitionDuration) || style.animationName !== "none";
        }).length"""
    )
    assert moving == 0
