"""Runs: advance, replay, fork, interrupt, and the answers to bad input; on the toy networks of stubs.py."""

import gc
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest
import stubs

from fluxnb import flow
from fluxnb.errors import FluxnbWarning, InputError, PromptWarning
from fluxnb.flow import Step
from fluxnb.interventions import cut, cut_block
from fluxnb.model.layers import attention
from fluxnb.session import FluxSession

PROMPT = "a cat and a sunflower"


@pytest.fixture(scope="module")
def session():
    return stubs.session()


@pytest.fixture(scope="module")
def run(session):
    """A finished run of 4 steps; nothing can be done to it that changes it."""
    return session.start(PROMPT, seed=5).finish()


@pytest.fixture(scope="module")
def guided():
    """A finished run with guidance and CFG."""
    session = stubs.session(guidance=True)
    return session.start(PROMPT, cfg_weight=3.0, negative_text="fog", guidance=2.0).finish()


def same_bits(a, b):
    return np.array(a).tobytes() == np.array(b).tobytes()


def test_a_new_run_stands_before_its_first_step(session):
    run = session.start(PROMPT, seed=5)
    assert (run.steps, run.done, run.parent) == ((), False, None)
    assert mx.array_equal(run.latents, flow.noise(5, (8, 8)))


def test_a_run_tells_its_settings_with_the_defaults_of_the_model(run):
    assert (run.prompt, run.negative_text, run.seed, run.num_steps) == (PROMPT, "", 5, 4)
    assert (run.shift, run.guidance, run.cfg_weight, run.latent_size) == (1.0, None, 0.0, (8, 8))
    assert run.sigmas == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert [word.text for word in run.words] == ["a", "cat", "and", "a", "sunflower"]


def test_a_step_records_what_it_did(run):
    for i, step in enumerate(run.steps):
        assert (step.index, step.sigma, step.sigma_next) == (i, *run.sigmas[i : i + 2])
        assert step.latents.shape == step.velocity.shape == (1, 8, 8, 16)
        assert step.latents.dtype == step.velocity.dtype == mx.float32
        assert step.seconds > 0


def test_each_step_starts_where_euler_left_off(run):
    states = [*(step.latents for step in run.steps), run.latents]
    for step, state in zip(run.steps, states[1:], strict=True):
        assert same_bits(flow.euler(step), state)


def test_advance_returns_the_step_it_adds(session):
    run = session.start(PROMPT)
    before = run.steps
    step = run.advance()
    assert isinstance(step, Step) and run.steps == (step,) and before == ()


def test_iterating_a_run_advances_it(session):
    run = session.start(PROMPT)
    first = run.advance()
    assert (first, *run) == run.steps
    assert run.done and list(run) == []


def test_finish_ends_a_run_and_leaves_a_finished_one_alone(session):
    run = session.start(PROMPT).finish()
    steps = run.steps
    assert run.done and run.finish() is run and run.steps == steps


def test_a_finished_run_does_not_advance(run):
    with pytest.raises(InputError, match="made all of its 4 steps"):
        run.advance()
    assert len(run.steps) == 4


@pytest.mark.parametrize("which", ["run", "guided"])
def test_replay_of_every_step_gives_the_same_bits(which, request):
    run = request.getfixturevalue(which)
    for i, step in enumerate(run.steps):
        assert same_bits(run.replay(i), step.velocity)


def test_the_same_start_gives_the_same_bits(session, run):
    assert same_bits(session.start(PROMPT, seed=5).finish().latents, run.latents)
    assert not same_bits(session.start(PROMPT, seed=6).finish().latents, run.latents)
    assert not same_bits(session.start("a dog", seed=5).finish().latents, run.latents)


def test_without_a_seed_one_is_drawn_and_told(session):
    first, second = session.start(PROMPT, seed=None), session.start(PROMPT, seed=None)
    assert first.seed != second.seed
    assert same_bits(session.start(PROMPT, seed=first.seed).latents, first.latents)


