"""Claims about `FluxWidget`'s Python side and its saved page, without a browser."""

import base64
import html
import json
import re
import signal
import threading
import warnings

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb import images
from fluxnb.errors import CheckpointError, InputError
from fluxnb.probe import Probe
from fluxnb.session import FluxSession
from fluxnb.widgets import FluxWidget, flux
from fluxnb.widgets.runner import Runner

SOON = 60  # seconds that nothing here should take


class Gate(threading.Event):
    """Holds whoever comes to it until it is set; `reached` says when somebody is there."""

    def __init__(self):
        super().__init__()
        self.reached = threading.Event()

    def pass_through(self):
        self.reached.set()
        assert self.wait(SOON)


@pytest.fixture(scope="module")
def session():
    return stubs.session()


@pytest.fixture
def taught():
    """A session on a model that knows what it was taught."""
    return stubs.session(vocabulary=stubs.TAUGHT)


@pytest.fixture
def wire(monkeypatch):
    """Everything that widgets send, as (content, buffers)."""
    sent = []
    monkeypatch.setattr(
        FluxWidget, "send", lambda self, content, buffers=None: sent.append((content, buffers))
    )
    return sent


@pytest.fixture
def make(session, wire):
    """Makes widgets on the stub and closes them."""
    made = []

    def make(*given, **arguments):
        made.append(FluxWidget(*(given or (session,)), **arguments))
        return made[-1]

    yield make
    for widget in made:
        widget.close()
        assert widget._runner.wait(SOON)  # the piece in flight would speak into the next test


@pytest.fixture
def gate(monkeypatch, session):
    """Holds every run before its third step until it is set."""
    gate = Gate()
    step = session.pipeline.step

    def slow(index, *rest):
        if index == 2:
            gate.pass_through()
        return step(index, *rest)

    monkeypatch.setattr(session.pipeline, "step", slow)
    yield gate
    gate.set()


def said(widget, **message):
    """What the browser says, as ipywidgets delivers it."""
    widget._handle_custom_msg(message, [])


def generate(widget, number, **settings):
    given = {"prompt": "a cat", "seed": 0, "num_steps": None, "shift": None, "cfg_weight": None}
    said(widget, type="generate", id=number, settings={**given, **settings})


def test_a_widget_draws_by_itself_with_the_models_own_settings(make, session):
    widget = make()
    widget.wait(SOON)
    assert widget.session is session
    assert widget.run.prompt == "a photo of a cat"
    assert widget.run.done and widget.run.num_steps == 4
    assert widget._status["state"] == "done"
    assert (widget._status["step"], widget._status["total"]) == (4, 4)
    assert widget._status["seconds"] == pytest.approx(
        sum(step.seconds for step in widget.run.steps), abs=1e-3
    )


def test_every_argument_of_start_is_one_of_the_widgets(make):
    widget = make(
        prompt="a dog",
        seed=5,
        num_steps=2,
        shift=3.0,
        cfg_weight=2.0,
        negative_text="a cat",
        latent_size=(4, 6),
    )
    widget.wait(SOON)
    run = widget.run
    assert (run.prompt, run.seed, run.num_steps, run.shift) == ("a dog", 5, 2, 3.0)
    assert (run.cfg_weight, run.negative_text, run.latent_size) == (2.0, "a cat", (4, 6))


def test_what_it_is_given_serves_every_run_on_the_workers_thread(make, session):
    channels = session.pipeline.networks.configs.vae.latent_channels
    lazy = mx.random.normal((1, 8, 8, channels), key=mx.random.key(0))
    widget = make(latents=lazy, probes=iter([Probe("cat")]), num_steps=2)
    widget.wait(SOON)
    widget.generate()
    widget.wait(SOON)
    assert [len(maps) for maps in widget.run.maps] == [1, 1]
    assert mx.array_equal(widget.run.steps[0].latents, lazy)


def test_an_unknown_argument_is_an_error_with_a_hint(session):
    with pytest.raises(InputError, match=r"no argument 'step'; did you mean (num_)?steps?"):
        FluxWidget(session, step=3)
    with pytest.raises(InputError, match="did you mean prompt"):
        FluxWidget(session, promt="a cat")


def test_what_is_no_session_is_an_error():
    with pytest.raises(InputError, match=r"'fluxnb/demo', expected a FluxSession.*from_pretrained"):
        FluxWidget("fluxnb/demo")


