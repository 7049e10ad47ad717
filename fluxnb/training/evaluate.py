"""Measure the demo model: what a judge of real scenes says of its pictures.

    python -m fluxnb.training.evaluate
    python -m fluxnb.training.evaluate --checkpoint RUN/demo --judge RUN/judge.safetensors
    python -m fluxnb.training.evaluate --only maps       # how far its maps can be trusted, see `trust`

Prompts are captions of scenes that training never saw; pictures are drawn by fluxnb itself with the
model's own defaults, a new seed each. Shares come with their 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch

from fluxnb.pipeline import FluxPipeline
from fluxnb.training import judge, scenes, trust
from fluxnb.training.vae import psnr
from fluxnb.trust import RESULTS

PROMPT_SEED = 7_000_000


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    z, p = 1.96, right / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (p * (1 - p) / count + z**2 / (4 * count**2)) ** 0.5
    return middle - half, middle + half


def draw(pipeline: FluxPipeline, prompts: list[str]) -> np.ndarray:
    """One picture a prompt, the n-th with seed n, uint8 (len(prompts), 128, 128, 3)."""
    return np.stack(
        [np.asarray(pipeline.generate_image(prompt, seed=i)[0]) for i, prompt in enumerate(prompts)]
    )


def report(name: str, right: list[bool]) -> None:
    """Print a share with its interval."""
    low, high = interval(sum(right), len(right))
    print(f"{name:<36} {np.mean(right):7.1%}   {low:.1%} .. {high:.1%}   n = {len(right)}", flush=True)


def single_objects(pipeline: FluxPipeline, model: judge.Judge, count: int) -> None:
    """Draw single-object prompts and report objects and grounds named right."""
    rng = random.Random(PROMPT_SEED)
    made = [scenes.make_scene(rng, pairs=0) for _ in range(count)]
    verdicts = judge.judge_pictures(model, draw(pipeline, [s.caption for s in made]))
    right = [v.objects[0] == s.sprites[0].name for s, v in zip(made, verdicts, strict=True)]
    report("right object, one object", right)
    named = [(s, v) for s, v in zip(made, verdicts, strict=True) if s.says_color]
    report("right ground, where named", [s.color == v.ground for s, v in named])
    missed: dict[str, list[str]] = {}
    for scene, verdict, good in zip(made, verdicts, right, strict=True):
        if not good:
            missed.setdefault(scene.sprites[0].name, []).append(verdict.objects[0])
    print(
        "missed:",
        ", ".join(f"{name} ({', '.join(taken)})" for name, taken in sorted(missed.items())) or "none",
    )


def pairs(pipeline: FluxPipeline, model: judge.Judge, count: int) -> None:
    """Draw two-object prompts and report objects, grounds and relations right."""
    rng = random.Random(PROMPT_SEED + 1)
    made = [scenes.make_scene(rng, pairs=1) for _ in range(count)]
    verdicts = judge.judge_pictures(model, draw(pipeline, [s.caption for s in made]))
    both = [{s.name for s in m.sprites} == set(v.objects[:2]) for m, v in zip(made, verdicts, strict=True)]
    report("both objects right, two objects", both)
    related = []
    for scene, verdict in zip(made, verdicts, strict=True):
        if scene.relation != "and":
            spots = dict(zip(verdict.objects, verdict.centres, strict=True))
            first, second = (spots[s.name] for s in scene.sprites)
            axis = 0 if scene.relation == "left" else 1
            related.append(first[axis] < second[axis])
    report("right relation, where named", related)


def autoencoder(pipeline: FluxPipeline, count: int = 50) -> None:
    """Report the PSNR of the autoencoder on held-out scenes."""
    rng = random.Random(PROMPT_SEED + 2)
    figures = []
    for _ in range(count):
        picture, _ = scenes.render(scenes.make_scene(rng))
        vae, x = pipeline.networks.vae, picture[None].astype(np.float32) / 127.5 - 1
        y = np.clip(np.array(vae.decode(vae.encode(mx.array(x)))), -1, 1)
        figures.append(psnr(torch.from_numpy(x), torch.from_numpy(y)))
    print(f"{'PSNR of the autoencoder':<36} {np.mean(figures):7.2f} dB   n = {count}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, help="folder in the place of the demo model")
    parser.add_argument("--judge", type=Path, default=judge.WEIGHTS)
    parser.add_argument("--singles", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--only", choices=("pictures", "maps"), help="one part of the two")
    parser.add_argument("--scenes", type=int, default=200, help="for the maps")
    parser.add_argument("--to", type=Path, default=RESULTS, help="where the figures of the maps go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = FluxPipeline(local_ckpt=args.checkpoint)
    if args.only != "maps":
        model = judge.load(args.judge)
        objects, ground = judge.accuracy(model)
        print(f"the judge on 1000 held-out real scenes: objects {objects:.1%}, ground {ground:.1%}")
        autoencoder(pipeline)
        single_objects(pipeline, model, args.singles)
        pairs(pipeline, model, args.pairs)
    if args.only != "pictures":
        trust.write(trust.measure(pipeline, args.scenes), args.to)


if __name__ == "__main__":
    main()
