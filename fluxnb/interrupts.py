"""Ctrl-C that is never lost; knows nothing of what it ends.

MLX's conversion of a NumPy array to its own clears whatever exception is raised meanwhile: of the interrupts
that come just then a third vanishes (Python 3.11, MLX 0.32), nothing is printed and the work goes on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept() -> Iterator[None]:
    """Raises at its end the KeyboardInterrupt of a Ctrl-C that came and was swallowed within.

    Elsewhere than in the main thread, to which Python gives interrupts, and where somebody has a handler of
    their own, it changes nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = []

    def note(number, frame) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)  # raises KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
