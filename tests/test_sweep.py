"""Sweeps: all combinations in order, here and by workers; failures and interrupts lose nothing else."""

import multiprocessing
import pickle
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import distributed
import numpy as np
import pytest
import stubs

from fluxnb import sweep
from fluxnb.checkpoints.adapters import Use
from fluxnb.errors import FluxnbWarning, InputError
from fluxnb.session import FluxSession
from fluxnb.version import __version__

PROMPT = "a cat"
SPAWN = multiprocessing.get_context("spawn")


def same_bits(a, b):
    return np.array(a).tobytes() == np.array(b).tobytes()


def told(run):
    return run.prompt, run.shift, run.seed


@pytest.fixture
def session():
    return stubs.session()


class Inline(Executor):
    """Draws in this process, but everything goes through pickle as it would to another one."""

    def __init__(self, version=__version__):
        self.version = version
        self.futures = []

    def submit(self, function, *arguments):
        future = Future()
        self.futures.append(future)
        if function is sweep.pydoc.locate:
            future.set_result(self.version)
            return future
        try:
            function, arguments = pickle.loads(pickle.dumps((function, arguments)))
            future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def by_name(session, monkeypatch):
    """The toy session as if it could be loaded by name, and the sessions that were."""
    loaded = []

    def load(**arguments):
        loaded.append((arguments, stubs.session()))
        return loaded[-1][1]

    monkeypatch.setattr(FluxSession, "from_pretrained", load)
    session.pipeline.arguments = {"model_version": "stub", "shift": None, "local_ckpt": None}
    sweep._load.cache_clear()
    yield session, loaded
    sweep._load.cache_clear()


def test_a_sweep_is_every_combination_in_order(session):
    runs = session.sweep(["a cat", "a dog"], seeds=range(2), shifts=[1, 3.0], num_steps=2)
    assert [told(run) for run in runs] == [
        (prompt, shift, seed) for prompt in ("a cat", "a dog") for shift in (1.0, 3.0) for seed in (0, 1)
    ]
    assert all(run.done and run.num_steps == 2 for run in runs)
    assert same_bits(runs[3].latents, session.start("a cat", 1, 2, 3.0).finish().latents)
    assert (len(runs), runs.failures, runs.missing) == (8, (), ())
    assert runs[1:3] == (runs[1], runs[2]) and runs[-1] in runs


def test_one_of_each_is_one_run(session):
    runs = session.sweep(PROMPT, seeds=7, sigmas=(s for s in (1, 0.5, 0)))
    assert [told(run) for run in runs] == [(PROMPT, None, 7)] and runs[0].sigmas == (1, 0.5, 0)


def test_a_sweep_shows_its_progress(session, capfd):
    session.sweep(PROMPT, seeds=range(3), num_steps=1)
    assert "3/3" in capfd.readouterr().err


def test_bad_settings_are_told_before_the_first_run(session, monkeypatch):
    monkeypatch.setattr(session.pipeline, "velocity", None)
    for arguments, message in (
        ({"seeds": [1, "x"]}, "seed is 'x'"),
        ({"shifts": [1, 0]}, "shift is 0"),
        ({"seeds": []}, "seeds are none; give at least one"),
        ({"prompts": ["a", 3]}, "the prompt is 3"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"executor": 4}, "executor is 4; give one of concurrent.futures"),
    ):
        with pytest.raises(InputError, match=message):
            session.sweep(**{"prompts": PROMPT, "executor": None, **arguments})


def fail_for_seed(pipeline, seed, error, monkeypatch):
    plain = pipeline.first_latents

    def first_latents(settings, source=None):
        if settings.seed == seed:
            raise error
        return plain(settings, source)

    monkeypatch.setattr(pipeline, "first_latents", first_latents)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_failure_is_told_with_its_settings_and_loses_no_other(by_name, where, monkeypatch):
    session, _ = by_name
    fail_for_seed(session.pipeline, 1, ValueError("no room"), monkeypatch)
    if where == "elsewhere":
        monkeypatch.setattr(FluxSession, "from_pretrained", lambda **arguments: session)
    with pytest.warns(
        FluxnbWarning, match=r"1 of 3 runs failed.*'a cat', seed 1, shift 1: ValueError: no room"
    ):
        runs = session.sweep(PROMPT, seeds=range(3), executor=Inline() if where == "elsewhere" else None)
    assert [run.seed for run in runs] == [0, 2]
    (failure,) = runs.failures
    assert failure.settings.seed == 1 and isinstance(failure.error, ValueError)
    assert repr(runs) == "<Sweep: 2 runs, 1 failed, 0 left out>"


def test_an_interrupt_keeps_the_runs_that_are_finished(session, monkeypatch):
    fail_for_seed(session.pipeline, 2, KeyboardInterrupt(), monkeypatch)
    with pytest.warns(FluxnbWarning, match="interrupted with 2 of 4 runs to go"):
        runs = session.sweep(PROMPT, seeds=range(4))
    assert [run.seed for run in runs] == [0, 1]
    assert [settings.seed for settings in runs.missing] == [2, 3]


def test_an_interrupt_cancels_what_has_not_begun(by_name, monkeypatch):
    session, _ = by_name
    executor = Inline()
    plain = session.resume
    monkeypatch.setattr(executor, "submit", late(executor.submit, after=4))

    def resume(held, origin):
        if held.settings.seed == 1:
            raise KeyboardInterrupt
        return plain(held, origin)

    monkeypatch.setattr(session, "resume", resume)
    with pytest.warns(FluxnbWarning, match="interrupted with"):
        runs = session.sweep(PROMPT, seeds=range(4), executor=executor)
    assert len(runs) + len(runs.missing) == 4 and executor.waiting
    assert all(future.cancelled() for future in executor.waiting)