def test_the_model_is_loaded_by_the_worker_and_said_to_be_loading(make, monkeypatch, session):
    threads, gate = [], threading.Event()

    def load(*_):
        threads.append(threading.current_thread().name)
        assert gate.wait(SOON)
        return session

    monkeypatch.setattr(FluxSession, "from_pretrained", load)
    widget = make(None)
    assert widget._status["state"] == "loading"
    assert widget.run is None
    gate.set()
    assert widget.session is session
    assert threads == ["fluxnb-widget"]
    assert widget.run.done


def test_a_model_that_cannot_be_loaded_is_said_and_tried_again(make, monkeypatch, session):
    def fail(*_):
        raise CheckpointError("vae/config.json is cut off; copy the folder again")

    monkeypatch.setattr(FluxSession, "from_pretrained", fail)
    widget = make(None)
    with pytest.raises(CheckpointError):
        widget.wait(SOON)
    assert widget._status["error"] == "vae/config.json is cut off; copy the folder again"
    monkeypatch.setattr(FluxSession, "from_pretrained", lambda *_: session)
    widget.generate()
    widget.wait(SOON)
    assert widget.run.done


def test_pictures_are_sent_once_a_step_and_the_result_with_the_last(make, wire, monkeypatch):
    monkeypatch.setattr(flux, "PREVIEWS", float("inf"))
    widget = make(num_steps=3)
    widget.wait(SOON)
    assert [content["type"] for content, _ in wire] == ["run", "frames", "frames", "frames"]
    assert [content["steps"] for content, _ in wire[1:]] == [[0], [1], [2, 3]]
    assert {content["run"] for content, _ in wire} == {1}
    assert all(data.startswith(b"\x89PNG") for _, buffers in wire[1:] for data in buffers)


def test_pictures_that_would_hold_up_the_result_come_after_it(make, wire, monkeypatch):
    monkeypatch.setattr(flux, "PREVIEWS", 0)
    widget = make(num_steps=4)
    widget.wait(SOON)
    assert [content["steps"] for content, _ in wire[1:]] == [[0], [3, 4], [1], [2]]


def test_a_page_that_comes_late_gets_everything_again(make, wire):
    widget = make(num_steps=3)
    widget.wait(SOON)
    said(widget, type="maps", run=1, word=1, blocks="all", at=0, view="v")
    widget.wait(SOON)
    wire.clear()
    said(widget, type="hello")
    assert [content["type"] for content, _ in wire] == ["here", "run", "frames", "maps"]
    assert wire[2][0]["steps"] == [0, 1, 2, 3]


def test_a_page_gets_an_answer_also_where_nothing_was_drawn(make, wire):
    widget = make(num_steps=0)
    with pytest.raises(InputError):
        widget.wait(SOON)
    said(widget, type="hello")
    assert wire == [({"type": "here"}, [])]


def test_the_maps_of_a_word_come_in_one_message_for_all_steps(make, wire, monkeypatch):
    monkeypatch.setattr(flux, "PATIENCE", SOON)
    widget = make(num_steps=4)
    widget.wait(SOON)
    wire.clear()
    said(widget, type="maps", run=1, word=4, blocks="double", at=2, view="v")
    widget.wait(SOON)
    [(content, [cells])] = wire
    assert content["steps"] == [2, 1, 3, 0]  # what is looked at comes first
    assert (content["word"], content["blocks"], content["last"]) == (4, "double", True)
    assert len(cells) == 4 * content["height"] * content["width"]


def test_maps_that_take_long_come_one_by_one(make, wire, monkeypatch):
    monkeypatch.setattr(flux, "PATIENCE", 0)
    widget = make(num_steps=3)
    widget.wait(SOON)
    wire.clear()
    said(widget, type="maps", run=1, word=0, blocks="all", at=0, view="v")
    widget.wait(SOON)
    assert [(content["steps"], content["last"]) for content, _ in wire] == [
        ([0], False),
        ([1], False),
        ([2], True),
    ]


def test_maps_of_a_run_that_is_gone_are_not_made(make, wire):
    widget = make()
    widget.wait(SOON)
    wire.clear()
    said(widget, type="maps", run=0, word=1, blocks="all", at=0, view="v")
    widget.wait(SOON)
    assert wire == []