def test_a_run_may_start_from_own_latents_at_own_noise_levels(session, run):
    start = np.array(flow.noise(5, (8, 8)))
    own = session.start(PROMPT, latents=start)
    start[:] = 0  # the run has its copy
    assert same_bits(own.finish().latents, run.latents) and own.seed is None
    assert same_bits(session.start(PROMPT, latents=flow.noise(5, (8, 8))[0]).latents, run.steps[0].latents)
    late = session.start(PROMPT, latents=run.steps[2].latents, sigmas=run.sigmas[2:]).finish()
    assert same_bits(late.latents, run.latents) and late.shift is None
    assert session.start(PROMPT, latents=np.zeros((4, 10, 16))).latent_size == (4, 10)


def test_a_fork_of_a_run_from_own_latents_keeps_them_until_there_is_a_seed(session):
    own = session.start(PROMPT, latents=np.ones((8, 8, 16))).finish()
    assert same_bits(own.fork(0, prompt="a dog").latents, np.ones((1, 8, 8, 16), np.float32))
    assert same_bits(own.fork(0, seed=0).latents, flow.noise(0, (8, 8)))
    assert own.fork(2, seed=0).seed == 0 and own.fork(2).seed is None
    late = session.start(PROMPT, latents=own.steps[2].latents, sigmas=(0.5, 0.25, 0)).finish()
    with pytest.raises(InputError, match=r"noise up to 0\.5, and no clean picture .* step 1 or later"):
        late.fork(0, seed=0)
    assert late.fork(1, seed=0).finish().done


def test_a_run_may_draw_from_an_own_embedding(session, run):
    text = session.encode_text(PROMPT)
    own = session.start(PROMPT, seed=5, text=(np.array(text.txt), np.array(text.vec)[0])).finish()
    assert same_bits(own.latents, run.latents) and own.settings.embedding is not None
    other = session.start("its label", seed=5, text=text).finish()
    assert same_bits(other.latents, run.latents) and other.words == run.words and other.prompt == "its label"
    half = session.start(PROMPT, seed=5, text=(0.5 * text.txt, text.vec)).finish()
    assert not same_bits(half.latents, run.latents)
    assert half.settings.embedding != own.settings.embedding == other.settings.embedding
    assert same_bits(half.replay(1), half.steps[1].velocity)


def test_a_fork_keeps_an_own_embedding_until_there_is_a_prompt(session, run):
    text = session.encode_text("a dog")
    own = session.start(PROMPT, seed=5, text=text).finish()
    assert same_bits(own.fork(1, cfg_weight=0.0).finish().latents, own.latents)
    back = own.fork(0, prompt=PROMPT).finish()
    assert same_bits(back.latents, run.latents) and back.settings == run.settings


def test_a_run_may_follow_own_sigmas(session, run):
    assert same_bits(session.start(PROMPT, seed=5, sigmas=run.sigmas).finish().latents, run.latents)
    own = session.start(PROMPT, sigmas=np.array([1, 0.9, 0]))
    assert own.sigmas == (1.0, 0.9, 0.0) and own.num_steps == 2 and own.shift is None


def test_every_array_of_a_step_is_read_by_numpy(run):
    for array in (run.steps[1].latents, run.steps[1].velocity, flow.clean(run.steps[1]), run.latents):
        assert np.asarray(array).dtype == np.float32 and np.asarray(array).shape == (1, 8, 8, 16)


def test_a_run_knows_its_children_but_does_not_keep_them(session):
    run = session.start(PROMPT)
    first, second = run.fork(0, seed=1), run.fork(0, seed=2)
    assert run.children == (first, second) and (first.parent, first.at) == (run, 0)
    del first
    gc.collect()
    assert run.children == (second,)


def test_a_fork_that_is_refused_leaves_no_child(session):
    run = session.start(PROMPT)
    with pytest.raises(InputError) as refused:
        run.fork(0, intervention=cut("dog"))
    assert run.children == () and refused.value is not None


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("which", ["run", "guided"])
def test_a_fork_that_changes_nothing_ends_in_the_same_bits(which, at, request):
    run = request.getfixturevalue(which)
    fork = run.fork(at).finish()
    assert same_bits(fork.latents, run.latents)
    assert all(mine is theirs for mine, theirs in zip(fork.steps[:at], run.steps[:at], strict=True))
    assert fork.parent is run and fork.settings == run.settings


