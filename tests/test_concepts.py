"""ConceptAttention against its formulas in float64, and what is kept for the next concept."""

import mlx.core as mx
import numpy as np
import pytest
import stubs
from mlx.utils import tree_flatten

from fluxnb import concepts
from fluxnb.errors import InputError
from fluxnb.interventions import cut_block
from fluxnb.model.layers import attention

PROMPT = "a sunflower and a cat"
NAMES = ("cat", "a skyscraper", "fog")  # of 1, 3 and 1 tokens
TEXT, WIDTH, HEADS = stubs.LENGTH, 32, 2


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "guided"])
def run(request):
    session = stubs.session(guidance=request.param)
    return session.start(PROMPT, num_steps=3, latent_size=(8, 12)).finish()


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x, axis=-1):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def sinusoid(t):
    angle = 1000 * t * np.exp(-np.log(10000) * np.arange(128) / 128)
    return np.concatenate([np.cos(angle), np.sin(angle)])


class Explicit:
    """The mathematics of the paper in float64, from the weights by their names."""

    def __init__(self, run):
        network = run.session.pipeline.networks.mmdit
        self.weights = {name: np.array(x, np.float64) for name, x in tree_flatten(network.parameters())}
        self.run = run

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def mlp(self, name, x, activation, layers):
        return self.linear(f"{name}.{layers[1]}", activation(self.linear(f"{name}.{layers[0]}", x)))

    def vec(self, sigma, guidance):
        vec = self.mlp("time_in", sinusoid(sigma), silu, ("in_layer", "out_layer"))
        vec = vec + self.mlp("vector_in", np.zeros(16), silu, ("in_layer", "out_layer"))
        if guidance is not None:
            vec = vec + self.mlp("guidance_in", sinusoid(guidance), silu, ("in_layer", "out_layer"))
        return silu(vec)

    def image(self, step):
        """q, k, v (heads, L, D) of the pass, by block, from the network."""
        kept = {}

        def keep(q, k, v, layer):
            kept[layer] = [np.array(x, np.float64)[0] for x in (q, k, v)]
            return attention(q, k, v, layer)

        self.run.replay(step, attend=keep)
        return kept

    def shares(self, names, step, blocks):
        record = self.run.steps[step]
        vec, kept = self.vec(record.sigma, self.run.guidance), self.image(step)
        texts = [self.run.session.encode_text(name) for name in names]
        states = [np.array(text.txt, np.float64)[0, : text.end] for text in texts]
        owner = np.repeat(range(len(names)), [len(x) for x in states])
        x, found = self.linear("txt_in", np.concatenate(states)), []
        for layer in range(2):
            name = f"double_blocks.{layer}"
            shift, scale, gate, shift2, scale2, gate2 = np.split(self.linear(f"{name}.txt_mod.lin", vec), 6)
            qkv = self.linear(f"{name}.txt_attn.qkv", normed(x) * (1 + scale) + shift)
            q, k, v = qkv.reshape(len(x), 3, HEADS, -1).transpose(1, 2, 0, 3)
            norms = [self.weights[f"{name}.txt_attn.norm.{side}_norm.scale"] for side in ("query", "key")]
            q, k = (
                y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * norm
                for y, norm in zip((q, k), norms, strict=True)
            )
            all_q, all_k, all_v = kept[layer]
            keys = np.concatenate([all_k[:, TEXT:], k], axis=1)
            values = np.concatenate([all_v[:, TEXT:], v], axis=1)
            scale_ = q.shape[-1] ** -0.5
            out = softmax(scale_ * q @ keys.swapaxes(1, 2)) @ values
            out = out.transpose(1, 0, 2).reshape(len(x), -1)
            image = softmax(scale_ * all_q[:, TEXT:] @ all_k.swapaxes(1, 2)) @ all_v
            image = image.transpose(1, 0, 2).reshape(-1, WIDTH)
            scores = image @ out.T  # (h*w, P)
            scores = np.stack([scores[:, owner == i].mean(1) for i in range(len(names))])
            if layer in blocks:
                found.append(softmax(scores, axis=0))
            x = x + gate * self.linear(f"{name}.txt_attn.proj", out)
            x = x + gate2 * self.mlp(f"{name}.txt_mlp", normed(x) * (1 + scale2) + shift2, gelu, (0, 2))
        return np.mean(found, axis=0)


@pytest.mark.parametrize("blocks", [None, 0, (0, 1), "double"])
def test_concept_maps_are_what_the_paper_s_formulas_give(run, blocks):
    maps = run.concepts(NAMES, step=1, blocks=blocks)
    numbers = {None: (1,), 0: (0,)}.get(blocks, (0, 1))
    assert maps.blocks == numbers
    assert np.abs(maps.weights.reshape(3, -1) - Explicit(run).shares(NAMES, 1, numbers)).max() < 1e-5


def test_several_steps_are_averaged(run):
    each = [run.concepts(NAMES, step=step).weights for step in (0, 2)]
    maps = run.concepts(NAMES, step=(0, 2))
    assert np.abs(maps.weights - np.mean(each, 0)).max() < 1e-6
    assert (maps.steps, maps.sigmas) == ((0, 2), (run.sigmas[0], run.sigmas[2]))
    assert run.concepts(NAMES).steps == (0, 1, 2)


