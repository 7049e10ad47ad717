"""Measure the demo model against its goals: what a judge of real scenes says of its pictures, and more.

    python -m fluxnb.training.evaluate
    python -m fluxnb.training.evaluate --checkpoint RUN/demo --judge RUN/judge.safetensors --prompts 100
    python -m fluxnb.training.evaluate --model fluxnb/demo-schnell --only pictures --table TABLE.md
    python -m fluxnb.training.evaluate --only maps       # how far its maps can be trusted, see `trust`

Prompts are captions of scenes that training never saw (`prompts`); pictures are drawn by fluxnb itself
with the model's own defaults where nothing else is said, the n-th prompt of a set with seed n. Shares
come with their 95 % Wilson intervals, other means with those of a bootstrap.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from fluxnb.checkpoints import catalog
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.pipeline import FluxPipeline
from fluxnb.training import figures, judge, prompts, trust
from fluxnb.training.costs import costs
from fluxnb.training.drawn import Draw, workers
from fluxnb.training.exam import (
    Examiner,
    by_relation,
    held_out,
    judged,
    most_missed,
    pictures_of,
    sizes,
    ways,
)
from fluxnb.training.figures import Figure
from fluxnb.training.nearness import nearness
from fluxnb.training.variety import autoencoder, variety
from fluxnb.trust import RESULTS

PRECISION_GOAL = 0.8


def measure(
    pipeline: FluxPipeline,
    draw: Draw,
    model: judge.Judge,
    count: int,
    reference: int = 1000,
    others: float = 1.0,
) -> tuple[list[Figure], str]:
    """All that has to do with pictures, each figure printed as it comes.

    Args:
        pipeline: For what is not drawn by `draw`.
        draw: Draws.
        model: The judge.
        count: Prompts, half of them with two objects; other sets are shares of it.
        reference: Real scenes for the judge.
        others: Size of the other sets, as a multiple of their usual shares.

    Returns:
        Figures, and what was missed most.
    """
    made: list[Figure] = []

    def tell(part: list[Figure]) -> None:
        show(part)
        made.extend(part)

    def of(share: float) -> int:
        return max(2, round(share * count * others))

    examiner = Examiner(draw, model)
    tell(judged(model, reference))
    tell(autoencoder(pipeline, model, of(0.1)))
    half = max(2, count // 2)
    singles, pairs = (examiner.ask(prompts.seen(half, share, i)) for i, share in enumerate((0, 1)))
    usual = singles.and_then(pairs)
    tell(pictures_of(usual, examiner.ask(prompts.twins(of(0.1)))))
    tell(by_relation(pairs))
    tell(nearness(singles))
    missed = most_missed(usual)
    print(missed, flush=True)
    held = examiner.ask(prompts.held_grounds(of(0.3))), examiner.ask(prompts.held_pairs(of(0.3)))
    tell(held_out(singles, pairs, *held))
    tell(ways(examiner, singles.first(of(0.15)).and_then(pairs.first(of(0.15))), pipeline.entry))
    tell(variety(pipeline, draw, of(0.01)))
    tell(sizes(examiner, of(0.06), max(2, reference // 4)))
    return made, missed


def maps(results: dict) -> list[Figure]:
    """The highest average precision in the results of `trust.measure`, and the controls of that place."""
    best = max(results["maps"], key=lambda one: one["average_precision"][0])
    where = f"{best['method'].replace('_', ' ')}, blocks {best['blocks']}, sigma {best['sigma']:g}"
    figure = _of_maps(f"average precision of object words, {where}", best["average_precision"])
    controls = [
        _of_maps(f"the same, control: {name.replace('_', ' ')}", found)
        for name, found in best["controls"].items()
    ]
    return [replace(figure, count=results["scored"], least=PRECISION_GOAL), *controls]


def _of_maps(what: str, found: list[float]) -> Figure:
    """One of the results, [value, low, high]."""
    value, *interval = found
    return Figure("Maps", what, value, "", tuple(interval))


def show(made: list[Figure]) -> None:
    """Print figures."""
    print(*map(figures.line, made), sep="\n", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=catalog.DEMO.name, help="name of the model, by default %(default)s"
    )
    parser.add_argument("--checkpoint", type=Path, help="folder in the place of its weights")
    parser.add_argument("--judge", type=Path, default=judge.WEIGHTS)
    parser.add_argument("--prompts", type=int, default=1000, help="other sets are shares of it")
    parser.add_argument("--others", type=float, default=1.0, help="size of these, as a multiple")
    parser.add_argument("--processes", type=int, default=2, help="that draw")
    parser.add_argument("--only", choices=("costs", "pictures", "maps"), help="one part of the three")
    parser.add_argument("--table", type=Path, help="file for the figures: Markdown, or JSON if it ends so")
    parser.add_argument("--scenes", type=int, default=200, help="for the maps")
    parser.add_argument(
        "--to", type=Path, help="where all figures of the maps go, by default trust.json in the folder"
    )
    args = parser.parse_args()
    if args.model != catalog.DEMO.name and args.checkpoint is None and args.only != "pictures":
        parser.error(
            f"costs and maps are those of a folder, and {args.model} was given by name; "
            "add --checkpoint FOLDER, or --only pictures"
        )
    if args.model != catalog.DEMO.name and args.to is None and args.only in (None, "maps"):
        parser.error(f"figures of the maps of {args.model} need a file; add --to FILE, or --only pictures")
    checkpoint, folder = args.checkpoint and str(args.checkpoint), args.checkpoint or DEMO_FOLDER
    pipeline = FluxPipeline(args.model, local_ckpt=checkpoint)
    made, notes = [], []
    if args.only in (None, "costs"):
        made += costs(pipeline, folder)
        show(made)
    torch.set_num_threads(1)
    if args.only in (None, "pictures"):
        with workers(args.model, checkpoint, args.processes) as draw:
            found, missed = measure(pipeline, draw, judge.load(args.judge), args.prompts, others=args.others)
        made, notes = made + found, [missed]
    if args.only in (None, "maps"):
        results = trust.measure(pipeline, args.scenes)
        trust.write(results, args.to or folder / RESULTS.name)
        show(maps(results))
        made += maps(results)
    if args.table:
        figures.write(args.table, made, notes)


if __name__ == "__main__":
    main()