def test_maps_that_cannot_be_had_are_refused_in_one_sentence(make, wire):
    widget = make()
    widget.wait(SOON)
    wire.clear()
    said(widget, type="maps", run=1, word=1, blocks="99", at=0, view="v")
    widget.wait(SOON)
    [(content, _)] = wire
    assert (content["type"], content["word"], content["blocks"]) == ("refused", 1, "99")
    assert "99" in content["sentence"] and "\n" not in content["sentence"]


def test_noisy_pictures_come_when_they_are_asked_for_and_with_later_runs(make, wire):
    widget = make(num_steps=2)
    widget.wait(SOON)
    wire.clear()
    said(widget, type="kind", kind="noisy")
    widget.wait(SOON)
    assert [(c["kind"], c["steps"]) for c, _ in wire] == [("noisy", [0]), ("noisy", [1, 2])]
    said(widget, type="kind", kind="noisy")
    widget.wait(SOON)
    assert len(wire) == 2
    wire.clear()
    generate(widget, 1, num_steps=1)
    widget.wait(SOON)
    assert [c.get("kind") for c, _ in wire] == [None, "clean", "noisy"]


def test_the_browser_draws_with_its_own_settings(make):
    widget = make()
    generate(widget, 10, prompt="a dog", seed=3, num_steps=2, shift=2.5, cfg_weight=1.5)
    widget.wait(SOON)
    assert (widget.run.prompt, widget.run.seed, widget.run.num_steps) == ("a dog", 3, 2)
    assert (widget.prompt, widget.seed, widget.shift, widget.cfg_weight) == ("a dog", 3, 2.5, 1.5)
    assert widget._settings["answers"] == 10


def test_a_request_that_was_overtaken_on_its_way_is_dropped(make):
    widget = make()
    generate(widget, 11, seed=2)
    generate(widget, 10, seed=1)
    widget.wait(SOON)
    assert widget.run.seed == widget.seed == 2


def test_of_many_requests_the_newest_is_drawn_to_its_end(make, gate):
    widget = make()
    assert gate.reached.wait(SOON)
    for number in range(1, 6):
        generate(widget, number, seed=number)
    gate.set()
    widget.wait(SOON)
    assert widget.run.seed == 5 and widget.run.done
    assert widget._runs == 6


@pytest.mark.parametrize(("name", "value"), [("seed", 9), ("shift", 4.0)])
def test_a_live_widget_draws_anew_when_seed_or_shift_move(make, name, value):
    widget = make()
    setattr(widget, name, value)
    widget.wait(SOON)
    assert getattr(widget.run, name) == value and widget._runs == 2


def test_a_widget_that_is_not_live_waits_for_generate(make):
    widget = make(live=False)
    widget.seed = 9
    widget.prompt = "a dog"
    widget.wait(SOON)
    assert (widget.run.seed, widget._settings["seed"]) == (0, 9)
    widget.generate()
    widget.wait(SOON)
    assert (widget.run.seed, widget.run.prompt) == (9, "a dog")


def test_the_live_switch_of_the_browser_reaches_python(make):
    widget = make()
    said(widget, type="live", live=False)
    assert widget.live is False and widget._settings["live"] is False


def test_stop_keeps_the_steps_that_were_made_and_nothing_overwrites_it(make, gate, wire):
    widget = make()
    assert gate.reached.wait(SOON)
    said(widget, type="stop")
    assert widget._status["state"] == "stopped"
    gate.set()
    widget.wait(SOON)
    assert len(widget.run.steps) == 3  # the one in flight was still made
    assert (widget._status["state"], widget._status["step"]) == ("stopped", 3)
    assert sorted(c["steps"] for c, _ in wire if c["type"] == "frames") == [[0], [1], [2]]
    widget.generate()
    widget.wait(SOON)
    assert widget.run.done


def test_a_stopped_run_can_be_looked_into(make, gate, wire):
    widget = make()
    assert gate.reached.wait(SOON)
    widget.stop()
    gate.set()
    widget.wait(SOON)
    wire.clear()
    said(widget, type="maps", run=1, word=0, blocks="all", at=9, view="v")
    widget.wait(SOON)
    assert sorted(step for content, _ in wire for step in content["steps"]) == [0, 1, 2]


