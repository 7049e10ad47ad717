"""The FLUX widget: a shell around a session, which a worker thread owns.

Knows nothing of networks or arrays. Pictures and maps are made in film.py, drawn by flux.js, and never wait
in a trait: the browser keeps them, and asks for them again when its page is new.
"""

from __future__ import annotations

import difflib
import inspect
import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from fluxnb import given, images
from fluxnb.errors import InputError, PromptWarning
from fluxnb.run import Run
from fluxnb.session import FluxSession
from fluxnb.widgets import export
from fluxnb.widgets.film import Film, Message
from fluxnb.widgets.runner import Pieces, Runner, Ticket
from fluxnb.widgets.status import Status, plain, sentence

HERE = Path(__file__).parent
PANEL = ("prompt", "seed", "num_steps", "shift", "cfg_weight")
"""Settings that the widget has a control for."""

ARGUMENTS = tuple(name for name in inspect.signature(FluxSession.start).parameters if name != "self")
PATIENCE = 0.4  # seconds between two messages while maps are read
PREVIEWS = 0.4  # seconds spent on pictures for each second of steps, at most, until the result is there
GROUPS = ("all", "double", "single")


class FluxWidget(anywidget.AnyWidget):
    """Draws with FLUX.1 in a notebook cell, shows every step, and which patches look at a word.

    Without arguments it draws "a photo of a cat" with the demo model, offline. It begins to draw when it is
    made, on a thread of its own; `wait` blocks until it is done. A run that no page shows any more, since its
    cell was run again or the notebook closed, is stopped after some seconds; its steps stay.

    Args:
        session: What draws; None loads the demo model.
        live: Whether moving the seed or the shift draws anew.
        start_arguments: As for `FluxSession.start`; None, or left out, is the model's own.

    Raises:
        InputError: If an argument is unknown or `session` is no session. Wrong values show under the widget,
            and `wait` raises them.
    """

    _esm = HERE / "flux.js"
    _css = HERE / "flux.css"

    # python -> browser
    _settings = t.Dict().tag(sync=True)  # PANEL, live, and the number of the request they answer
    _status = t.Dict().tag(sync=True)

    # python only; the browser sends its settings in one message, so that they never tear
    prompt = t.Any("a photo of a cat")
    seed = t.Any(0)
    num_steps = t.Any(None)
    shift = t.Any(None)
    cfg_weight = t.Any(None)
    live = t.Bool(True)

    def __init__(
        self, session: FluxSession | None = None, *, live: bool = True, **start_arguments: Any
    ) -> None:
        """Checks the names of the arguments and begins to draw."""
        self._runner = Runner()  # first: close() needs it, whatever fails below
        if session is not None and not isinstance(session, FluxSession):
            raise InputError(
                f"session is {session!r}, expected a FluxSession; "
                "make one with FluxSession(pipeline) or FluxSession.from_pretrained(...)"
            )
        for name in start_arguments:
            _reject_unknown(name)
        self._session = session
        fixed = {name: value for name, value in start_arguments.items() if name not in PANEL}
        self._fixed = given.lasting(fixed)  # each run takes them again, on the worker's thread
        self._film: Film | None = None
        self._newest: Ticket | None = None  # of the newest run
        self._runs = self._answers = 0
        self._taking = False  # whether the settings come from the browser just now
        self._kinds: tuple[str, ...] = ("clean",)  # pictures decoded while a run is drawn
        # What a prompt asks in vain is said under it; the filter holds for calls from this module alone.
        warnings.filterwarnings("ignore", category=PromptWarning, module=r"fluxnb\.widgets\.flux$")
        super().__init__(live=live, **{k: v for k, v in start_arguments.items() if k in PANEL})
        self.on_msg(self._hear)
        self.observe(self._on_setting, [*PANEL, "live"])
        self.generate()

    def __repr__(self) -> str:
        """Says how to make it with the settings of its controls; the same in every kernel."""
        given = {name: getattr(self, name) for name in PANEL}
        said = [f"{name}={value!r}" for name, value in given.items() if value is not None]
        return f"FluxWidget({', '.join(said)})"

    @property
    def session(self) -> FluxSession:
        """The session that draws; waits for the model if it is still loading.

        Raises:
            InputError: If the widget was stopped or closed before it had loaded one.
        """
        if self._session is None:
            self.wait()
        if self._session is None:
            raise InputError(
                "the widget was stopped or closed before its model was loaded; call generate(), or, if "
                "it is closed, make a new one"
            )
        return self._session

    @property
    def run(self) -> Run | None:
        """The newest run, with the steps that it has made; None before the first has begun."""
        return self._film and self._film.run

    def generate(self) -> None:
        """Draws with the present settings, in place of the run that is being drawn.

        Raises:
            InputError: If the widget is closed.
        """
        with self._runner.lock:
            self._check_open()
            self._runs += 1
            wanted = {**self._fixed, **{name: getattr(self, name) for name in PANEL}}
            self._tell_settings()
            self._tell(Status("drawing" if self._session else "loading", self._runs))
            self._newest = self._runner.draw(partial(self._draw, self._runs, wanted))

    def stop(self) -> None:
        """Stops drawing after the step that is being made; the steps made so far stay.

        Pictures and maps of a run that is drawn already are made to the last; `save` is not.
        """
        with self._runner.lock:
            if self._now.state not in ("loading", "drawing"):
                self._runner.stop("save")
                return
            self._runner.stop()
            self._tell(replace(self._now, state="stopped"))
            self._ask_pictures()

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until nothing is being drawn or read. An interrupt (Ctrl-C) stops the run; its steps stay.

        Args:
            timeout: Seconds, or None for as long as it takes.

        Raises:
            TimeoutError: If it takes longer; the run goes on.
            Exception: What ended the newest run, if it failed.
        """
        try:
            if not self._runner.wait(timeout):
                raise TimeoutError(f"the run is not done after {timeout} s; it goes on, stop() ends it")
        except KeyboardInterrupt:
            self.stop()
            raise
        if self._newest is not None and self._newest.error is not None:
            raise self._newest.error

    def save(self, path: str | Path, blocks: str | int | Iterable[str | int] = GROUPS) -> Path:
        """Writes the newest run as one HTML page that needs no kernel, no network and no other file.

        Reads first who looks at each word of the prompt, in these blocks and every step: a pass through the
        network each.

        Args:
            path: Where to write, ending in .html, in a folder that exists.
            blocks: "all", "double", "single", the number of a block, or several; () leaves the maps out.

        Returns:
            The path.

        Raises:
            InputError: If the widget is closed, nothing has been drawn, the model has no such block, or the
                path does not end in .html or cannot be written to.
            FluxnbError: If the disk fails or is full.
        """
        self._check_open()
        path = Path(os.path.expanduser(path))
        if path.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{str(path)!r} does not end in .html, and a page is what save() writes")
        if not path.parent.is_dir():
            raise InputError(
                f"there is no folder {str(path.parent)!r} to save {path.name!r} in; make it first"
            )
        self._rest()
        film = self._film
        if film is None or not film.run.steps:
            raise InputError("nothing has been drawn that could be saved; call generate() and wait()")
        ticket = self._runner.ask("save", partial(self._complete, film, film.choices(blocks)))
        self._rest()
        if ticket.error is not None:
            raise ticket.error
        if not ticket.live:
            raise InputError("a new run began while save() was reading; wait() for it and save() again")
        return export.write_page(path, self._settings, film)

    def close(self) -> None:
        """Closes the widget and lets go of its thread."""
        self._runner.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        """Adds a contact sheet as PNG, for places that show no widgets."""
        bundle = super()._repr_mimebundle_(**kwargs)
        sheet = self._film and self._film.contact_sheet()
        if bundle and sheet:
            bundle[0]["image/png"] = images.encode(sheet)
        return bundle

    # ---- on the worker's thread

    def _draw(self, number: int, wanted: dict, ticket: Ticket) -> Pieces:
        try:
            if self._session is None:
                self._session = FluxSession.from_pretrained()
                yield
            run = self._session.start(**wanted)
            film = Film(number, run)
            with self._runner.lock:
                if not ticket.live:
                    return
                self._film = film
                self._post(film.opening())
                self._tell(Status("drawing", number, total=run.num_steps, note=film.note))
            spent = 0.0  # seconds, on pictures
            for step in run:
                if self._newest is not ticket:
                    return  # a newer run waits
                seconds, pictures = sum(one.seconds for one in run.steps), []
                if run.done or spent <= PREVIEWS * seconds:
                    start = time.perf_counter()
                    pictures = [film.develop(kind, step.index) for kind in self._kinds]
                    spent += time.perf_counter() - start
                with self._runner.lock:
                    for message in pictures:
                        self._post(message)
                    if self._newest is ticket:  # also when stopped: the step in flight was still made
                        state = "stopped" if not ticket.live else "done" if run.done else "drawing"
                        self._tell(replace(self._now, state=state, step=step.index + 1, seconds=seconds))
                yield
            self._ask_pictures()  # those that would have held the result up
        except Exception as error:
            with self._runner.lock:
                if ticket.live:
                    said = sentence(error, "; wait() raises it in full")
                    self._tell(Status("failed", number, error=said))
                    self._ask_pictures()  # of the steps that were made, or of the run before
            raise

    def _develop(self, ticket: Ticket) -> Pieces:
        film = self._film
        missing = [(kind, step) for kind in self._kinds for step in film.undeveloped(kind)]
        try:
            for kind, step in missing:
                message = film.develop(kind, step)
                with self._runner.lock:
                    self._post(message)
                yield
        except Exception as error:
            with self._runner.lock:
                if ticket.live and self._now.state != "failed":
                    self._tell(replace(self._now, error=sentence(error)))
            raise

    def _look(self, film: Film, word: int, blocks: str, at: int, ticket: Ticket) -> Pieces:
        steps = sorted((step.index for step in film.run.steps), key=lambda i: abs(i - at))
        try:
            ready, since = [], time.monotonic()
            for step in steps:
                film.look(word, blocks, step)
                ready.append(step)
                if step == steps[-1] or time.monotonic() - since > PATIENCE:
                    with self._runner.lock:
                        self._post(film.maps(word, blocks, ready, last=step == steps[-1]))
                    ready, since = [], time.monotonic()
                yield
        except Exception as error:
            with self._runner.lock:
                self._post(film.refusal(word, blocks, sentence(error)))
            raise

    def _complete(self, film: Film, blocks: tuple[str, ...], ticket: Ticket) -> Pieces:
        for kind in ("clean", "noisy"):
            for step in film.undeveloped(kind):
                film.develop(kind, step)
                yield
        for word in range(len(film.run.words)):
            for group in blocks:
                for step in film.run.steps:
                    film.look(word, group, step.index)
                    yield

    # ---- on whichever thread the kernel uses: these only look, set and enqueue

    def _hear(self, _: Any, message: dict, buffers: list) -> None:
        """Takes a message of the browser."""
        with self._runner.lock:
            match message:
                case {"type": "hello"}:
                    self._post(Message({"type": "here"}))
                    for one in self._film.messages() if self._film else ():
                        self._post(one)
                case {"type": "generate", "id": int(request), "settings": dict(settings)}:
                    if request > self._answers:  # two threads may deliver: an old one comes too late
                        self._answers = request
                        self._take(settings)
                        self.generate()
                case {"type": "live", "live": bool(live)}:
                    self._take({"live": live})
                    self._tell_settings()
                case {"type": "stop"}:
                    self.stop()
                case {"type": "kind", "kind": "clean" | "noisy" as kind}:
                    self._kinds = tuple(dict.fromkeys(("clean", kind)))
                    self._ask_pictures()
                case {"type": "maps", "run": int(run), "view": str(view)} if self._film:
                    if run == self._film.number:  # else it is about a run that is gone
                        word, blocks, at = message["word"], message["blocks"], message["at"]
                        self._runner.ask(("maps", view), partial(self._look, self._film, word, blocks, at))

    def _ask_pictures(self) -> None:
        """Has the pictures made that are wanted and not there."""
        if self._film is not None:
            self._runner.ask("pictures", self._develop)

    def _take(self, settings: dict) -> None:
        self._taking = True
        try:
            for name in (*PANEL, "live"):
                spelled = plain(getattr(self, name))
                if isinstance(spelled, str) and settings.get(name) == spelled:
                    continue  # what JSON cannot hold came back as it was sent: it stays what it was
                if name in settings:
                    setattr(self, name, settings[name])
        finally:
            self._taking = False

    def _on_setting(self, change: Any) -> None:
        with self._runner.lock:
            if self._taking:
                return
            if self.live and change.name in ("seed", "shift"):
                self.generate()
            else:
                self._tell_settings()

    def _tell_settings(self) -> None:
        given = {name: plain(getattr(self, name)) for name in PANEL}
        self._settings = {**given, "live": self.live, "answers": self._answers}

    def _tell(self, now: Status) -> None:
        self._now = now
        self._status = asdict(now)

    def _post(self, message: Message) -> None:
        self.send(message.content, list(message.buffers))

    def _check_open(self) -> None:
        if self._runner.closed:
            raise InputError("this widget is closed and has let go of its thread; make a new one")

    def _rest(self) -> None:
        """Waits like `wait`, whatever became of the run."""
        try:
            self._runner.wait()
        except KeyboardInterrupt:
            self.stop()
            raise


def _reject_unknown(name: str) -> None:
    if name in ARGUMENTS:
        return
    known = ("session", "live", *ARGUMENTS)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"FluxWidget takes no argument {name!r}; {hint}it takes {', '.join(known)}")