def late(submit, after):
    """`submit` whose futures stay undone from the one with that number on."""

    def submitted(function, *arguments):
        executor = submit.__self__
        if len(executor.futures) < after:
            return submit(function, *arguments)
        executor.waiting = [*getattr(executor, "waiting", []), Future()]
        return executor.waiting[-1]

    return submitted


def test_workers_give_the_same_bits_and_load_the_model_once(by_name):
    session, loaded = by_name
    runs = session.sweep(PROMPT, seeds=range(3), executor=Inline(), cfg_weight=2.0, negative_text="fog")
    assert [arguments for arguments, _ in loaded] == [session.pipeline.arguments]
    for run in runs:
        assert run.session is session
        here = session.start(PROMPT, run.seed, cfg_weight=2.0, negative_text="fog").finish()
        assert same_bits(run.latents, here.latents) and same_bits(run.replay(1), here.steps[1].velocity)


def test_a_folder_travels_by_its_whole_path(by_name, tmp_path, monkeypatch):
    session, loaded = by_name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    session.pipeline.arguments = {"model_version": "fluxnb/demo", "local_ckpt": "model"}
    session.sweep(PROMPT, executor=Inline())
    assert loaded[0][0] == {"model_version": "fluxnb/demo", "local_ckpt": str(tmp_path / "model")}


def test_a_revision_is_no_path_even_where_a_file_has_its_name(by_name, tmp_path, monkeypatch):
    session, loaded = by_name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main").touch()
    session.pipeline.arguments |= {"revision": "main"}
    session.sweep(PROMPT, executor=Inline())
    assert loaded[0][0]["revision"] == "main"


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "workers lack fluxnb; install fluxnb"),
        ("0.0.1", r"workers have fluxnb 0\.0\.1; install fluxnb"),
    ],
)
def test_workers_with_another_fluxnb_or_none_are_told(by_name, version, message):
    with pytest.raises(InputError, match=message):
        by_name[0].sweep(PROMPT, executor=Inline(version))


def test_workers_know_the_adapter_that_a_model_comes_with(by_name):
    session, _ = by_name
    own, other = Use("own", "0" * 64, 1.0), Use("other", "1" * 64, 1.0)
    pipeline = session.pipeline
    pipeline.adapters, pipeline.own_adapters = (own, other), (own,)
    with pytest.raises(InputError, match="workers load no adapters but what a model comes with"):
        session.sweep(PROMPT, executor=Inline())
    pipeline.adapters = (replace(own, scale=0.5),)
    assert sweep._arguments(session)


def test_a_model_that_no_worker_can_load_is_told(session):
    with pytest.raises(InputError, match="was made of networks in memory, which no worker can load"):
        session.sweep(PROMPT, executor=Inline())


LACKING = """
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name == "fluxnb":
            raise ModuleNotFoundError("No module named 'fluxnb'", name="fluxnb")
sys.meta_path.insert(0, Lacking())
"""


def test_a_pool_whose_processes_lack_fluxnb_is_told():
    with (
        ProcessPoolExecutor(1, SPAWN, initializer=exec, initargs=(LACKING,)) as pool,
        pytest.raises(InputError, match="workers lack fluxnb"),
    ):
        sweep._check(pool)
    with pytest.raises(InputError, match=r"after shutdown.*keep the executor open"):
        sweep._check(pool)


def test_a_pool_whose_processes_die_is_told():
    with (
        ProcessPoolExecutor(1, SPAWN, initializer=exec, initargs=("import os; os._exit(1)",)) as pool,
        pytest.raises(InputError, match=r"could import fluxnb \(BrokenProcessPool"),
    ):
        sweep._check(pool)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="hardware: no fork on Windows"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_workers_are_refused():
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool,
        pytest.raises(InputError, match="forks its workers, in which MLX hangs"),
    ):
        sweep._check(pool)


@pytest.fixture(scope="module")
def demo():
    session = FluxSession.from_pretrained()
    return session, session.start(PROMPT, seed=1, num_steps=2).finish()


def test_a_pool_of_processes_draws(demo):
    session, here = demo
    with ProcessPoolExecutor(2, SPAWN) as pool:
        runs = session.sweep(PROMPT, seeds=range(3), num_steps=2, executor=pool)
    assert [run.seed for run in runs] == [0, 1, 2] and same_bits(runs[1].latents, here.latents)


def test_a_dask_cluster_draws(demo):
    session, here = demo
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        runs = session.sweep(PROMPT, seeds=[1, 0], num_steps=2, executor=client.get_executor())
    assert [run.seed for run in runs] == [1, 0] and same_bits(runs[0].latents, here.latents)


def test_threads_draw_too(demo):
    session, here = demo
    with ThreadPoolExecutor(2) as pool:
        runs = session.sweep(PROMPT, seeds=[1, 2], num_steps=2, executor=pool)
    assert same_bits(runs[0].latents, here.latents)
    sweep._load.cache_clear()


def test_a_failure_without_a_shift_is_told(session):
    settings = replace(session.start(PROMPT).settings, shift=None)
    assert str(sweep.Failure(settings, ValueError("no"))) == "'a cat', seed 0: ValueError: no"
