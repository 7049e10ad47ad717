"""Teach the demo model to draw in four steps without guidance: the sibling `fluxnb/demo-schnell`.

    python -m fluxnb.training.distill --out RUN --paths 2000 --steps 1500 --to fluxnb/demo-schnell

FLUX.1 [schnell] draws in a few steps because it was distilled; so is this. The teacher is RUN's
transformer with CFG: its paths from noise to picture are drawn once, `SUBSTEPS` Euler steps for each
of the student's, and written in shards (RUN/paths/NNN.npz, exact to the seed). The student learns
the velocity that leads from each stop to the next in one step (progressive distillation, Salimans
and Ho 2022; with guidance, Meng et al. 2023). It is the teacher with a LoRA adapter, written as
diffusers writes it, which is a tenth of a second transformer's size.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from torch.nn import functional

from fluxnb.training.networks import best_device, build_transformer, velocity
from fluxnb.training.optim import log_row, save_atomically
from fluxnb.training.transformer import Data, plain_attention

STEPS = 4  # of the student, at sigmas 1, 3/4, 1/2, 1/4
SUBSTEPS = 4  # of the teacher for each of them
CFG = 3.0
RANK = 16
BATCH = 32
SHARD = 160  # paths
LAYERS = r".*\.(to_q|to_k|to_v|to_out\.0|to_add_out|add_[qkv]_proj|net\.0\.proj|net\.2|proj_mlp|proj_out)"


def run(net: nn.Module, *args: object) -> torch.Tensor:
    """The velocity as training computes it."""
    device = next(net.parameters()).device.type
    with (
        torch.autocast(device, torch.bfloat16),
        mock.patch.object(functional, "scaled_dot_product_attention", plain_attention),
    ):
        return velocity(net, *args).float()


@torch.no_grad()
def draw_paths(
    net: nn.Module, data: Data, count: int, generator: torch.Generator, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's paths.

    Returns:
        Tokens at the student's stops, float16 (count, STEPS + 1, N, 64), and the captions' rows in `data`.
    """
    grid = data.grids[0]
    tokens, _, txt, vec = data.sets[grid]
    stops, chosen = [], []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        rows = torch.randint(len(tokens), (size,), generator=generator)
        x = torch.randn(size, *tokens.shape[1:], generator=generator).to(device)
        states = torch.cat([txt[rows], data.empty[0].expand(size, -1, -1)]).float().to(device)
        pooled = torch.cat([vec[rows], data.empty[1].expand(size, -1)]).float().to(device)
        path = [x]
        sigmas = torch.linspace(1, 0, STEPS * SUBSTEPS + 1).tolist()
        for i, (sigma, after) in enumerate(pairwise(sigmas), 1):
            with_text, without = run(
                net, x.repeat(2, 1, 1), torch.full((2 * size,), sigma, device=device), states, pooled, grid
            ).chunk(2)
            x = x + (after - sigma) * (without + CFG * (with_text - without))
            if i % SUBSTEPS == 0:
                path.append(x)
        stops.append(torch.stack(path, 1).half().cpu().numpy())
        chosen.append(rows.numpy())
    return np.concatenate(stops), np.concatenate(chosen)


def teacher(out: Path, device: str) -> nn.Module:
    """RUN's transformer, the running average of its weights."""
    net = build_transformer()
    net.load_state_dict(torch.load(out / "transformer.pt", weights_only=True, map_location="cpu")["ema"])
    return net.to(device).requires_grad_(False)


def write_paths(out: Path, data: Data, count: int, seed: int, part: int, parts: int) -> None:
    """Draw the shards that are not there yet."""
    device = best_device()
    net = teacher(out, device)
    folder = out / "paths"
    folder.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, count, SHARD)):
        file = folder / f"{number:03}.npz"
        if number % parts == part and not file.exists():
            generator = torch.Generator().manual_seed(seed + number)
            stops, rows = draw_paths(net, data, min(SHARD, count - start), generator, device)
            unfinished = file.with_suffix(".part.npz")
            np.savez(unfinished, stops=stops, rows=rows)
            unfinished.replace(file)
            print(file, flush=True)


def train(out: Path, data: Data, steps: int, to: Path, seed: int, rate: float = 1e-3) -> None:
    """Train the student until `steps` steps are done, and write its adapter."""
    device = best_device()
    torch.manual_seed(seed)
    files = sorted((out / "paths").glob("[0-9][0-9][0-9].npz"))
    if not files:
        raise FileNotFoundError(f"no shard in {out / 'paths'}; give --paths")
    shards = [np.load(f) for f in files]
    stops = torch.from_numpy(np.concatenate([s["stops"] for s in shards]))
    rows = torch.from_numpy(np.concatenate([s["rows"] for s in shards]))
    grid = data.grids[0]
    _, _, txt, vec = data.sets[grid]
    net = teacher(out, device)
    net.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS, init_lora_weights="gaussian"))
    learning = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    file, done, spent = out / "distill.pt", 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True, map_location=device)
        set_peft_model_state_dict(net, state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        done, spent = state["step"], state["minutes"]
    begun = time.monotonic()
    recent: list[float] = []
    for step in range(done, steps):
        generator = torch.Generator().manual_seed(seed + 1_000_003 * step)
        paths = torch.randint(len(stops), (BATCH,), generator=generator)
        stop = torch.randint(STEPS, (BATCH,), generator=generator)
        x, after = stops[paths, stop].float().to(device), stops[paths, stop + 1].float().to(device)
        sigma = (1 - stop / STEPS).to(device)
        chosen = rows[paths]
        v = run(net, x, sigma, txt[chosen].float().to(device), vec[chosen].float().to(device), grid)
        loss = (v - (x - after) * STEPS).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        recent = [*recent[-49:], loss.item()]
        if (step + 1) % 50 == 0 or step + 1 == steps:
            minutes = spent + (time.monotonic() - begun) / 60
            log_row(
                out / "distill.csv",
                {"step": step + 1, "minutes": minutes, "loss": float(np.mean(recent))},
            )
            save_atomically(
                file,
                {
                    "adapter": get_peft_model_state_dict(net),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "minutes": minutes,
                },
            )
    halves = {name: value.half().cpu() for name, value in get_peft_model_state_dict(net).items()}
    FluxPipeline.save_lora_weights(to, transformer_lora_layers=halves)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--paths", type=int, default=2000, help="of the teacher")
    parser.add_argument("--part", default="0/1", help="which of how many processes that draw paths this is")
    parser.add_argument("--steps", type=int, default=1500, help="of training; 0 to draw paths alone")
    parser.add_argument("--to", type=Path, required=True, help="folder that gets the adapter")
    parser.add_argument("--seed", type=int, default=30_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = Data(args.out)
    part, parts = map(int, args.part.split("/"))
    write_paths(args.out, data, args.paths, args.seed, part, parts)
    if args.steps:
        train(args.out, data, args.steps, args.to, args.seed)


if __name__ == "__main__":
    main()
