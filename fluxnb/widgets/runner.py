"""One worker thread that owns all array work; the newest run wins.

Knows nothing of widgets, sessions or MLX. MLX's streams belong to a thread: a network loaded, run
and read on one thread never meets an array that another thread left unevaluated.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass

Pieces = Generator[None, None, None]
"""Work in pieces: at every `yield` the worker may let it go."""

Job = Callable[["Ticket"], Pieces]
"""Begins work; the ticket says whether it is still wanted."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One job's right to go on and to speak, and how it ended.

    Args:
        key: What the job is about; a newer job with the same key takes its place.
        live: Whether nothing newer took its place and nobody stopped it.
        error: What the job raised, if it did so while live.
    """

    key: Hashable
    live: bool = True
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    """A job in the queue, with the context of whoever asked for it."""

    ticket: Ticket
    job: Job
    context: contextvars.Context


class Runner:
    """Runs jobs one after the other on one daemon thread.

    After `close` every ticket is dead from the start and its job is never begun.

    `lock` is held whenever a ticket dies. Whoever holds it and finds a ticket live may speak for that job
    and cannot be overtaken by the job's end.
    """

    def __init__(self) -> None:
        """Makes an idle runner; the thread begins with the first job."""
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._queue: deque[_Entry] = deque()
        self._running: Ticket | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing will run any more."""
        return self._closed

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        with self.lock:
            return bool(self._queue) or self._running is not None

    def draw(self, job: Job) -> Ticket:
        """Runs `job` next, in place of everything that runs or waits."""
        with self.lock:
            self.stop()
            return self._put("draw", job)

    def ask(self, key: Hashable, job: Job) -> Ticket:
        """Runs `job` after what runs and waits, in place of an earlier job with this key."""
        with self.lock:
            self._drop(lambda ticket: ticket.key == key)
            return self._put(key, job)

    def stop(self, *keys: Hashable) -> None:
        """Lets go of all jobs, or of these: of what waits at once, of what runs at its next `yield`."""
        with self.lock:
            self._drop(lambda ticket: not keys or ticket.key in keys)

    def close(self) -> None:
        """Lets go of everything and ends the thread."""
        with self.lock:
            self.stop()
            self._closed = True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until nothing runs or waits; Ctrl-C gets through.

        Args:
            timeout: Seconds, or None for as long as it takes.

        Returns:
            False if the time ran out.

        Raises:
            RuntimeError: When called from a job, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("wait() was called on the worker's own thread, which it waits for")
        with self._changed:
            return self._changed.wait_for(lambda: not self.busy, timeout)

    def _drop(self, chosen: Callable[[Ticket], bool]) -> None:
        for ticket in [entry.ticket for entry in self._queue] + [self._running]:
            if ticket is not None and chosen(ticket):
                ticket.live = False
        self._queue = deque(entry for entry in self._queue if entry.ticket.live)
        self._changed.notify_all()

    def _put(self, key: Hashable, job: Job) -> Ticket:
        # The context is copied here, not on the thread: ipykernel keeps in it whose cell or message this
        # is. A thread without it speaks in the name of the message handled last, and ipykernel 7.4 then
        # routes the browser's answers to a subshell that may be gone.
        entry = _Entry(Ticket(key, live=not self._closed), job, contextvars.copy_context())
        if self._closed:
            return entry.ticket
        self._queue.append(entry)
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="fluxnb-widget", daemon=True)
            self._thread.start()
        self._changed.notify_all()
        return entry.ticket

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                entry = self._queue.popleft()
                self._running = entry.ticket
            error = None
            try:
                entry.context.run(self._go, entry)
            except Exception as caught:
                error = caught
            with self._changed:
                if entry.ticket.live:
                    entry.ticket.error = error
                self._running = None
                del entry, error  # an idle thread keeps no widget, run or traceback alive
                self._changed.notify_all()

    def _go(self, entry: _Entry) -> None:
        with contextlib.closing(entry.job(entry.ticket)) as pieces:
            for _ in pieces:
                if not entry.ticket.live:
                    return
