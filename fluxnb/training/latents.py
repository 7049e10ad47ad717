"""Encode scenes once, in shards; each depends on the arguments, its number and the autoencoder alone.

    python -m fluxnb.training.latents --out RUN --count 112000 --others 16800

A shard is RUN/latents/NNN.npz: mean latents, float16 (n, 16, H/8, W/8), all of one canvas, the
image tokens that an object touches, bool (n, H/16, W/16), and the scenes' captions. Canvases other
than the usual one come last. `--part 0/2` and `--part 1/2` share the work between two processes. Shards
that are there are not made again, and those of other arguments are refused; a stop in the middle leaves none
by halves.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch

from fluxnb.training import scenes
from fluxnb.training.networks import autocast, best_device, build_vae
from fluxnb.training.vae import load_average


@torch.no_grad()
def encode_shard(
    vae: torch.nn.Module, seed: int, count: int, canvas: tuple[int, int], pairs: float, big: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Latents of the scenes of a seed, the tokens that objects touch, and their captions."""
    rng = random.Random(seed)
    sizes = scenes.SIZES[:-1] + scenes.SIZES[-1:] * big
    latents, touched, captions = [], [], []
    rows, columns = canvas[1] // scenes.TOKEN, canvas[0] // scenes.TOKEN
    for start in range(0, count, 20):
        amount = min(20, count - start)
        batch = [scenes.make_scene(rng, pairs, canvas=canvas, sizes=sizes) for _ in range(amount)]
        rendered = [scenes.render(scene) for scene in batch]
        x = torch.from_numpy(np.stack([picture for picture, _ in rendered])).permute(0, 3, 1, 2)
        x = (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with autocast(vae.device.type):
            z = vae.encode(x.to(vae.device)).latent_dist.mode()
        latents.append(z.half().cpu().numpy())
        for _, masks in rendered:
            mask = np.any(list(masks.values()), axis=0)
            touched.append(mask.reshape(rows, scenes.TOKEN, columns, scenes.TOKEN).any((1, 3)))
        captions += [scene.caption for scene in batch]
    return np.concatenate(latents), np.stack(touched), captions


def canvases(count: int, others: int, shard: int) -> list[tuple[int, int]]:
    """The canvas of each shard: whole shards of the usual one, then of the others in turn."""
    turns = [scenes.CANVASES[i % len(scenes.CANVASES)] for i in range(others // shard)]
    return [(scenes.SIZE, scenes.SIZE)] * (count // shard) + turns


def make(
    out: Path,
    count: int,
    others: int,
    shard: int,
    seed: int,
    part: int = 0,
    parts: int = 1,
    pairs: float = scenes.PAIRS,
    big: int = 1,
) -> None:
    """Make every `parts`-th shard from the `part`-th on, unless it is there; see the command.

    Raises:
        FileExistsError: If a shard that is there has other scenes.
    """
    vae = build_vae()
    vae.load_state_dict(load_average(out / "vae.pt"))
    vae.to(best_device(), memory_format=torch.channels_last)
    folder = out / "latents"
    folder.mkdir(exist_ok=True)
    layout = canvases(count, others, shard)
    marks = {
        f"{number:03}.npz": f"{shard} scenes of seed {seed + number}, {width} x {height}, pairs {pairs:g}"
        + (f", big {big}" if big != 1 else "")
        for number, (width, height) in enumerate(layout)
    }
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as opened:
            held, wanted = str(opened.get("scenes", "scenes unsaid")), marks.get(file.name, "none")
        if held != wanted:
            raise FileExistsError(
                f"{file} holds {held}, and {wanted} by these arguments; give those that it was made with, or "
                "another folder"
            )
    for number, canvas in enumerate(layout):
        file = folder / f"{number:03}.npz"
        if number % parts == part and not file.exists():
            z, touched, captions = encode_shard(vae, seed + number, shard, canvas, pairs, big)
            unfinished = file.with_suffix(".part")
            with unfinished.open("wb") as opened:
                arrays = {"latents": z, "touched": touched, "captions": np.array(captions)}
                np.savez(opened, scenes=np.array(marks[file.name]), **arrays)
            unfinished.replace(file)
            print(file, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=112_000, help="scenes of the usual canvas")
    parser.add_argument("--others", type=int, default=16_800, help="scenes of the others together")
    parser.add_argument("--shard", type=int, default=800, help="scenes in a shard; only whole ones are made")
    parser.add_argument("--part", default="0/1", help="which of how many processes this is")
    parser.add_argument("--seed", type=int, default=10_000)
    parser.add_argument("--pairs", type=float, default=scenes.PAIRS, help="share of scenes with two objects")
    parser.add_argument("--big", type=int, default=1, help="big objects alone to each small one")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    part, parts = map(int, args.part.split("/"))
    try:
        make(args.out, args.count, args.others, args.shard, args.seed, part, parts, args.pairs, args.big)
    except FileExistsError as error:
        parser.error(str(error))


def load(out: Path) -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, list[str]]]:
    """All shards of RUN by their grid of image tokens (rows, columns): latents, touched tokens, captions.

    Raises:
        FileNotFoundError: If there is none.
    """
    found: dict[tuple[int, int], list] = {}
    for file in sorted((out / "latents").glob("*.npz")):
        shard = np.load(file)
        found.setdefault(shard["touched"].shape[1:], []).append(shard)
    if not found:
        raise FileNotFoundError(f"no shard in {out / 'latents'}; run fluxnb.training.latents first")
    return {
        grid: (
            torch.from_numpy(np.concatenate([s["latents"] for s in shards])),
            torch.from_numpy(np.concatenate([s["touched"] for s in shards])),
            [str(c) for s in shards for c in s["captions"]],
        )
        for grid, shards in found.items()
    }


if __name__ == "__main__":
    main()
