"""Records that hold arrays show themselves in a line that one can read."""

import stubs

from fluxnb.interventions import cut


def test_a_record_shows_of_an_array_its_type_and_shape():
    run = stubs.session().start("a cat", num_steps=2).finish()
    step = run.steps[0]
    h, w = run.latent_size
    shape = (1, h, w, step.latents.shape[-1])
    assert repr(step) == (
        f"Step(index=0, sigma=1.0, sigma_next=0.5, latents=float32 {shape}, velocity=float32 {shape}, "
        f"seconds={step.seconds!r})"
    )
    looked = run.attention(1, "cat")
    assert repr(looked).startswith(f"AttentionMap(weights=float32 {looked.shape}, mass=Mass(word=")
    assert "word='cat', step=1, " in repr(looked)


def test_every_answer_fits_on_a_page():
    run = stubs.session().start("a cat", num_steps=2).finish()
    answers = [
        run.text,
        run.steps[0],
        run.attention(1, "cat"),
        run.ledger(),
        run.concepts(["cat", "dog"]),
        run.effect(cut("cat"), 1),
        run.trajectory(),
        run.local_errors(),
        run.guidance_lens(),
    ]
    for answer in answers:
        assert "array(" not in repr(answer)
        assert "\n" not in repr(answer)
        assert len(repr(answer)) < 1200
