"""Maps, ledgers and concepts against explicit formulas on what diffusers' own attention is given.

The reference is FluxTransformer2DModel with processors that record q, k, v after norm and RoPE; from these,
softmax over all keys in float64.
"""

from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline as Reference
from diffusers.models.transformers import transformer_flux
from parity.test_pipeline import save

from fluxnb import flow
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.pipeline import FluxPipeline
from fluxnb.probe import Probe
from fluxnb.session import FluxSession

TOLERANCE = 1e-5
PROMPT = "a cat to the left of a sunflower on a blue background"
CONCEPTS = ("cat", "a big sunflower", "background")
SIZE = (6, 10)  # image tokens
STEP = 1


class Recording(transformer_flux.FluxAttnProcessor):
    """diffusers' processor, which also keeps what it hands to the kernel, each (L, H, D)."""

    def __init__(self, kept, block):
        super().__init__()
        self.kept, self.block = kept, block

    def __call__(self, *args, **kwargs):
        kernel = transformer_flux.dispatch_attention_fn

        def record(query, key, value, **options):
            self.kept[self.block] = [x[0].double().numpy() for x in (query, key, value)]
            return kernel(query, key, value, **options)

        transformer_flux.dispatch_attention_fn = record
        try:
            return super().__call__(*args, **kwargs)
        finally:
            transformer_flux.dispatch_attention_fn = kernel


def softmax(x, axis=-1):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


@pytest.fixture(scope="module", params=["plain", "guided", "demo"])
def case(request, tmp_path_factory):
    """Our run, their transformer, and their attention of one step: block -> (heads, L, L)."""
    folder = DEMO_FOLDER
    if request.param != "demo":
        folder = tmp_path_factory.mktemp(request.param)
        save(folder, guidance=request.param == "guided")
    session = FluxSession(FluxPipeline(local_ckpt=str(folder)))
    probes = [
        Probe("sunflower", "all", "each", direction="word_to_image"),
        Probe("cat", "single", direction="image_to_word"),
    ]
    size = tuple(2 * side for side in SIZE)
    run = session.start(PROMPT, num_steps=2, latent_size=size, cfg_weight=0.0, probes=probes).finish()
    theirs = Reference.from_pretrained(folder)
    network, kept = theirs.transformer, {}
    blocks = [*network.transformer_blocks, *network.single_transformer_blocks]
    for number, block in enumerate(blocks):
        block.attn.set_processor(Recording(kept, number))
    record, text = run.steps[STEP], run.text.txt.shape[1]
    with torch.no_grad():
        states, pooled, text_ids = theirs.encode_prompt(PROMPT, None, max_sequence_length=text)
        grid = np.stack(np.broadcast_arrays(0, *np.ogrid[: SIZE[0], : SIZE[1]]), -1).reshape(-1, 3)
        sigma = torch.tensor([record.sigma])
        guidance = None if run.guidance is None else torch.tensor([run.guidance])
        network(
            hidden_states=torch.from_numpy(np.array(flow.pack(record.latents))),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=torch.from_numpy(grid.astype(np.float32)),
            txt_ids=text_ids,
        )
    explicit = {
        number: softmax(np.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5)
        for number, (q, k, _) in kept.items()
    }
    return SimpleNamespace(
        run=run, theirs=theirs, kept=kept, explicit=explicit, text=text, sigma=sigma, guidance=guidance
    )


def groups(case):
    """Tokens by name, from the reference's tokenizer."""
    tokenizer = case.theirs.tokenizer_2
    ids = tokenizer(PROMPT, padding="max_length", max_length=case.text, truncation=True).input_ids
    end = ids.index(tokenizer.eos_token_id)
    pieces = tokenizer(PROMPT, return_offsets_mapping=True)["offset_mapping"]
    found = {
        word: [
            i
            for i, (start, stop) in enumerate(pieces)
            if start < PROMPT.index(word) + len(word) and stop > PROMPT.index(word) and stop > start
        ]
        for word in ("cat", "sunflower")
    }
    image = range(case.text, case.text + SIZE[0] * SIZE[1])
    return found | {"words": range(end), "end": [end], "PAD": range(end + 1, case.text), "image": image}


def blocks_of(case, name):
    double = len(case.theirs.transformer.transformer_blocks)
    every = range(len(case.kept))
    return {"double": every[:double], "single": every[double:], "all": every}.get(name, (name,))


def asked(case, subject):
    """What is asked for, and its tokens."""
    if subject == "patch":
        return (2, 7), [case.text + 2 * SIZE[1] + 7]
    if subject == "region":
        mask = np.zeros(SIZE, bool)
        mask[3:, 1:4] = True
        return mask, list(case.text + np.flatnonzero(mask))
    return subject, list(groups(case)[subject])


SUBJECTS = ("cat", "sunflower", "patch", "region", "PAD", "end", "words", "image")


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("blocks", ["double", "single", "all", 1])
@pytest.mark.parametrize("heads", ["mean", "each", 2])
def test_rows_and_columns_are_those_of_the_reference(case, subject, blocks, heads):
    what, positions = asked(case, subject)
    full = np.mean([case.explicit[block] for block in blocks_of(case, blocks)], axis=0)
    full = {"mean": full.mean(0), "each": full}.get(heads) if isinstance(heads, str) else full[heads]
    row = case.run.attention(STEP, what, blocks, heads, "rows")
    expected = full[..., positions, :].mean(-2)
    assert np.abs(row.weights.reshape(*row.shape[:-2], -1) - expected[..., case.text :]).max() < TOLERANCE
    column = case.run.attention(STEP, what, blocks, heads, "columns")
    expected = full[..., positions].sum(-1)
    assert np.abs(column.weights.reshape(*row.shape[:-2], -1) - expected[..., case.text :]).max() < TOLERANCE