def test_a_fork_of_an_unfinished_run_goes_on_from_its_state(session, run):
    half = session.start(PROMPT, seed=5)
    half.advance(), half.advance()
    assert same_bits(half.fork(2).finish().latents, run.latents)
    assert len(half.steps) == 2


def test_a_fork_with_another_prompt_shares_the_steps_before_it(session, run):
    fork = run.fork(2, prompt="a dog").finish()
    assert fork.steps[:2] == run.steps[:2]
    assert same_bits(fork.steps[2].latents, run.steps[2].latents)
    assert not same_bits(fork.steps[2].velocity, run.steps[2].velocity)
    dog = session.start("a dog", seed=5).finish()
    assert same_bits(run.fork(0, prompt="a dog").finish().latents, dog.latents)


def test_shared_steps_are_replayed_with_the_prompt_that_made_them(run):
    fork = run.fork(2, prompt="a dog").finish().fork(3, prompt="a big tree").finish()
    for i, step in enumerate(fork.steps):
        assert same_bits(fork.replay(i), step.velocity)
    assert np.array_equal(fork.attention(1, "cat").weights, run.attention(1, "cat").weights)
    assert fork.attention(2, "dog").word == "dog"
    with pytest.raises(InputError, match="its words are 'a', 'big', 'tree'"):
        fork.attention(3, "cat")


def test_a_fork_with_another_shift_starts_at_the_noise_level_that_is_reached(run):
    fork = run.fork(2, shift=3.0).finish()
    assert fork.sigmas[:3] == run.sigmas[:3]
    assert fork.sigmas[2:] == flow.schedule(2, 3.0, start=0.5)
    assert fork.shift == 3.0 and run.shift == 1.0
    assert run.fork(0, shift=3.0).sigmas == flow.schedule(4, 3.0)


def test_a_shift_that_is_asked_for_holds_from_the_fork_on_whatever_the_parent_had(run):
    fork = run.fork(3, shift=3.0).finish()
    again = fork.fork(1, shift=3.0)
    assert again.sigmas == (1.0, *flow.schedule(3, 3.0, start=0.75))
    assert "at 1: shift 3: 1 of 4 steps" in str(again.tree())
    assert fork.fork(1).sigmas == fork.sigmas
    assert run.fork(2, shift=1.0).sigmas == run.sigmas  # to the last bit


def test_a_fork_with_more_steps_spreads_the_rest(run):
    fork = run.fork(1, num_steps=7).finish()
    assert len(fork.steps) == 7
    assert fork.sigmas == pytest.approx((1.0, *np.linspace(0.75, 0, 7)))


def test_a_fork_with_own_sigmas_follows_them_for_the_rest(run):
    fork = run.fork(2, sigmas=[0.5, 0.45, 0.1, 0]).finish()
    assert fork.sigmas == (1.0, 0.75, 0.5, 0.45, 0.1, 0.0) and fork.shift is None
    assert [step.sigma_next for step in fork.steps] == [0.75, 0.5, 0.45, 0.1, 0.0]
    assert all(same_bits(fork.replay(i), step.velocity) for i, step in enumerate(fork.steps))
    assert fork.fork(3, prompt="a dog").sigmas == fork.sigmas
    assert fork.fork(3, shift=2.0).sigmas == (*fork.sigmas[:3], *flow.schedule(2, 2.0, start=0.45))


def test_what_cannot_be_asked_leaves_the_run_whole(session, run):
    half = session.start(PROMPT, seed=5)
    half.advance()
    steps = half.steps
    for ask in (
        lambda: half.fork(2),
        lambda: half.replay(1),
        lambda: half.replay("last"),
        lambda: half.image(3),
    ):
        with pytest.raises(InputError):
            ask()
    assert half.steps is steps and half.children == ()
    assert same_bits(half.finish().latents, run.latents)


