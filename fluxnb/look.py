"""Looks into steps of a run: repeats a step from its record, listens, makes records of what was heard.

Euler's method is deterministic, so any map of any step can be had after the run, by a pass that ends after
the last block asked for. The functions take a run (`fluxnb.run.Run`) and leave it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from fluxnb import concepts as concept_attention
from fluxnb import trust
from fluxnb.asked import Asked, averages, frozen, indicators, present, tokens
from fluxnb.errors import InputError
from fluxnb.listen import Listener, Reader, overhear
from fluxnb.maps import AttentionMap, ConceptMaps, Ledger
from fluxnb.model.layers import Attend
from fluxnb.model.tokenizers import Word
from fluxnb.probe import GROUPS, Probe, Tokens, find_blocks, find_heads, find_steps, find_word

if TYPE_CHECKING:
    from fluxnb.run import Run


def attention(
    run: Run, step: str | int | Iterable[int], probe: Probe
) -> AttentionMap | tuple[AttentionMap, ...]:
    """Repeats steps and returns what one subject looked at in each, or who looked at it.

    Args:
        run: At least one of its steps must be made.
        step: An index, for one map; several or "all", for a tuple of them.
        probe: What is asked.

    Raises:
        InputError: if there is no such step, or nothing of that name in it; it says what there is.
    """
    config = run.session.pipeline.networks.configs.mmdit
    steps = find_steps(step, len(run.steps))
    asked = [Asked((probe,), run.owner(i).text, run.latent_size, config) for i in steps]
    hearings = [
        one.hearing(i, run.steps[i].sigma, cut_blocks(run, i)) for i, one in zip(steps, asked, strict=True)
    ]
    maps = []
    for i, hearing in zip(steps, hearings, strict=True):
        repeat(run, i, lambda attend, hearing=hearing: hearing.around(attend, is_replay=True))
        maps += hearing.maps
    return tuple(maps) if isinstance(step, Iterable) else maps[0]


def repeat(run: Run, step: int, hear: Callable[[Attend], Attend]) -> None:
    """Repeats the pass of a step with its prompt, for what is heard; the velocity is not computed.

    Args:
        run: Any that has the step.
        step: Its index.
        hear: Puts a listener around the attention of the step.
    """
    record, owner = run.steps[step], run.owner(step)
    overhear(
        lambda: run.session.pipeline.velocity_at(
            step, record.latents, record.sigma, owner.settings, owner.text, negative=None, hear=hear
        )
    )


def prepare(run: Run, first: int) -> Asked | None:
    """Finds what the probes of a run name, for its steps from `first` on; None if it has none.

    Raises:
        InputError: if there is nothing of a name, or in one of the steps an intervention cuts all its blocks.
    """
    if not run.probes:
        return None
    config = run.session.pipeline.networks.configs.mmdit
    asked = Asked(run.probes, run.text, run.latent_size, config)
    for cut in {cut_blocks(run, step) for step in range(first, run.num_steps)}:
        asked.hearing(first, 1.0, cut)  # raises where it leaves no block
    return asked


def cut_blocks(run: Run, step: int) -> frozenset[int] | None:
    """Returns the blocks that an intervention leaves out of a step; None for the model as it was measured."""
    owner, config = run.owner(step), run.session.pipeline.networks.configs.mmdit
    intervention = owner.settings.intervention
    if intervention is None or not intervention.acts_on(step):
        return frozenset() if owner.settings.adapters else None
    return intervention.at(step, tokens(owner.text, run.latent_size), config)[1]


def ledger(
    run: Run,
    words: str | Word | Iterable[str | Word] | None,
    step: str | int | Iterable[int],
    blocks: str | int | Iterable[int],
    heads: str | int,
) -> Ledger:
    """Repeats steps, each once, and accounts for all attention in them; see `Run.ledger`."""
    steps = find_steps(step, len(run.steps))
    pipeline = run.session.pipeline
    numbers = find_blocks(blocks, *pipeline.blocks)
    heads = find_heads(heads, pipeline.networks.configs.mmdit.heads)
    is_asked = words is not None
    if not is_asked:
        words = dict.fromkeys(word.text.casefold() for word in run.owner(steps[0]).words)
    words = (words,) if isinstance(words, (str, Word)) else tuple(words)
    parted = [_part(words, tokens(run.owner(i).text, run.latent_size), is_asked) for i in steps]
    labels = [find_word(word, run.owner(steps[0]).words)[0] for word in words]
    labels += ["other words", *list(GROUPS.values())[1:]]
    kept = [i for i in range(len(labels)) if any(parts[i] for parts in parted)]
    keys = tuple(labels[i] for i in kept)
    shares = [
        _account(run, step, [parts[i] for i in kept], numbers, heads)
        for step, parts in zip(steps, parted, strict=True)
    ]
    return Ledger(
        frozen(np.stack(shares)),
        steps,
        tuple(run.steps[i].sigma for i in steps),
        numbers,
        tuple(range(shares[0].shape[1])) if heads == "each" else (heads,),
        (*keys, "all text tokens"),
        keys,
    )


def _part(words: tuple[str | Word, ...], tokens: Tokens, is_asked: bool) -> list[Iterable[int]]:
    """Parts the tokens of a pass: each word, the other words, end, PAD, image; each token is in one part.

    A word that the prompt lacks is an error if it was asked for, and else has no tokens.
    """
    there = {one.text.casefold() for one in tokens.words}
    named = [find_word(word, tokens.words)[1] if is_asked or word in there else () for word in words]
    taken = [position for positions in named for position in positions]
    if len(set(taken)) < len(taken):
        given = ", ".join(repr(getattr(word, "text", word)) for word in words)
        raise InputError(f"the words {given} share tokens; give each once")
    prompt, *others = tokens.groups
    return [*named, sorted(set(prompt) - set(taken)), *others]


def _account(run: Run, step: int, parts: list, blocks: tuple[int, ...], heads: str | int) -> np.ndarray:
    """Returns the shares of one step: (blocks, heads, queries, keys); NaN for a block that is cut."""
    there = tokens(run.owner(step).text, run.latent_size)
    groups = mx.array(indicators(parts, there.length))
    average = mx.array(averages([*parts, range(there.text)], there.length))
    is_mean = heads == "mean"

    def read(shares: mx.array) -> mx.array:  # (B, H, queries, keys)
        shares = average @ shares
        return shares.mean(axis=1, keepdims=True) if is_mean else shares

    left = present(blocks, cut_blocks(run, step))
    head = heads if isinstance(heads, int) else None
    reader = Reader(left, read, groups=groups, head=head, is_mean=False)
    repeat(run, step, lambda attend: Listener([reader], attend, is_replay=True))
    heard = reader.result()
    shares = np.full((len(blocks), *heard.shape[1:]), np.nan, np.float32)
    shares[[blocks.index(block) for block in left]] = heard
    return shares


def concepts(
    run: Run,
    concepts: Iterable[str],
    step: str | int | Iterable[int],
    blocks: str | int | Iterable[int] | None,
) -> ConceptMaps:
    """Says where concepts are in a picture; see `Run.concepts`."""
    names = concept_attention.check_names(concepts)
    steps = find_steps(step, len(run.steps))
    session = run.session
    numbers = concept_attention.find_double_blocks(blocks, session.pipeline.networks.configs.mmdit)
    cuts = {i: cut_blocks(run, i) for i in steps}
    left = {i: present(numbers, cuts[i]) for i in steps}
    texts = [session.encode_concept(name) for name in names]
    # after the texts: it may drive out their encoder
    network = session.pipeline.transformer(run.settings.adapters)
    weights = [
        np.array(concept_attention.shares(network, _image_side(run, i, left[i]), texts)) for i in steps
    ]  # each (concepts, h*w), evaluated, so that it holds on to no image side
    mean = np.mean(weights, axis=0).reshape(-1, *(side // 2 for side in run.latent_size))
    sigmas = tuple(run.steps[i].sigma for i in steps)
    heard = tuple(sorted(set().union(*left.values())))
    known = None
    if len(steps) == 1 and cuts[steps[0]] is None:  # nothing else was measured
        known = trust.lookup("concepts", heard, sigmas[0], session.pipeline.blocks)
    return ConceptMaps(frozen(mean), names, steps, sigmas, heard, known)


def _image_side(run: Run, step: int, blocks: tuple[int, ...]) -> concept_attention.ImageSide:
    """Returns the image's side of the attention in a step, kept or by repeating the step."""
    record, owner = run.steps[step], run.owner(step)

    def make() -> concept_attention.ImageSide:
        keeper = concept_attention.Keeper(blocks, owner.text.txt.shape[1])
        repeat(run, step, keeper.around)
        network = run.session.pipeline.transformer(owner.settings.adapters)
        return keeper.result(network, record.sigma, owner.guidance)

    return run.session.image_sides.get((record, blocks), make)
