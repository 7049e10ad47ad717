"""Claims about `fluxnb.widgets.runner`."""

import contextvars
import threading

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


def gate_job(seen, name, gate=None):
    """A job of three pieces that says when it ran; the first waits for the gate."""

    def job(ticket):
        for piece in range(3):
            seen.append(f"{name}{piece}")
            if gate and piece == 0:
                gate.pass_through()
            yield

    return job


def test_a_newer_run_takes_the_place_of_the_older_at_its_next_piece():
    runner, seen, gate = Runner(), [], Gate()
    old = runner.draw(gate_job(seen, "a", gate))
    assert gate.reached.wait(SOON)
    new = runner.draw(gate_job(seen, "b"))
    gate.set()
    assert runner.wait(SOON)
    assert seen == ["a0", "b0", "b1", "b2"]
    assert (old.live, new.live) == (False, True)


def test_of_two_runs_that_wait_only_the_newer_is_made():
    runner, seen, gate = Runner(), [], Gate()
    runner.draw(gate_job(seen, "a", gate))
    assert gate.reached.wait(SOON)
    runner.draw(gate_job(seen, "b"))
    runner.draw(gate_job(seen, "c"))
    gate.set()
    assert runner.wait(SOON)
    assert seen == ["a0", "c0", "c1", "c2"]


def test_what_is_asked_comes_after_the_run_and_once_for_each_key():
    runner, seen, gate = Runner(), [], Gate()
    runner.draw(gate_job(seen, "a", gate))
    assert gate.reached.wait(SOON)
    runner.ask("map", gate_job(seen, "b"))
    runner.ask("noisy", gate_job(seen, "c"))
    runner.ask("map", gate_job(seen, "d"))
    gate.set()
    assert runner.wait(SOON)
    assert seen == ["a0", "a1", "a2", "c0", "c1", "c2", "d0", "d1", "d2"]


def test_stop_lets_go_of_all_and_the_runner_goes_on():
    runner, seen, gate = Runner(), [], Gate()
    runner.draw(gate_job(seen, "a", gate))
    assert gate.reached.wait(SOON)
    runner.ask("map", gate_job(seen, "b"))
    runner.stop()
    gate.set()
    assert runner.wait(SOON)
    assert seen == ["a0"]
    runner.draw(gate_job(seen, "c"))
    assert runner.wait(SOON)
    assert seen[-1] == "c2"


def test_every_job_runs_on_the_same_thread_and_in_the_context_of_whoever_asked():
    runner, seen, cell = Runner(), [], contextvars.ContextVar("cell")

    def job(ticket):
        seen.append((threading.get_ident(), cell.get()))
        yield

    for number in (1, 2):
        cell.set(number)
        runner.draw(job)
        assert runner.wait(SOON)
    (first, one), (second, two) = seen
    assert first == second != threading.get_ident()
    assert (one, two) == (1, 2)


def test_an_error_stays_with_its_ticket_and_the_next_job_runs():
    runner, seen = Runner(), []

    def job(ticket):
        yield
        raise ValueError("no such thing")

    ticket = runner.draw(job)
    assert runner.wait(SOON)
    assert str(ticket.error) == "no such thing"
    assert runner.draw(gate_job(seen, "a")).error is None
    assert runner.wait(SOON) and seen


def test_a_job_that_waits_for_itself_is_told_so():
    runner = Runner()

    def job(ticket):
        runner.wait()
        yield

    ticket = runner.draw(job)
    assert Runner.wait(runner, SOON)
    assert isinstance(ticket.error, RuntimeError)


def test_wait_gives_up_after_its_time_and_close_ends_the_thread():
    runner, seen, gate = Runner(), [], Gate()
    runner.draw(gate_job(seen, "a", gate))
    assert gate.reached.wait(SOON)
    assert not runner.wait(0.01)
    gate.set()
    assert runner.wait(SOON)
    runner.close()
    runner._thread.join(SOON)
    assert not runner._thread.is_alive()


def test_what_is_asked_of_a_closed_runner_is_dead_and_nobody_waits_for_it():
    runner, seen = Runner(), []
    runner.close()
    assert not runner.draw(gate_job(seen, "a")).live
    assert not runner.ask("map", gate_job(seen, "b")).live
    assert runner.wait(SOON) and seen == []