def test_every_kind_of_change_can_be_made_at_once(guided):
    fork = guided.fork(
        2,
        prompt="a dog",
        negative_text="snow",
        seed=7,
        sigmas=(0.5, 0.2, 0),
        guidance=1.0,
        cfg_weight=2.0,
        intervention=cut("dog"),
    ).finish()
    assert all(same_bits(fork.replay(i), step.velocity) for i, step in enumerate(fork.steps))
    assert (fork.seed, fork.guidance, fork.cfg_weight, fork.negative.text) == (7, 1.0, 2.0, "snow")


def test_a_fork_with_another_seed_mixes_new_noise_at_the_same_level(session, run):
    fork = run.fork(2, seed=9)
    expected = flow.add_noise(flow.clean(run.steps[1]), flow.noise(9, (8, 8)), 0.5)
    assert mx.allclose(fork.latents, expected, atol=1e-6)
    assert same_bits(run.fork(0, seed=9).latents, session.start(PROMPT, seed=9).latents)


def test_a_fork_before_its_parent_branched_off_has_the_parents_changes_from_there_on(session, run):
    other = run.fork(2, seed=9, prompt="a dog").finish()
    early = other.fork(0).finish()
    assert same_bits(early.latents, session.start("a dog", seed=9).finish().latents)
    assert same_bits(other.fork(3).finish().latents, other.latents)
    expected = flow.add_noise(flow.clean(run.steps[0]), flow.noise(9, (8, 8)), 0.75)
    assert mx.allclose(other.fork(1).latents, expected, atol=1e-6)


def test_an_intervention_holds_from_the_fork_on_and_is_replayed(run):
    fork = run.fork(1, intervention=cut("cat", steps=(2, 4))).finish()
    assert same_bits(fork.steps[1].velocity, run.steps[1].velocity)
    assert not same_bits(fork.steps[2].velocity, run.steps[2].velocity)
    for i, step in enumerate(fork.steps):
        assert same_bits(fork.replay(i), step.velocity)
    assert not same_bits(fork.replay(2, attention), fork.steps[2].velocity)
    assert same_bits(run.replay(2), run.steps[2].velocity) and run.settings.intervention is None


def test_a_fork_of_a_fork_keeps_the_intervention(run):
    fork = run.fork(1, intervention=cut("cat")).finish()
    assert same_bits(fork.fork(3).finish().latents, fork.latents)
    assert not same_bits(fork.latents, run.latents)
    assert fork.fork(2, intervention=cut_block(3)).settings.intervention == cut_block(3)


