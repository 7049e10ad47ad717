"""Many runs that differ in a few settings, drawn here or by an executor's workers.

To a worker go the name of the model and settings; back come the bytes of a saved run. Nothing of MLX is ever
pickled. A worker must be a fresh process: MLX hangs in one that was forked after MLX had begun to compute. So
give a ProcessPoolExecutor `mp_context=multiprocessing.get_context("spawn")`, and in a script call it under
`if __name__ == "__main__":`. Threads gain nothing, since a model draws one picture at a time.

Knows nothing of what is varied.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pydoc
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from fluxnb import saved
from fluxnb.errors import InputError
from fluxnb.identity import lies_here
from fluxnb.run import Run
from fluxnb.settings import Settings
from fluxnb.version import __version__

if TYPE_CHECKING:
    from fluxnb.session import FluxSession

Arguments = tuple[tuple[str, object], ...]
"""Of `FluxPipeline`, as (name, value)."""

PATHS = ("model_version", "local_ckpt")
"""Those that may be paths; a revision may have the name of a file and is none."""

ONE_AT_A_TIME = threading.Lock()  # a worker of a cluster may have several threads


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that could not be drawn.

    Args:
        settings: What was asked for.
        error: What was raised.
    """

    settings: Settings
    error: Exception

    def __str__(self) -> str:
        """Says in a line what failed."""
        asked = self.settings
        shift = "" if asked.shift is None else f", shift {asked.shift:.3g}"
        return f"{asked.prompt!r}, seed {asked.seed}{shift}: {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sweep(Sequence):
    """The runs of a sweep, a sequence in the order in which they were asked for.

    Args:
        runs: Those that were drawn, finished.
        failures: Those that could not be.
        missing: Settings of those that an interrupt left out.
    """

    runs: tuple[Run, ...]
    failures: tuple[Failure, ...]
    missing: tuple[Settings, ...]

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int | slice) -> Run | tuple[Run, ...]:
        return self.runs[index]

    def __repr__(self) -> str:
        """Counts them."""
        return f"<Sweep: {len(self.runs)} runs, {len(self.failures)} failed, {len(self.missing)} left out>"

    @property
    def complaint(self) -> str | None:
        """What is wrong, in a sentence; None if all were drawn."""
        asked = len(self.runs) + len(self.failures) + len(self.missing)
        told = []
        if self.failures:
            told.append(f"{len(self.failures)} of {asked} runs failed, see .failures: {self.failures[0]}")
        if self.missing:
            told.append(f"interrupted with {len(self.missing)} of {asked} runs to go, see .missing")
        return "; ".join(told) or None


def sweep(session: FluxSession, wanted: Sequence[Settings], executor: Executor | None) -> Sweep:
    """Draws one run for each of the settings, with a progress bar.

    What one of them raises is kept, and the others go on. Ctrl-C ends it with what is finished.

    Args:
        session: Draws, if there is no executor; the runs are its own in any case.
        wanted: In the order of the result.
        executor: Whose workers load the same model, each once.

    Raises:
        InputError: if the executor is none, its workers cannot draw, or they cannot load this model.
    """
    outcomes: dict[int, Run | Exception] = {}
    drawn = _here(session, wanted) if executor is None else _elsewhere(session, wanted, executor)
    try:
        for i, outcome in tqdm(drawn, total=len(wanted), desc="runs"):
            outcomes[i] = outcome
    except KeyboardInterrupt:
        pass  # what is missing says so
    finally:
        drawn.close()
    found = sorted(outcomes.items())
    return Sweep(
        tuple(outcome for _, outcome in found if isinstance(outcome, Run)),
        tuple(Failure(wanted[i], outcome) for i, outcome in found if not isinstance(outcome, Run)),
        tuple(settings for i, settings in enumerate(wanted) if i not in outcomes),
    )


def several(name: str, values: object) -> tuple:
    """Returns the values that an axis of a sweep takes; a single one is an axis of one.

    Raises:
        InputError: if there are none.
    """
    values = (
        tuple(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes)) else (values,)
    )
    if not values:
        raise InputError(f"{name} are none; give at least one")
    return values


def draw(session_type: type[FluxSession], arguments: Arguments, settings: Settings) -> bytes:
    """Draws a run in a worker and returns it as `saved.dump` does."""
    with ONE_AT_A_TIME:
        session = _load(session_type, arguments)
        return saved.dump(Run(session, settings, session.pipeline.first_latents(settings)).finish())


def greet() -> None:
    """Makes sure that a worker can compute.

    Raises:
        InputError: if it was forked.
    """
    forked = getattr(multiprocessing.context, "ForkProcess", ())
    if isinstance(multiprocessing.current_process(), forked):
        raise InputError(
            "the executor forks its workers, in which MLX hangs; make it with "
            'mp_context=multiprocessing.get_context("spawn")'
        )


@functools.lru_cache(maxsize=1)
def _load(session_type: type[FluxSession], arguments: Arguments) -> FluxSession:
    """Loads a model, once a process."""
    return session_type.from_pretrained(**dict(arguments))


def _here(session: FluxSession, wanted: Sequence[Settings]) -> Iterator[tuple[int, Run | Exception]]:
    """Draws one after the other."""
    for i, settings in enumerate(wanted):
        try:
            outcome = Run(session, settings, session.pipeline.first_latents(settings)).finish()
        except Exception as error:
            outcome = error
        yield i, outcome


def _elsewhere(
    session: FluxSession, wanted: Sequence[Settings], executor: Executor
) -> Iterator[tuple[int, Run | Exception]]:
    """Lets workers draw, and gives each run as it comes."""
    if not isinstance(executor, Executor):
        raise InputError(f"executor is {executor!r}; give one of concurrent.futures, or None to draw here")
    arguments = _arguments(session)
    _check(executor)
    futures = {
        executor.submit(draw, type(session), arguments, settings): i for i, settings in enumerate(wanted)
    }
    try:
        for future in as_completed(futures):
            try:
                outcome = session.resume(saved.load(future.result()), "a run of the sweep")
            except Exception as error:
                outcome = error
            yield futures[future], outcome
    finally:
        for future in futures:
            future.cancel()


def _arguments(session: FluxSession) -> Arguments:
    """Returns what a worker loads the session's model by."""
    pipeline = session.pipeline
    known = pipeline.arguments
    if known is None:
        raise InputError(
            f"{pipeline!r} was made of networks in memory, which no worker can load; "
            "leave executor out, or load the model by its name or folder"
        )
    loaded, own = ({use.digest for use in uses} for uses in (pipeline.adapters, pipeline.own_adapters))
    if loaded - own:
        raise InputError(
            "workers load no adapters but what a model comes with; leave executor out, or draw without yours"
        )
    paths = {name: os.path.abspath(known[name]) for name in PATHS if lies_here(known[name])}
    return tuple((known | paths).items())


def _check(executor: Executor) -> None:
    """Makes sure that a worker can draw."""
    try:
        version = executor.submit(pydoc.locate, "fluxnb.__version__").result()  # needs no fluxnb itself
    except Exception as error:
        raise InputError(
            f"no worker of the executor could import fluxnb ({type(error).__name__}: {error}); "
            "install it there, and keep the executor open"
        ) from error
    if version != __version__:
        held = "lack fluxnb" if version is None else f"have fluxnb {version}"
        raise InputError(f"the executor's workers {held}; install fluxnb {__version__} there")
    executor.submit(greet).result()