def test_an_interrupt_while_waiting_stops_the_run_and_keeps_its_steps(make, gate):
    widget = make()
    assert gate.reached.wait(SOON)
    interrupt = threading.Timer(0.05, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        interrupt.start()  # in here: an early one would end the session
        widget.wait(SOON)
    gate.set()
    widget.wait(SOON)
    assert len(widget.run.steps) == 3 and not widget.run.done
    widget.generate()
    widget.wait(SOON)
    assert widget.run.done


def test_wait_says_when_its_time_is_over(make, gate):
    widget = make()
    with pytest.raises(TimeoutError, match=r"not done after 0\.01 s"):
        widget.wait(0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"shift": 0}, "shift"),
        ({"shift": float("nan")}, "shift"),
        ({"seed": 1.5}, "seed"),
        ({"cfg_weight": -1}, "cfg_weight"),
        ({"latent_size": (7, 8)}, "latent_size"),
    ],
)
def test_a_bad_value_is_one_sentence_under_the_widget_and_an_error_in_wait(make, settings, words):
    widget = make(**settings)
    with pytest.raises(InputError, match=words) as caught:
        widget.wait(SOON)
    assert widget._status["state"] == "failed"
    assert widget._status["error"] == str(caught.value)
    assert "\n" not in widget._status["error"]
    json.dumps(widget.get_state(), allow_nan=False, default=str)


def test_an_error_leaves_the_last_run_and_a_usable_widget(make):
    widget = make()
    widget.wait(SOON)
    run = widget.run
    generate(widget, 1, num_steps=-3)
    with pytest.raises(InputError):
        widget.wait(SOON)
    assert widget.run is run
    generate(widget, 2, num_steps=2)
    widget.wait(SOON)
    assert widget.run.num_steps == 2 and widget._status["error"] == ""


@pytest.mark.parametrize(
    "given",
    [
        {"seed": np.int64(5), "num_steps": np.int32(2), "shift": np.float32(1.5)},
        {"seed": 2**53 + 1},  # a browser would make it 2**53
        {"seed": 2**64 - 1},
    ],
)
def test_numbers_set_from_python_come_back_from_the_browser_as_they_were(make, given):
    widget = make(**{"num_steps": 2} | given)
    widget.wait(SOON)
    # A browser's numbers are floats: whole ones are exact up to 2**53 alone.
    seed, sent = widget.run.seed, json.loads(json.dumps(widget._settings), parse_int=lambda n: int(float(n)))
    generate(widget, 1, **{name: sent[name] for name in flux.PANEL})
    widget.wait(SOON)
    assert widget.run.seed == seed == given["seed"]
    assert (widget.run.num_steps, widget.run.shift) == (2, given.get("shift", 1))


def test_a_seed_beyond_all_bounds_is_said_under_the_widget(make):
    widget = make(seed=10**400)
    with pytest.raises(InputError, match="seed is 1000"):
        widget.wait(SOON)
    assert widget._status["state"] == "failed"


@pytest.fixture
def developing(make, wire, monkeypatch, session):
    """A widget that has drawn three steps, held while it makes the noisy pictures; and what holds it."""
    widget = make(num_steps=3)
    widget.wait(SOON)
    decode, asked = session.pipeline.decode, Gate()

    def slow(*given):
        asked.pass_through()
        return decode(*given)

    monkeypatch.setattr(session.pipeline, "decode", slow)
    wire.clear()
    said(widget, type="kind", kind="noisy")
    assert asked.reached.wait(SOON)
    return widget, asked


def pictures(wire):
    return {step for content, _ in wire if content["type"] == "frames" for step in content["steps"]}


def test_a_failed_run_leaves_no_picture_of_the_run_before_unmade(developing, wire):
    widget, asked = developing
    generate(widget, 1, num_steps=0)  # drops what is being made
    asked.set()
    with pytest.raises(InputError):
        widget.wait(SOON)
    assert pictures(wire) == {0, 1, 2, 3}


def test_stop_lets_pictures_of_a_run_that_is_drawn_come(developing, wire):
    widget, asked = developing
    widget.stop()
    asked.set()
    widget.wait(SOON)
    assert widget._status["state"] == "done" and pictures(wire) == {0, 1, 2, 3}


def test_a_widget_that_was_closed_before_it_loaded_a_model_has_no_session(monkeypatch):
    monkeypatch.setattr(Runner, "draw", lambda self, job: None)  # the worker has not begun
    widget = FluxWidget()
    widget.close()
    with pytest.raises(InputError, match="stopped or closed before its model was loaded"):
        _ = widget.session