def test_each_place_is_shared_out_and_a_concept_has_its_map(run):
    maps = run.concepts(NAMES, step=0)
    assert maps.weights.shape == (3, 4, 6) and np.abs(maps.weights.sum(0) - 1).max() < 1e-6
    assert np.array_equal(maps["a skyscraper"], maps.weights[1])
    with pytest.raises(InputError, match="the concept is 'dog'; give one of 'cat', 'a skyscraper', 'fog'"):
        maps["dog"]


def passes(run, monkeypatch):
    made, velocity = [], type(run.session.pipeline).velocity
    monkeypatch.setattr(
        type(run.session.pipeline), "velocity", lambda *args, **k: made.append(1) or velocity(*args, **k)
    )
    return made


def test_new_concepts_need_no_pass_through_the_network(monkeypatch):
    run = stubs.session().start(PROMPT, num_steps=2).finish()
    made = passes(run, monkeypatch)
    run.concepts(("cat", "fog"))
    assert len(made) == 2
    later = run.concepts(("cat", "dog", "fog"))
    assert len(made) == 2
    assert np.array_equal(
        later.weights,
        stubs.session().start(PROMPT, num_steps=2).finish().concepts(("cat", "dog", "fog")).weights,
    )


def test_the_sides_used_last_are_kept_up_to_a_number_of_bytes(monkeypatch):
    run = stubs.session().start(PROMPT, num_steps=3).finish()
    run.concepts(NAMES, step=0)
    one = run.session.image_sides.nbytes
    assert one > 0
    run.session.image_sides = concepts.ImageSides(limit=2 * one)
    made = passes(run, monkeypatch)
    for step in (0, 1, 0, 2, 0):  # 2 drives out 1
        run.concepts(NAMES, step=step)
    assert len(made) == 3 and run.session.image_sides.nbytes == 2 * one
    run.concepts(NAMES, step=1)
    assert len(made) == 4


def test_a_small_machine_keeps_fewer_sides(monkeypatch):
    run = stubs.session().start(PROMPT, num_steps=2).finish()
    monkeypatch.setattr(concepts.backend, "memory_bytes", lambda: 16)
    run.session.image_sides = concepts.ImageSides()
    made = passes(run, monkeypatch)
    run.concepts(NAMES)
    one = run.session.image_sides.nbytes  # the newest alone is kept
    run.concepts(NAMES, step=1)
    assert len(made) == 2 and run.session.image_sides.nbytes == one
    run.concepts(NAMES, step=0)
    assert len(made) == 3


def test_no_side_outlives_its_place_among_those_kept(monkeypatch):
    run = stubs.session().start(PROMPT, num_steps=4, latent_size=(32, 32)).finish()
    run.session.image_sides = concepts.ImageSides(limit=0)
    used, shares = [], concepts.shares

    def watch(*arguments):
        used.append(mx.get_active_memory())
        return shares(*arguments)

    monkeypatch.setattr(concepts, "shares", watch)
    run.concepts(NAMES)
    assert used[3] - used[1] < run.session.image_sides.nbytes  # two sides more, if they were held


def test_a_concept_is_read_by_t5_alone(monkeypatch):
    run = stubs.session().start(PROMPT, num_steps=1).finish()
    monkeypatch.setattr(type(run.session.pipeline.networks.clip), "__call__", None)  # which may cut it
    assert run.concepts(NAMES).concepts == NAMES


def test_asking_for_concepts_changes_no_parameter_and_no_bit_of_the_picture():
    session = stubs.session()
    plain = session.start(PROMPT, num_steps=2).finish()
    names = [name for name, _ in tree_flatten(session.pipeline.networks.mmdit.parameters())]
    run = session.start(PROMPT, num_steps=2)
    run.advance()
    run.concepts(NAMES)
    run.finish()
    assert mx.array_equal(run.latents, plain.latents)
    assert mx.array_equal(run.replay(0), plain.steps[0].velocity)
    assert [name for name, _ in tree_flatten(session.pipeline.networks.mmdit.parameters())] == names


def test_a_block_that_an_intervention_cuts_is_left_out():
    run = stubs.session().start(PROMPT, num_steps=2).fork(0, intervention=cut_block(1, steps=(0, 1))).finish()
    assert run.concepts(NAMES, step=0, blocks="double").blocks == (0,)
    assert run.concepts(NAMES, step="all", blocks="double").blocks == (0, 1)
    with pytest.raises(InputError, match="of blocks 1 none is left"):
        run.concepts(NAMES, step=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concepts": "cat"}, "concepts is 'cat'; give a list of texts"),
        ({"concepts": 3}, "concepts is 3; give a list"),
        ({"concepts": ["cat"]}, r"concepts are \('cat',\); give at least two different"),
        ({"concepts": []}, "give at least two different"),
        ({"concepts": ["cat", "cat"]}, "give at least two different"),
        ({"concepts": ["cat", 3]}, "a concept is 3; give a string"),
        ({"concepts": ["cat", " "]}, "' ' cannot be a concept: T5 reads nothing in it; give a word or a few"),
        (
            {"concepts": ["cat", "w " * 20]},
            "it is too long for T5, which does not see 'w w w",
        ),
        ({"step": 5}, r"step is 5; give an integer in -1\.\.2"),
        ({"blocks": 2}, r"block 2 is a single block, .* go through the double blocks, 0\.\.1"),
        ({"blocks": "all"}, "block 2 is a single block"),
        ({"blocks": 9}, r"the block is 9; give an integer in 0\.\.3"),
    ],
)
def test_what_cannot_be_a_concept_is_answered_with_what_can(run, arguments, message):
    with pytest.raises(InputError, match=message):
        run.concepts(**{"concepts": NAMES, "step": 0, **arguments})
