"""The tree of a family: who branched off where, what changed; and the step at which a picture is decided."""

import gc
import weakref

import numpy as np
import pytest
import stubs

from fluxnb.errors import InputError, PromptWarning
from fluxnb.family import changes

PROMPT = "a cat"


@pytest.fixture(scope="module")
def session():
    return stubs.session(guidance=True)


@pytest.fixture(scope="module")
def run(session):
    """A finished run of 8 steps, small, since its pictures are judged often."""
    return session.start(PROMPT, seed=5, num_steps=8, latent_size=(4, 4)).finish()


def test_a_tree_prints_every_run_where_it_branched_and_what_changed(session):
    root = session.start(PROMPT, seed=5).finish()
    dog = root.fork(2, prompt="a dog").finish()
    seed = dog.fork(3, seed=9)
    shift = dog.fork(2, shift=3.0, num_steps=6)
    late = root.fork(1)
    assert str(seed.tree()).splitlines() == [
        "'a cat', seed 5: 4 of 4 steps",
        "├─ at 2: prompt 'a dog': 4 of 4 steps",
        "│  ├─ at 3: seed 9: 3 of 4 steps  <- this run",
        "│  └─ at 2: shift 3, 6 steps: 2 of 6 steps",
        "└─ at 1: no change: 1 of 4 steps",
    ]
    tree = late.tree()
    assert [branch.run for branch in tree.branches] == [root, dog, seed, shift, late]
    assert [branch.parent for branch in tree.branches] == [None, 0, 1, 1, 0]
    assert tree.branches[tree.here].run is late


def test_a_tree_says_that_a_run_began_with_own_latents(session):
    own = session.start(PROMPT, latents=np.zeros((8, 8, 16)))
    assert str(own.tree()) == "'a cat', own latents: 0 of 4 steps  <- this run"


def test_stems_end_with_the_last_child(session):
    root = session.start(PROMPT)
    first = root.fork(0, seed=1)
    leaf = first.fork(0, seed=2)
    assert str(leaf.tree()).splitlines()[1:] == [
        "└─ at 0: seed 1: 0 of 4 steps",
        "   └─ at 0: seed 2: 0 of 4 steps  <- this run",
    ]


def test_a_long_chain_of_forks_has_a_tree(session):
    run = session.start(PROMPT, num_steps=1)
    for seed in range(1, 1100):
        run = run.fork(0, seed=seed)
    tree = run.tree()
    assert len(tree.branches) == len(str(tree).splitlines()) == 1100


def test_every_change_is_named(run):
    fork = run.fork(
        6, prompt="a dog", negative_text="fog", cfg_weight=2.0, guidance=1.0, sigmas=(0.25, 0.1, 0), seed=1
    )
    assert changes(run.settings, fork.settings, 6) == (
        "prompt 'a dog'",
        "negative text 'fog'",
        "seed 1",
        "sigmas 0.25, 0.1, 0",
        "guidance 1",
        "CFG 2",
    )


def test_long_prompts_are_cut_in_a_tree(session):
    run = session.start("a cat").fork(0, prompt="abcdefghijklmno " * 4)
    cut = "abcdefghijklmno " * 2 + "abcdefghijklmno..."
    assert str(run.tree()).splitlines()[1] == f"└─ at 0: prompt '{cut}': 0 of 4 steps  <- this run"


def test_a_tree_shares_the_steps_and_keeps_no_run_that_nobody_uses(session):
    root = session.start(PROMPT, seed=5).finish()
    fork = root.fork(3, prompt="a dog").finish()
    assert all(mine is theirs for mine, theirs in zip(fork.steps[:3], root.steps[:3], strict=True))
    gone = weakref.ref(fork)
    del fork
    gc.collect()
    assert gone() is None and len(root.tree().branches) == 1


@pytest.fixture(scope="module")
def swapped(run):
    """The pictures of the forks that swap the prompt at each step."""
    return [run.fork(at, prompt="a dog").finish().image().tobytes() for at in range(8)]


@pytest.mark.parametrize("limit", range(9))
def test_bisection_finds_the_step_in_a_few_forks(run, swapped, limit):
    seen = []

    def judge(picture):
        seen.append(picture)
        return "b" if picture.tobytes() in swapped[:limit] else "a"

    found = run.bisect("a dog", judge)
    assert (found.step, found.sigma, found.verdict) == (limit, run.sigmas[limit], "a")
    assert len(seen) == len(found.trials) + 1 <= 5
    for trial in found.trials:
        assert trial.changed == (trial.at < limit) == (trial.verdict == "b")
        assert trial.run.done and trial.run.parent is run and trial.run.at == trial.at


def test_a_judge_that_never_changes_takes_one_fork(run):
    found = run.bisect("a dog", lambda picture: 7)
    assert (found.step, len(found.trials)) == (0, 1) and not found.trials[0].changed


def test_bisection_warns_of_its_prompt_once_at_the_users_line(run):
    with pytest.warns(PromptWarning, match="the prompt is empty") as caught:
        run.bisect("", lambda picture: 7)
    assert [one.filename for one in caught] == [__file__]


def test_bisection_of_a_fork_tries_its_own_steps_only(run):
    fork = run.fork(5, seed=3).finish()
    own = fork.image().tobytes()
    found = fork.bisect("a dog", lambda picture: picture.tobytes() == own)
    assert found.step == 8 and [trial.at for trial in found.trials] == [5, 7]
    assert fork.fork(8).bisect("a dog", lambda picture: 7).step == 8


def test_bisection_refuses_what_it_cannot_judge(session, run):
    with pytest.raises(InputError, match=r"0 of 4 steps are made.*call finish"):
        session.start(PROMPT).bisect("a dog", len)
    with pytest.raises(InputError, match="judge is 'cat'; give a function"):
        run.bisect("a dog", "cat")
    with pytest.raises(InputError, match="answers by a ndarray, which == does not compare to one answer"):
        run.bisect("a dog", np.asarray)
    with pytest.raises(InputError, match="the prompt is 3"):
        run.bisect(3, lambda picture: 7)
    with pytest.raises(ZeroDivisionError):
        run.bisect("a dog", lambda picture: 1 / 0)