def test_an_error_of_others_names_its_kind(make, monkeypatch, session):
    monkeypatch.setattr(session.pipeline, "step", lambda *_: 1 / 0)
    widget = make()
    with pytest.raises(ZeroDivisionError):
        widget.wait(SOON)
    assert widget._status["error"] == "ZeroDivisionError: division by zero; wait() raises it in full"


def test_a_picture_that_cannot_be_made_is_said_under_the_widget(make, monkeypatch, session):
    widget = make(num_steps=2)
    widget.wait(SOON)
    monkeypatch.setattr(session.pipeline, "decode", lambda *_: 1 / 0)
    said(widget, type="kind", kind="noisy")
    widget.wait(SOON)
    assert widget._status["state"] == "done"
    assert widget._status["error"] == "ZeroDivisionError: division by zero"


def test_a_picture_that_fails_for_a_run_that_is_gone_is_not_said(make, monkeypatch, session, gate):
    widget = make(num_steps=2)
    widget.wait(SOON)
    decode, asked = session.pipeline.decode, Gate()

    def fail_late(*_):
        monkeypatch.setattr(session.pipeline, "decode", decode)
        asked.pass_through()
        raise ValueError("of the old run")

    monkeypatch.setattr(session.pipeline, "decode", fail_late)
    said(widget, type="kind", kind="noisy")
    assert asked.reached.wait(SOON)
    widget.num_steps, errors = 4, []
    widget.observe(lambda change: errors.append(change.new["error"]), "_status")
    widget.generate()
    asked.set()
    assert gate.reached.wait(SOON)
    assert len(errors) >= 2 and set(errors) == {""}


def test_a_closed_widget_says_so_instead_of_waiting_for_ever(session, tmp_path):
    widget = FluxWidget(session)
    widget.wait(SOON)
    widget.close()
    for use in (
        widget.generate,
        lambda: widget.save(tmp_path / "x.html"),
        lambda: setattr(widget, "seed", 1),
    ):
        with pytest.raises(InputError, match="this widget is closed"):
            use()
    widget.wait(SOON)