@pytest.mark.parametrize("direction", ["word_to_image", "image_to_word"])
def test_the_rest_of_the_attention_is_where_the_reference_has_it(case, direction):
    named, full = groups(case), np.mean(list(case.explicit.values()), axis=0).mean(0)
    queries = named["sunflower"] if direction == "word_to_image" else list(named["image"])
    masses = [
        full[queries][:, list(named[name])].sum(-1).mean()
        for name in ("sunflower", "words", "end", "PAD", "image")
    ]
    masses[1] -= masses[0]
    mass = case.run.attention(STEP, "sunflower", "all", direction=direction).mass
    assert np.abs(np.subtract(astuple(mass), masses)).max() < TOLERANCE


def test_a_ledger_is_that_of_the_reference(case):
    named = groups(case)
    ledger = case.run.ledger(("cat", "sunflower"), step=STEP)
    rest = sorted(set(named["words"]) - {*named["cat"], *named["sunflower"]})
    parts = [named["cat"], named["sunflower"], rest, named["end"], named["PAD"], named["image"]]
    parts = [list(part) for part in parts if len(part)]
    for block, full in case.explicit.items():
        sums = np.stack([full[:, :, part].sum(-1) for part in parts], -1)
        expected = np.stack([sums[:, part].mean(1) for part in [*parts, list(range(case.text))]], 1)
        assert np.abs(ledger.shares[0, block] - expected).max() < TOLERANCE


def test_captured_maps_are_those_of_the_reference(case):
    each, mean = case.run.maps[STEP]
    named = groups(case)
    full = np.mean(list(case.explicit.values()), axis=0)
    expected = full[:, named["sunflower"], case.text :].mean(1)
    assert np.abs(each.weights.reshape(expected.shape) - expected).max() < TOLERANCE
    full = np.mean([case.explicit[block] for block in blocks_of(case, "single")], axis=0).mean(0)
    expected = full[case.text :, named["cat"]].sum(-1)
    assert np.abs(mean.weights.ravel() - expected).max() < TOLERANCE


@torch.no_grad()
def concept_shares(case, blocks):
    """ConceptAttention by the modules of the reference's text stream, in float64; and its largest score."""
    network, tokenizer = case.theirs.transformer, case.theirs.tokenizer_2
    states, owner = [], []
    for number, concept in enumerate(CONCEPTS):
        ids = tokenizer(concept, padding="max_length", max_length=case.text, return_tensors="pt").input_ids
        count = ids[0].tolist().index(tokenizer.eos_token_id)
        states.append(case.theirs.text_encoder_2(ids)[0][:, :count])
        owner += [number] * count
    x = network.context_embedder(torch.cat(states, 1))
    pooled = torch.zeros(1, network.config.pooled_projection_dim)
    time = (1000 * case.sigma, *(() if case.guidance is None else (1000 * case.guidance,)), pooled)
    vec = network.time_text_embed(*time)
    found, largest = [], 0.0
    for number, block in enumerate(network.transformer_blocks):
        attn = block.attn
        normed, gate, shift2, scale2, gate2 = block.norm1_context(x, emb=vec)
        q, k, v = (
            layer(normed).unflatten(-1, (attn.heads, -1))
            for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        q, k, v = (y[0].double().numpy() for y in (attn.norm_added_q(q), attn.norm_added_k(k), v))
        image = [array[case.text :] for array in case.kept[number]]
        keys, values = np.concatenate([image[1], k]), np.concatenate([image[2], v])
        weights = softmax(np.einsum("qhd,khd->hqk", q, keys) * q.shape[-1] ** -0.5)
        out = np.einsum("hqk,khd->qhd", weights, values).reshape(len(q), -1)
        outputs = np.einsum("hqk,khd->qhd", case.explicit[number][:, case.text :], case.kept[number][2])
        scores = outputs.reshape(len(outputs), -1) @ out.T  # (h*w, P)
        scores = np.stack([scores[:, np.array(owner) == i].mean(1) for i in range(len(CONCEPTS))])
        if number in blocks:
            found.append(softmax(scores, axis=0))
            largest = max(largest, np.abs(scores).max())
        x = x + gate.unsqueeze(1) * attn.to_add_out(torch.from_numpy(out).float()[None])
        normed = block.norm2_context(x) * (1 + scale2[:, None]) + shift2[:, None]
        x = x + gate2.unsqueeze(1) * block.ff_context(normed)
    return np.mean(found, axis=0), largest


@pytest.mark.parametrize("blocks", [None, "double", 0])
def test_concept_maps_are_those_of_the_reference_s_weights(case, blocks):
    maps = case.run.concepts(CONCEPTS, step=STEP, blocks=blocks)
    shares, largest = concept_shares(case, maps.blocks)
    step = largest * np.finfo(np.float32).eps  # of a score in float32, which shows where scores are large
    assert np.abs(maps.weights.reshape(3, -1) - shares).max() < max(TOLERANCE, step)
