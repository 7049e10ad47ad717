"""Claims about what is said before a picture is drawn: words and sizes that the model was not taught."""

import warnings

import pytest
import stubs

from fluxnb.errors import FluxnbWarning, PromptWarning
from fluxnb.pipeline import FluxPipeline

STRANGE = "a kitten and a dog"
NOTE = "this model was not taught 'kitten' (try cat); pipeline.vocabulary has all its words"


@pytest.fixture(scope="module")
def session():
    return stubs.session(vocabulary=stubs.TAUGHT)


def said(caught):
    return [str(one.message) for one in caught]


def test_a_run_says_it_once_at_the_users_line_and_draws(session):
    with pytest.warns(PromptWarning) as caught:
        run = session.start(STRANGE)
    assert said(caught) == [NOTE] and caught[0].filename == __file__
    assert run.notes == (NOTE,)
    run.finish()


def test_a_fork_says_what_is_new(session):
    with pytest.warns(PromptWarning):
        run = session.start(STRANGE)
    run.fork(0, seed=3)
    run.fork(0, prompt="a cat and a dog")
    with pytest.warns(PromptWarning, match="'puppy'") as caught:
        run.fork(0, prompt="a puppy")
    assert caught[0].filename == __file__


def test_a_sweep_says_each_thing_once(session):
    with pytest.warns(PromptWarning) as caught:
        session.sweep([STRANGE, "a puppy"], seeds=range(3), num_steps=1, latent_size=(2, 6))
    assert len(said(caught)) == 3 and {one.filename for one in caught} == {__file__}


def test_pictures_drawn_at_once_say_it_at_the_users_line(session):
    with pytest.warns(PromptWarning) as caught:
        session.pipeline.generate_image(STRANGE, num_steps=1)
    assert said(caught) == [NOTE] and caught[0].filename == __file__


def test_sizes_within_the_range_pass_and_others_are_said(session):
    for size in ((6, 6), (12, 12), (6, 12), (8, 10)):
        session.start("a cat", latent_size=size)
    for size in ((4, 8), (8, 14)):
        with pytest.warns(PromptWarning, match="48 to 96 pixels a side; at "):
            session.start("a cat", latent_size=size)


def test_latents_drawn_by_diffusionkits_call_say_the_size(session):
    text = session.encode_text("a kitten")
    with pytest.warns(PromptWarning, match="at 32 x 16 pixels") as caught:
        session.pipeline.denoise_latents(text.txt, text.vec, num_steps=1, latent_size=(2, 4), seed=0)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_the_negative_text_counts_where_it_is_used(session):
    with pytest.warns(PromptWarning, match="not taught 'fog'"):
        session.start("a cat", cfg_weight=2.0, negative_text="fog")
    with pytest.warns(FluxnbWarning) as caught:
        session.start("a cat", cfg_weight=0, negative_text="fog")
    assert len(caught) == 1 and "no effect" in said(caught)[0]


def test_the_name_of_an_own_embedding_is_no_prompt(session):
    text = session.encode_text("a cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.start("halfway to a kitten", text=(text.txt, text.vec))
        session.start("a cat", cfg_weight=2.0)  # nor is an empty negative text


def test_a_model_that_says_nothing_of_its_words_takes_any():
    pipeline = stubs.pipeline()
    assert pipeline.vocabulary is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FluxPipeline.from_networks(pipeline.networks).generate_image(STRANGE, num_steps=1, latent_size=(2, 2))