def test_what_a_prompt_lost_is_said_under_the_widget_and_not_on_stderr(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        widget = make(prompt="nonsense " * 40)
        widget.wait(SOON)
    assert "too long" in widget._status["note"]
    assert [str(one.message) for one in caught] == []
    assert widget.run.done


def test_what_a_negative_text_lost_is_said_too_but_not_that_it_is_empty(make):
    widget = make(cfg_weight=2.0, negative_text="blurry " * 40)
    widget.wait(SOON)
    assert "'blurry blurry" in widget._status["note"] and "too long" in widget._status["note"]
    widget = make(cfg_weight=2.0)
    widget.wait(SOON)
    assert widget._status["note"] == ""


def test_words_and_a_size_that_were_not_taught_are_said_under_the_prompt_once_a_run(session, make, taught):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        widget = make(
            taught, prompt="a <b>kitten</b>", latent_size=(2, 4), cfg_weight=2.0, negative_text="fog"
        )
        notes = []
        widget.observe(lambda change: notes.append(change.new["note"]), "_status")
        widget.wait(SOON)
    assert caught == []
    note = widget._status["note"]
    assert "'kitten' (try cat)" in note and "'fog'" in note and "at 32 x 16 pixels" in note
    assert set(notes) <= {"", note}
    widget.prompt = "a cat"
    assert widget._status["note"] == note
    widget._fixed = {}
    widget.generate()
    widget.wait(SOON)
    assert widget._status["note"] == ""


def test_its_name_is_the_same_in_every_kernel(make):
    widget = make(num_steps=2)
    first = repr(widget)
    widget.wait(SOON)
    assert repr(widget) == first == "FluxWidget(prompt='a photo of a cat', seed=0, num_steps=2)"


def test_places_without_widgets_get_a_picture(make):
    widget = make(num_steps=3)
    widget.wait(SOON)
    data, _ = widget._repr_mimebundle_()
    assert images.decode(data["image/png"]).size == (4 * 128 + 3 * 8, 128 + images.LABEL_HEIGHT)
    assert data["text/plain"] == repr(widget)


def test_the_state_that_a_notebook_keeps_is_small(make):
    widget = make()
    widget.wait(SOON)
    said(widget, type="maps", run=1, word=0, blocks="all", at=0, view="v")
    widget.wait(SOON)
    state = {key: value for key, value in widget.get_state().items() if key not in ("_esm", "_css")}
    assert len(json.dumps(state, default=str)) < 2000


# ---- the saved page


def film_of(page):
    return json.loads(
        re.search(r'<script type="application/json" id="film">(.*?)</script>', page, re.DOTALL)[1]
    )


def test_a_saved_page_holds_all_pictures_and_the_maps_of_all_words(make, tmp_path):
    widget = make(prompt="a cat", num_steps=2)
    path = widget.save(tmp_path / "cat.html")
    film = film_of(path.read_text(encoding="utf-8"))
    contents = [one["content"] for one in film["messages"]]
    assert [c["kind"] for c in contents if c["type"] == "frames"] == ["clean", "noisy"]
    asked = {(c["word"], c["blocks"]) for c in contents if c["type"] == "maps"}
    assert asked == {(word, blocks) for word in (0, 1) for blocks in ("all", "double", "single")}
    assert film["state"]["_status"]["state"] == "saved"
    assert (film["state"]["_settings"]["num_steps"], film["state"]["_settings"]["shift"]) == (2, 1.0)
    last = base64.b64decode(film["messages"][1]["buffers"][-1])
    assert images.decode(last).tobytes() == widget.run.image().tobytes()


def test_a_page_may_go_to_the_home_folder(make, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make(num_steps=1).save("~/cat.html", blocks=()) == tmp_path / "cat.html"
    assert (tmp_path / "cat.html").is_file()


def test_a_prompt_cannot_break_out_of_a_saved_page(make, tmp_path):
    prompt = "</script><script>alert(1)</script><!-- {{css}} \u2028 & \" '"
    page = make(prompt=prompt, num_steps=1).save(tmp_path / "x.html", blocks=()).read_text(encoding="utf-8")
    assert page.count("</script>") == 2  # the film and the module
    assert "alert(1)</script>" not in page and "<!-- {{css}}" not in page
    assert film_of(page)["state"]["_settings"]["prompt"] == prompt
    assert html.unescape(re.search(r"<title>(.*?)</title>", page, re.DOTALL)[1]) == prompt


def test_a_saved_page_asks_nobody_for_anything(make, tmp_path):
    page = make(num_steps=1).save(tmp_path / "x.html", blocks=()).read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href|@import)\s*=?\s*"', page)
    assert set(re.findall(r"https?://[^\s\"'\\]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_save_wants_a_page_and_a_run(make, monkeypatch, session, tmp_path):
    widget = make(num_steps=0)
    with pytest.raises(InputError, match="nothing has been drawn"):
        widget.save(tmp_path / "x.html")
    with pytest.raises(InputError, match=r"cat\.png' does not end in \.html"):
        widget.save("cat.png")
    with pytest.raises(InputError, match=r"there is no folder .*pages.* to save 'cat\.html' in"):
        widget.save(tmp_path / "pages" / "cat.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("blocks", "held"), [((1,), {"1"}), (3, {"3"}), ("all", {"all"}), (("double", "2", 2), {"double", "2"})]
)
def test_blocks_of_a_saved_page_are_given_as_everywhere(make, tmp_path, blocks, held):
    path = make(prompt="cat", num_steps=1).save(tmp_path / "x.html", blocks=blocks)
    contents = [one["content"] for one in film_of(path.read_text(encoding="utf-8"))["messages"]]
    assert {c["blocks"] for c in contents if c["type"] == "maps"} == held


@pytest.mark.parametrize("blocks", [("all", 9), ("-1",), "dubble", 1.0, ((0, 1),)])
def test_blocks_that_the_model_has_not_are_an_error_before_anything_is_read(make, wire, tmp_path, blocks):
    widget = make(num_steps=1)
    widget.wait(SOON)
    wire.clear()
    with pytest.raises(InputError, match="block"):
        widget.save(tmp_path / "x.html", blocks=blocks)
    assert widget._film.undeveloped("noisy") == [0]


def test_a_page_saved_after_a_failed_run_tells_of_the_run_it_shows(make, tmp_path):
    widget = make(num_steps=2, prompt="nonsense " * 40)
    widget.wait(SOON)
    generate(widget, 1, num_steps=0)
    page = widget.save(tmp_path / "x.html", blocks=()).read_text(encoding="utf-8")
    status = film_of(page)["state"]["_status"]
    assert (status["state"], status["run"], status["step"], status["total"]) == ("saved", 1, 2, 2)
    assert status["seconds"] == sum(step.seconds for step in widget.run.steps)
    assert "too long" in status["note"] and status["error"] == ""
