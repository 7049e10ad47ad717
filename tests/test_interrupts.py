"""Claims about Ctrl-C in the midst of MLX's calls."""

import signal
import threading

import pytest
import stubs

from fluxnb import interrupts


@pytest.fixture(autouse=True)
def ordinary():
    """The handler that Python has by itself, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def swallowed():
    """Ctrl-C where somebody clears all exceptions, as MLX does."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
    else:
        pytest.fail("no interrupt was raised at once")


def test_an_interrupt_that_was_swallowed_is_raised_at_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.kept():
        swallowed()
        done.append(True)
    assert done


def test_other_interrupts_and_errors_are_raised_at_once():
    with pytest.raises(KeyboardInterrupt), interrupts.kept():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
    with pytest.raises(ZeroDivisionError), interrupts.kept():
        _ = 1 / 0
    with interrupts.kept():
        pass


def test_somebody_elses_handler_stays():
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with interrupts.kept():
        signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_another_thread_keeps_its_hands_off():
    errors = []

    def work():
        try:
            with interrupts.kept():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_a_run_stops_in_the_step_whose_interrupt_was_swallowed(monkeypatch):
    run = stubs.session().start("a cat")
    first = run.advance()
    velocity_at = type(run.session.pipeline).velocity_at

    def interrupted(self, *given, **more):
        swallowed()
        return velocity_at(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(run.session.pipeline), "velocity_at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.finish()
    assert run.steps == (first,) and run.finish().done