def test_an_intervention_that_does_not_fit_is_refused_before_the_run(run):
    with pytest.raises(InputError, match="has no word 'dog'"):
        run.fork(1, intervention=cut("dog"))
    with pytest.raises(InputError, match="has no word 'cat'"):
        run.fork(1, intervention=cut("cat")).fork(1, prompt="a dog")
    with pytest.raises(InputError, match="intervention is 'cat'; give one"):
        run.fork(1, intervention="cat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at": 5}, r"at is 5; give an integer in 0\.\.4"),
        ({"at": -1}, r"at is -1; give an integer in 0\.\.4"),
        ({"at": 1.5}, "at is 1.5"),
        ({"at": 2, "shift": 0}, "shift is 0"),
        ({"at": 2, "num_steps": 2}, "num_steps is 2; give an integer of at least 3"),
        ({"at": 2, "seed": "x"}, "seed is 'x'"),
        ({"at": 2, "sigmas": (0.6, 0)}, "sigmas begins at 0.6, but the noise level reached is 0.5"),
        ({"at": 2, "sigmas": (0.5, 0), "shift": 2.0}, "sigmas is the whole schedule, but shift is 2.0"),
        ({"at": 2, "sigmas": (0.5,)}, "sigmas has 1 noise levels"),
        *(
            ({"at": 4} | change, "after all 4 steps no noise is left, .* fork at an earlier step")
            for change in ({"sigmas": (0,)}, {"num_steps": 8}, {"num_steps": 3}, {"shift": 2})
        ),
        ({"at": 2, "prompt": 3}, "the prompt is 3; give a string"),
    ],
)
def test_a_bad_fork_says_what_was_wrong(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run.fork(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": None}, "the prompt is None; give a string"),
        ({"prompt": b"cat"}, "the prompt is b'cat'; give a string"),
        ({"negative_text": 0}, "negative_text is 0"),
        ({"num_steps": 0}, "num_steps is 0; give an integer in 1..1000"),
        ({"num_steps": 2.5}, "num_steps is 2.5"),
        ({"num_steps": "4"}, "num_steps is '4'"),
        ({"sigmas": 3}, "sigmas is 3; give noise levels"),
        ({"sigmas": (1, 0.5)}, "sigmas leads from 1 to 0.5; begin at 1 or below and end at 0"),
        ({"sigmas": (1.2, 0)}, "sigmas leads from 1.2 to 0"),
        ({"sigmas": (1, 0.5, 0.5, 0)}, r"sigmas\[2\] is 0.5 after 0.5"),
        ({"sigmas": (1, float("nan"), 0)}, "a noise level in sigmas is nan"),
        ({"sigmas": (1, 0), "num_steps": 1}, "but num_steps is 1; give one of the two"),
        ({"latents": np.zeros((8, 8, 4))}, r"latents have the shape \(1, 8, 8, 4\); give \(1, H, W, 16\)"),
        ({"latents": np.zeros((7, 8, 16))}, r"latent_size \(7, 8\) is odd"),
        ({"latents": np.full((8, 8, 16), np.inf)}, "latents holds 1024 numbers that are not finite"),
        ({"latents": np.zeros((8, 8, 16)), "image": np.zeros((64, 64))}, "but both are given"),
        ({"sigmas": (1, 0), "denoise": 0.5}, r"but denoise is 0\.5; give one of the two"),
        ({"latents": "noise"}, "latents is a str; give an array of floats"),
        ({"latents": np.zeros((8, 8, 16)), "latent_size": (4, 4)}, r"latents are of latent_size \(8, 8\)"),
        ({"text": 3}, "text is a int; give a TextEmbedding or the pair"),
        (
            {"text": (np.zeros((16, 8)), np.zeros(16))},
            r"txt of the text has the shape \(16, 8\); give \(1, 16, 16\)",
        ),
        ({"text": (np.zeros((16, 16)), np.full(16, np.nan))}, "vec holds 16 numbers that are not finite"),
        ({"shift": 0}, "shift is 0; give a finite number above 0"),
        ({"shift": -2.0}, "shift is -2.0"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"shift": float("inf")}, "shift is inf"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": -1}, "guidance is -1; give a finite number of at least 0"),
        ({"cfg_weight": float("inf")}, "cfg_weight is inf"),
        ({"cfg_weight": -0.5}, "cfg_weight is -0.5"),
        ({"cfg_weight": "high"}, "cfg_weight is 'high'"),
        ({"seed": 1.5}, "seed is 1.5; give an integer"),
        ({"seed": "7"}, "seed is '7'"),
        ({"seed": True}, "seed is True"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"latent_size": (15, 16)}, r"size \(15, 16\) is odd.*try \(16, 16\), which is 128 x 128 pixels"),
        ({"latent_size": (16, 0)}, "the width in latent_size is 0; give an integer in 2..1048576"),
        ({"latent_size": (10**400, 2)}, "the height in latent_size is 1000"),
        ({"latents": np.zeros((8, 8, 16)), "latent_size": 8}, "latent_size is 8; give .height, width."),
        ({"latent_size": (16.0, 16)}, "the height in latent_size is 16.0"),
        ({"latent_size": 16}, "latent_size is 16; give .height, width."),
        ({"latent_size": (8, 8, 8)}, r"latent_size is \(8, 8, 8\)"),
        ({"image": "cat.png"}, "there is no picture cat.png"),
        ({"denoise": 0}, "denoise is 0; give a finite number above 0 and at most 1"),
        ({"denoise": 1.01}, "denoise is 1.01"),
        ({"denoise": float("nan")}, "denoise is nan"),
    ],
)
def test_a_bad_start_says_what_was_wrong(session, arguments, message):
    with pytest.raises(InputError, match=message):
        session.start(**{"prompt": PROMPT, **arguments})


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_warns_and_runs(session, prompt):
    with pytest.warns(PromptWarning, match="prompt is empty"):
        run = session.start(prompt)
    assert run.finish().done and run.words == ()


