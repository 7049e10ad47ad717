"""Figures of attention: maps over the picture, ledgers, effects of interventions, what can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure

from fluxnb import checks
from fluxnb.effect import Effect
from fluxnb.errors import InputError
from fluxnb.maps import AttentionMap, ConceptMaps, Ledger
from fluxnb.plots.canvas import HEAT, MEDIUM, panels, plain, row_of, shaped, show, styles, wrapped
from fluxnb.run import KINDS, Run
from fluxnb.trust import NAMES, Trust, measured

GREYS = {
    "other words": ("#4d4d4d", ""),
    "end token": ("#808080", "//"),
    "PAD tokens": ("#b3b3b3", ".."),
    "image tokens": ("#e0e0e0", ""),
}
"""Colour and hatch of the groups that are no words; words have the colours."""

CONTROLS = {
    "absent_word": "-",
    "text_only": (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    "other_word": "--",
    "untrained": ":",
    "noise": "-.",
}
"""Figures of `Trust` that should be low, and their dashes."""

TOLD = {
    "step": lambda one: f"step {one.step}",
    "direction": lambda one: one.direction.replace("_", " "),
    "blocks": lambda one: _blocks(one.blocks),
    "heads": lambda one: "all heads" if one.heads == "mean" else f"head {one.heads}",
}
"""What a map's title says beside its word, where the maps of a figure differ in it."""


def maps(
    run: Run,
    maps: AttentionMap | ConceptMaps | Iterable[AttentionMap],
    *,
    kind: str = "clean",
    same_scale: bool = True,
    opacity: float = 0.65,
) -> Figure:
    """Draws maps over the picture of their step, one panel each, the word as title.

    Args:
        run: That they are of.
        maps: One or several of `Run.attention`; or those of `Run.concepts`, over their last step.
        kind: Of picture, "clean" or "noisy".
        same_scale: Whether one colour stands for one share in all panels; else each has its own brightest.
        opacity: Of the map, 0 to 1.

    Raises:
        InputError: if there are no maps, or one has a map for each head.
    """
    checks.choice("kind", kind, KINDS)
    drawn = _panels(maps)
    if not drawn:
        raise InputError("no maps to draw; give at least one, as run.attention() returns it")
    top = max(weights.max() for _, weights, _ in drawn)
    pictures = {step: run.image(step, kind) for step in {step for _, _, step in drawn}}
    rows, columns = row_of(len(drawn))
    bar = 0.9  # inches, for a scale with its numbers
    width, height = shaped(run.latent_size)
    figure, grid = panels(rows, columns, (width + 0.1 + (0 if same_scale else bar / 2), height + 0.3))
    if same_scale:
        figure.set_size_inches(figure.get_figwidth() + bar, max(figure.get_figheight(), 1.8))
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes, (title, weights, step) in zip(grid.flat, drawn, strict=False):
        h, w = weights.shape
        extent = (0, w, h, 0)
        show(axes, pictures[step], extent=extent)
        highest = top if same_scale else weights.max()
        title = wrapped(title, width)
        heat = show(
            axes, weights, title, extent=extent, cmap=HEAT, alpha=opacity, vmin=0, vmax=highest or 1.0
        )
        if not same_scale:
            figure.colorbar(heat, ax=axes, shrink=0.7)
    if same_scale:
        scale = figure.colorbar(heat, ax=list(grid.flat), shrink=0.8)
        scale.set_label(_unit(maps), fontsize="small")
    return figure


def _panels(maps: AttentionMap | ConceptMaps | Iterable[AttentionMap]) -> list[tuple[str, np.ndarray, int]]:
    """Returns title, map (h, w) and step of each panel."""
    if isinstance(maps, ConceptMaps):
        return [(name, maps[name], maps.steps[-1]) for name in maps.concepts]
    maps = [maps] if isinstance(maps, AttentionMap) else list(maps)
    for one in maps:
        if one.weights.ndim != 2:
            raise InputError(
                f"the map of {one.word!r} has shape {one.shape}, one of each head; "
                "ask for heads='mean' or for one head"
            )
    told = [field for field in TOLD if len({getattr(one, field) for one in maps}) > 1]
    titles = (", ".join([one.word, *(TOLD[field](one) for field in told)]) for one in maps)
    return [(title, one.weights, one.step) for title, one in zip(titles, maps, strict=True)]


def _blocks(blocks: tuple[int, ...]) -> str:
    """Names blocks, rising numbers: "block 3", "blocks 0-5", or "blocks 0, 3, 4"."""
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    is_all = blocks == tuple(range(blocks[0], blocks[-1] + 1))
    return f"blocks {blocks[0]}-{blocks[-1]}" if is_all else f"blocks {', '.join(map(str, blocks))}"


def _unit(maps: AttentionMap | ConceptMaps | Iterable[AttentionMap]) -> str:
    """Says what a colour stands for."""
    return "share among concepts" if isinstance(maps, ConceptMaps) else "share of attention"


