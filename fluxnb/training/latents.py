"""Encode scenes once, in shards that a training run picks up as they appear.

    python -m fluxnb.training.latents --out RUN --count 16000

A shard is RUN/latents/NNN.npz: mean latents, float16 (n, 16, 16, 16), and the scenes' captions.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch

from fluxnb.training import scenes
from fluxnb.training.networks import build_vae
from fluxnb.training.vae import load_average

SHARD = 2000  # scenes


@torch.no_grad()
def encode_shard(vae: torch.nn.Module, seed: int, count: int) -> tuple[np.ndarray, list[str]]:
    """Latents (count, 16, 16, 16) of the scenes of a seed, and their captions."""
    rng = random.Random(seed)
    latents, captions = [], []
    for start in range(0, count, 20):
        batch = [scenes.make_scene(rng) for _ in range(min(20, count - start))]
        x = torch.from_numpy(np.stack([scenes.render(s)[0] for s in batch])).permute(0, 3, 1, 2)
        latents.append(vae.encode(x.float() / 127.5 - 1).latent_dist.mode().half().numpy())
        captions += [s.caption for s in batch]
    return np.concatenate(latents), captions


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vae = build_vae()
    vae.load_state_dict(load_average(args.out / "vae.pt"))
    folder = args.out / "latents"
    folder.mkdir(exist_ok=True)
    for shard, start in enumerate(range(0, args.count, SHARD)):
        file = folder / f"{shard:03}.npz"
        if not file.exists():
            z, captions = encode_shard(vae, args.seed + shard, min(SHARD, args.count - start))
            part = file.with_suffix(".part.npz")
            np.savez(part, latents=z, captions=np.array(captions))
            part.replace(file)
            print(file, flush=True)


def load(out: Path, known: int = 0) -> tuple[torch.Tensor, list[str], int] | None:
    """All shards of RUN so far, as float32 latents, captions and how many; None if no more than `known`."""
    files = sorted((out / "latents").glob("[0-9][0-9][0-9].npz"))
    if len(files) <= known:
        return None
    shards = [np.load(f) for f in files]
    latents = torch.from_numpy(np.concatenate([s["latents"] for s in shards])).float()
    return latents, [str(c) for s in shards for c in s["captions"]], len(files)


if __name__ == "__main__":
    main()