def test_an_over_long_prompt_is_cut_and_the_warning_says_where(session):
    prompt = " ".join(f"w{i}" for i in range(20))
    with pytest.warns(PromptWarning) as caught:
        run = session.start(prompt)
    messages = [str(warning.message) for warning in caught]
    assert ["for T5, " in m for m in messages] == [True, False] and "for CLIP, " in messages[1]
    assert all("does not see 'w15 w16 w17 w18 w19'" in message for message in messages)
    assert caught[0].filename == __file__
    assert [word.text for word in run.words] == [f"w{i}" for i in range(15)]
    with pytest.raises(InputError, match="no word 'w19'"):
        run.finish().attention(0, "w19")


def test_an_over_long_negative_text_warns_where_it_is_used(session):
    fog = "fog " * 20
    with pytest.warns(PromptWarning, match="prompt 'fog fog .* is too long for"):
        run = session.start(PROMPT, cfg_weight=2.0, negative_text=fog)
    run.fork(0, seed=3)  # nothing new to warn of
    with pytest.warns(PromptWarning, match="too long"):
        session.start(PROMPT, cfg_weight=2.0).fork(0, negative_text=fog)


def test_the_same_prompt_warns_again(session):
    for _ in range(2):
        with pytest.warns(PromptWarning, match="prompt is empty"):
            session.start("")


def test_what_has_no_effect_is_said(session):
    with pytest.warns(FluxnbWarning, match="guidance has no effect: stub takes none"):
        assert session.start(PROMPT, guidance=3.5).guidance is None
    with pytest.warns(FluxnbWarning, match="negative_text has no effect at cfg_weight 0"):
        session.start(PROMPT, negative_text="fog")


def test_a_fork_warns_at_the_users_line_and_of_new_things_only(session, run):
    with pytest.warns(FluxnbWarning, match="negative_text has no effect") as caught:
        fork = run.fork(2, negative_text="fog")
    assert caught[0].filename == __file__
    fork.fork(2)  # nothing new to warn of


def test_an_ordinary_start_warns_of_nothing(session):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.start(PROMPT, cfg_weight=2.0)


def test_a_text_is_encoded_once_a_session(monkeypatch):
    session = stubs.session()
    calls = []
    encode = type(session.pipeline).encode_text
    monkeypatch.setattr(
        type(session.pipeline), "encode_text", lambda self, text: calls.append(text) or encode(self, text)
    )
    session = FluxSession(session.pipeline)
    run = session.start(PROMPT, cfg_weight=2.0, negative_text="fog").finish()
    run.fork(1, seed=4), session.start("fog")
    assert calls == [PROMPT, "fog"]


def test_a_session_needs_a_pipeline():
    with pytest.raises(InputError, match="give a FluxPipeline"):
        FluxSession("fluxnb/demo")


def test_images_are_of_the_clean_estimate_or_of_the_noisy_latents(session, run):
    decode = session.pipeline.decode
    assert run.image(1).tobytes() == decode(flow.clean(run.steps[1])).tobytes()
    assert run.image(1, kind="noisy").tobytes() == decode(run.steps[1].latents).tobytes()
    assert run.image(1).size == (64, 64)
    assert run.image(1).tobytes() != run.image(1, "noisy").tobytes()


def test_the_last_image_of_a_finished_run_is_its_picture(session, run):
    picture = session.pipeline.decode(run.latents).tobytes()
    assert {run.image(i, kind).tobytes() for i in (-1, 4) for kind in ("clean", "noisy")} == {picture}
    assert run.image(3).tobytes() == picture


def test_images_of_an_unfinished_run_show_its_last_state(session):
    run = session.start(PROMPT)
    assert run.image(kind="noisy").tobytes() == session.pipeline.decode(run.latents).tobytes()
    with pytest.raises(InputError, match="no step yet"):
        run.image()
    run.advance()
    assert run.image().tobytes() == session.pipeline.decode(flow.clean(run.steps[0])).tobytes()
    assert run.image(kind="noisy").tobytes() == session.pipeline.decode(run.latents).tobytes()


