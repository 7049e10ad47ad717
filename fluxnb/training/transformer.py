"""Train the MMDiT on encoded scenes: rectified flow with velocity loss, text encoders as they are.

    python -m fluxnb.training.transformer --out RUN --steps 19400

Sigma is the sigmoid of a normal, one caption in ten is empty (for CFG), matrices of the blocks
learn by Muon. Latents are normalised by their overall mean and spread, which the checkpoint
carries as shift and scaling factor. One batch in six is of another canvas than the usual one.
The learning rate is constant until --decay-from and falls from there to zero at --steps. Resumes
from RUN/transformer.pt; every step's batch and noise are functions of the seed and the step, so
that a stopped run goes on as if it had not stopped.

One process and thread for each core is the fastest way on a CPU; --batch is that of one process:

    torchrun --nproc-per-node 2 -m fluxnb.training.transformer --out RUN --steps 19400 --batch 32
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.nn import functional

from fluxnb.training import latents
from fluxnb.training.captions import Captions
from fluxnb.training.networks import TextEncoders, autocast, best_device, build_transformer, pack, velocity
from fluxnb.training.optim import (
    Optimizers,
    ema_copy,
    ema_update,
    join_processes,
    load_checkpoint,
    log_row,
    save_atomically,
    step_generator,
    this_process,
)

EMPTY_SHARE = 0.1
OTHER_CANVASES = 6  # one batch of this many
OBJECT_WEIGHT = 2.0  # of the loss at tokens that an object touches, where one can see where it is:
SEEN_BELOW = 0.6  # at sigmas below this
SIGMA_MEAN = 0.6  # of the normal: what stands where is decided at sigmas from 0.98 to 0.8


class Data:
    """Packed, normalised latents of each canvas with the encodings of their captions."""

    def __init__(self, out: Path, scale: tuple[float, float] | None = None) -> None:
        """Load all shards and encode their captions with RUN's text encoders.

        Args:
            out: RUN.
            scale: Mean and spread of the latents; those of the shards if not given.
        """
        captions = Captions(out)
        encoders = TextEncoders(captions.clip_tokenizer, captions.t5_tokenizer)
        encoders.load_state_dict(load_checkpoint(out / "text.pt")["net"])
        shards = latents.load(out)
        usual = max(shards, key=lambda grid: len(shards[grid][2]))
        z = shards[usual][0]
        self.scale = scale or (z.float().mean().item(), z.float().std().item())
        self.empty = encode(encoders, captions, [""])
        self.grids = [usual, *sorted(grid for grid in shards if grid != usual)]
        self.sets = {
            grid: (pack((z.float() - self.scale[0]) / self.scale[1]).half(), touched.flatten(1),
                   *encode(encoders, captions, texts))
            for grid, (z, touched, texts) in shards.items()
        }  # fmt: skip

    def draw_grid(self, generator: torch.Generator) -> tuple[int, int]:
        """The usual canvas, or one of the others."""
        usual, *others = self.grids
        if not others or torch.rand((), generator=generator) >= 1 / OTHER_CANVASES:
            return usual
        return others[int(torch.randint(len(others), (), generator=generator))]

    def batch(self, size: int, generator: torch.Generator, grid: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        """Clean tokens (B, N, 64), those with objects (B, N), T5 states and pooled vectors."""
        tokens, touched, txt, vec = self.sets[grid]
        rows = torch.randint(len(tokens), (size,), generator=generator)
        drop = torch.rand(size, generator=generator) < EMPTY_SHARE
        return (
            tokens[rows].float(),
            touched[rows],
            torch.where(drop[:, None, None], self.empty[0], txt[rows]).float(),
            torch.where(drop[:, None], self.empty[1], vec[rows]).float(),
        )


@torch.no_grad()
def encode(encoders: TextEncoders, captions: Captions, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """T5 states (n, L, 128) and CLIP's pooled vectors (n, 128), float16."""
    parts = [encoders(*captions(texts[i : i + 500])) for i in range(0, len(texts), 500)]
    return tuple(torch.cat(part).half() for part in zip(*parts, strict=True))


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: object,
) -> torch.Tensor:
    """Attention as two products and a softmax, with the signature of torch's fused one.

    For 88 tokens of width 32 on a CPU, a whole training step takes two thirds of the time: torch's
    fused kernel is slow backwards there.
    """
    weights = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)  # (B, H, L, L)
    if is_causal:
        weights = weights.masked_fill(torch.ones(weights.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if attn_mask is not None:
        weights = weights + attn_mask
    return weights.softmax(-1).to(value.dtype) @ value


def learns_by_muon(name: str, p: nn.Parameter) -> bool:
    """Whether a parameter is a matrix inside an MMDiT block, modulation apart."""
    return p.ndim == 2 and "transformer_blocks" in name and "norm" not in name


def draw_sigmas(count: int, generator: torch.Generator) -> torch.Tensor:
    """Sigmoids of a normal around `SIGMA_MEAN`, one from each of `count` equal shares of its mass."""
    shares = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return torch.sigmoid(SIGMA_MEAN + torch.special.ndtri(shares.clamp(1e-4, 1 - 1e-4)))


def step_loss(
    net: nn.Module,
    compiled: nn.Module,
    data: Data,
    batch: int,
    grid: tuple[int, int],
    generator: torch.Generator,
    device: str,
) -> torch.Tensor:
    """The loss of one batch of a canvas; what is drawn comes from the generator.

    It has `batch` scenes of the usual canvas, fewer of a larger one and more of a smaller one. `compiled` is
    called for the usual canvas, `net` for the others.
    """
    usual = data.grids[0]
    size = max(1, round(batch * usual[0] * usual[1] / (grid[0] * grid[1])))
    x0, touched, txt, vec = data.batch(size, generator, grid)
    sigma = draw_sigmas(size, generator)
    noise = torch.randn(x0.shape, generator=generator)
    xt = x0 + sigma[:, None, None] * (noise - x0)
    xt, sigma, txt, vec, target, touched = (
        x.to(device) for x in (xt, sigma, txt, vec, noise - x0, touched)
    )  # fmt: skip
    attention = (
        mock.patch.object(functional, "scaled_dot_product_attention", plain_attention)
        if device == "cpu"
        else nullcontext()
    )
    with autocast(device), attention:
        v = velocity(compiled if grid == usual else net, xt, sigma, txt, vec, grid)
    weight = 1 + (OBJECT_WEIGHT - 1) * (touched & (sigma[:, None] < SEEN_BELOW))
    return ((v.float() - target).square().mean(-1) * weight).sum() / weight.sum()


def train(
    out: Path,
    steps: int,
    decay_from: int,
    batch: int,
    seed: int,
    muon_lr: float,
    adam_lr: float,
    compile_it: bool,
    every: int = 100,
) -> None:
    """Train until `steps` steps are done; writes RUN/transformer.pt and a row after `every` steps."""
    torch.manual_seed(seed)
    device = best_device()
    file = out / "transformer.pt"
    state = load_checkpoint(file, device) if file.exists() else None
    data = Data(out, state and state["scale"])
    net = build_transformer().to(device)
    compiled = torch.compile(net, dynamic=False) if compile_it else net
    average = ema_copy(net)
    optimizers = Optimizers(net, learns_by_muon, muon_lr, adam_lr)
    done, spent, samples = 0, 0.0, 0
    if state:
        net.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        if state["optimizers"]:
            optimizers.load_state_dict(state["optimizers"])
        done, spent, samples = state["step"], state["minutes"], state["samples"]
    rank, workers = this_process()
    start = time.monotonic()
    recent: list[torch.Tensor] = []
    for step in range(done, steps):
        grid = data.draw_grid(step_generator(seed, step, shared=True))
        loss = step_loss(net, compiled, data, batch, grid, step_generator(seed, step), device)
        falling = (steps - step) / max(1, steps - decay_from)
        optimizers.step(loss, min(1.0, (step + 1) / 200, falling))
        ema_update(average, net, step)
        samples += batch * workers
        recent.append(loss.detach())
        if rank == 0 and ((step + 1) % every == 0 or step + 1 == steps):
            minutes = spent + (time.monotonic() - start) / 60
            save_atomically(
                file,
                {
                    "net": net.state_dict(), "ema": average.state_dict(),
                    "optimizers": optimizers.state_dict(), "step": step + 1, "minutes": minutes,
                    "scale": data.scale, "samples": samples,
                },
            )  # fmt: skip
            row = {"step": step + 1, "minutes": minutes, "samples": samples}
            log_row(out / "transformer.csv", {**row, "loss": torch.stack(recent).mean().item()})
            recent.clear()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=19_400)
    parser.add_argument("--decay-from", type=int, default=14_600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--compile", action="store_true", help="compile the network first: minutes, then 1.4 times as fast"
    )
    parser.add_argument("--every", type=int, default=100, help="steps to a checkpoint and a row of the log")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    join_processes()
    rates = args.muon_lr, args.adam_lr
    train(args.out, args.steps, args.decay_from, args.batch, args.seed, *rates, args.compile, args.every)


if __name__ == "__main__":
    main()