def ledger(ledger: Ledger, query: str = "image tokens", along: str = "block", *, top: float = 1.0) -> Figure:
    """Draws where the attention of one group of tokens went, as stacked bars that reach 1.

    Args:
        ledger: As `Run.ledger` returns it.
        query: Who looks, one of `ledger.queries`.
        along: "step", "block" or "head": a bar for each, the mean over the other two.
        top: Where the axis ends, above 0 and at most 1. Words stand at the foot of the bars and have small
            shares: 0.3 shows them larger.

    Raises:
        InputError: if there is no such group or axis.
    """
    top = checks.number("top", top, above=0, high=1)
    heights = ledger.bars(query, along)  # (bars, keys)
    names = {"step": ledger.steps, "block": ledger.blocks, "head": ledger.heads}[along]
    bars, words = len(names), len(ledger.keys)
    figure, grid = panels(1, 1, (min(max(4.5, 2.5 + 0.4 * bars), 12), max(3, 0.4 + 0.2 * words)))
    axes, base = grid[0, 0], np.zeros(len(names))
    style = styles()
    for key, bar in zip(ledger.keys, heights.T, strict=True):
        colour, hatch = GREYS.get(key) or next(style)[::2]
        axes.bar(
            range(bars), bar, bottom=base, label=plain(key), color=colour, hatch=hatch, edgecolor="white"
        )
        base = base + bar
    title = f"where {query} look" if query.endswith("tokens") else f"where {query!r} looks"
    axes.set(xlabel=along, ylabel="share of attention", ylim=(0, top), title=plain(title))
    shown = range(0, bars, 1 + (bars - 1) // 30)
    axes.set_xticks(shown, [str(names[i]) for i in shown])
    axes.set_xlim(-0.7, bars - 0.3)
    handles, labels = axes.get_legend_handles_labels()  # from top to bottom, as the bars stand
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def effect(run: Run, effect: Effect) -> Figure:
    """Draws what an intervention did to a step beside the attention map, and both pictures if there are any.

    Args:
        run: That the step is of.
        effect: As `Run.effect` returns it.
    """
    change = f"|dv|, {effect.relative:.1%} of the velocity"
    drawn = [("step's picture", run.image(effect.step), {}), (change, effect.velocity, {"cmap": HEAT})]
    if effect.attention is not None:
        title = f"attention of {effect.attention.word!r}\nrank correlation {effect.correlation:.2f}"
        drawn.insert(1, (title, effect.attention.weights, {"cmap": HEAT}))
    if effect.pictures is not None:
        unchanged, changed = effect.pictures
        drawn += [("end, unchanged", unchanged, {}), ("end, changed", changed, {})]
    width, height = shaped(run.latent_size)
    figure, grid = panels(1, len(drawn), (width + 0.4, height + 0.8))
    for axes, (title, picture, options) in zip(grid[0], drawn, strict=True):
        show(axes, picture, wrapped(title, width + 0.4), **options)
    title = f"{effect.intervention}, step {effect.step}, sigma {effect.sigma:.2f}"
    title = wrapped(title, figure.get_figwidth(), MEDIUM)
    figure.set_figheight(figure.get_figheight() + 0.2 * title.count("\n"))
    figure.suptitle(title, fontsize="medium")
    return figure


def trust(
    results: Sequence[Trust] | None = None, blocks: Iterable[str] = ("double", "single", "all")
) -> Figure:
    """Draws how well maps found objects on scenes with exact masks, with what should fail beside it.

    A panel for each method: average precision against the noise level with its 95 % interval, a line for each
    group of blocks; grey lines for controls, the highest over these blocks: the word of an absent object, a
    softmax over the text alone, the other object's word, an untrained network and random numbers.

    Args:
        results: Figures to draw; None for all that were measured.
        blocks: Groups of blocks to draw.

    Raises:
        InputError: if there is no figure of these blocks.
    """
    blocks = tuple(blocks)
    results = [one for one in (measured() if results is None else results) if one.blocks in blocks]
    if not results:
        raise InputError(
            f"nothing was measured for blocks {blocks!r}; there are 'double', 'single' and 'all'"
        )
    methods = list(dict.fromkeys(one.method for one in results))
    figure, grid = panels(1, len(methods), (3.2, 3.2))
    for axes, method in zip(grid[0], methods, strict=True):
        mine = [one for one in results if one.method == method]
        for group, (colour, marker, _) in zip(blocks, styles(), strict=False):
            line = sorted((one for one in mine if one.blocks == group), key=lambda one: one.sigma)
            if line:
                _line(axes, line, _group(group), colour, marker)
        _controls(axes, mine)
        axes.set(title=NAMES[method], xlabel="noise level sigma", ylim=(0, 1))
    grid[0, 0].set_ylabel("average precision")
    shown = {}
    for axes in grid[0]:
        handles, labels = axes.get_legend_handles_labels()
        shown |= zip(labels, handles, strict=True)
    names = [*map(_group, blocks)] + [name.replace("_", " ") for name in CONTROLS]
    shown = {name: shown[name] for name in names if name in shown}
    look = {"loc": "outside lower center", "ncols": 4, "handlelength": 3.5}
    figure.legend(shown.values(), shown.keys(), **look, frameon=False, fontsize="small")
    figure.suptitle(f"measured on {results[0].model}, {results[0].scenes} scenes", fontsize="medium")
    return figure


def _group(blocks: str) -> str:
    """Names a group of blocks, or a block by its number, as `Trust` has it."""
    return f"block {blocks}" if blocks.isdigit() else f"{blocks} blocks"


def _line(axes, line: list[Trust], label: str, colour: str, marker: str) -> None:
    """Draws one group of blocks with its intervals."""
    figures = np.array([(one.sigma, one.average_precision, *one.interval) for one in line])
    sigma, middle, low, high = figures.T
    axes.errorbar(
        sigma, middle, (middle - low, high - middle), color=colour, marker=marker, capsize=2, label=label
    )


def _controls(axes, mine: list[Trust]) -> None:
    """Draws what should fail: the highest of each control over the blocks, where it was measured."""
    for name, dashes in CONTROLS.items():
        told = sorted((one.sigma, getattr(one, name)) for one in mine if getattr(one, name) is not None)
        highest = dict(told)  # the last of a sigma is the highest
        if highest:
            label = name.replace("_", " ")
            axes.plot(highest.keys(), highest.values(), color="grey", linestyle=dashes, label=label)