def test_pictures_may_be_wider_than_high(session):
    assert session.start(PROMPT, num_steps=1, latent_size=(4, 10)).finish().image().size == (80, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"i": 5}, r"step of an image is 5; give an integer in -1\.\.4"),
        ({"i": -2}, "step of an image is -2"),
        ({"i": "last"}, "step of an image is 'last'"),
        ({"kind": "sharp"}, "kind is 'sharp'; give one of 'clean', 'noisy'"),
        ({"kind": None}, "kind is None"),
    ],
)
def test_a_bad_image_says_what_was_wrong(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run.image(**arguments)


def test_a_run_without_steps_has_no_attention_and_no_replay(session):
    run = session.start(PROMPT)
    with pytest.raises(InputError, match="no step yet"):
        run.attention(0, "cat")
    with pytest.raises(InputError, match="no step yet"):
        run.replay(0)


def test_an_interrupted_run_keeps_its_steps_and_goes_on_to_the_same_bits(session, run, monkeypatch):
    cut = session.start(PROMPT, seed=5)
    plain = session.pipeline.velocity

    def velocity(*arguments, **options):
        if len(cut.steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return plain(*arguments, **options)

    monkeypatch.setattr(session.pipeline, "velocity", velocity)
    with pytest.raises(KeyboardInterrupt):
        cut.finish()
    monkeypatch.undo()
    assert len(cut.steps) == 2 and not cut.done
    assert same_bits(cut.fork(2).finish().latents, run.latents)
    assert same_bits(cut.finish().latents, run.latents)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="hardware: no interval timer on Windows")
def test_an_interrupt_at_any_moment_leaves_whole_steps(session):
    long = session.start(PROMPT, seed=5, num_steps=200)
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for pause in (0.003, 0.017, 0.041):  # seconds
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, pause)  # in here: a slow machine may be late
                long.finish()
            states = [*(step.latents for step in long.steps), long.latents]
            assert [step.index for step in long.steps] == list(range(len(long.steps)))
            assert all(same_bits(flow.euler(s), x) for s, x in zip(long.steps, states[1:], strict=True))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert session.start(PROMPT, num_steps=1).finish().done


def test_a_run_may_move_between_threads(session, run):
    moved = session.start(PROMPT, seed=5)
    moved.advance()
    with ThreadPoolExecutor(1) as other:
        other.submit(moved.finish).result()
        picture = other.submit(moved.image).result()
        heard = other.submit(moved.attention, 2, "cat").result()
    assert same_bits(moved.latents, run.latents)
    assert picture.tobytes() == run.image().tobytes()
    assert np.array_equal(heard.weights, run.attention(2, "cat").weights)


def test_every_array_leaves_evaluated():
    """An array that is not cannot be read in another thread: MLX's streams are of their threads."""
    session = stubs.session()
    run = session.start(PROMPT, seed=5, cfg_weight=2.0)
    step = run.advance()
    text = session.encode_text("fog")
    arrays = [run.latents, step.latents, step.velocity, text.txt, text.vec]
    arrays += [run.replay(0), run.fork(1, seed=6).latents, run.fork(0, seed=6).latents]
    with ThreadPoolExecutor(1) as other:
        read = list(other.map(np.array, arrays))
    assert [array.dtype for array in read] == [np.float32] * len(arrays)


def test_settings_and_runs_cannot_be_changed(run):
    with pytest.raises(AttributeError):
        run.seed = 4
    with pytest.raises(AttributeError):
        run.settings.seed = 4
    with pytest.raises(AttributeError):
        run.steps = ()


def test_a_run_says_how_far_it_is(run):
    assert repr(run) == "<Run 'a cat and a sunflower' seed 5: step 4 of 4>"


def test_an_embedding_s_own_negative_text_is_not_dropped_in_silence(session):
    text = session.pipeline.encode_text(PROMPT, 3.0, "fog")
    with pytest.raises(InputError, match="encoded with the negative text 'fog', but negative_text is ''"):
        session.start(PROMPT, text=text, cfg_weight=3.0)
    assert session.start(PROMPT, text=text, cfg_weight=3.0, negative_text="fog").negative_text == "fog"
