"""Train the MMDiT and both text encoders on encoded scenes: rectified flow with velocity loss.

    python -m fluxnb.training.transformer --out RUN --minutes 60

Sigma is the sigmoid of a normal, one caption in ten is empty (for CFG), matrices of the blocks
learn by Muon. Latents are normalised by their overall mean and spread, which the checkpoint
carries as shift and scaling factor. Resumes from RUN/transformer.pt; --minutes counts the whole
training, over all resumptions, and the learning rate falls towards its end.

One process and thread for each core is the fastest way on a CPU; --batch is that of one process:

    torchrun --nproc-per-node 2 -m fluxnb.training.transformer --out RUN --minutes 60 --batch 40
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from fluxnb.training import latents
from fluxnb.training.networks import TextToVelocity, load_tokenizers, pack
from fluxnb.training.optim import Optimizers, ema_copy, ema_update, log_row, save_atomically

EMPTY_SHARE = 0.1
RELOAD = 100  # steps between looks for new shards


class Captions:
    """Token ids of captions for both encoders, each caption tokenised once."""

    def __init__(self, tokenizer_folder: Path) -> None:
        """Read the tokenizers of a folder."""
        self.clip_tokenizer, self.t5_tokenizer = load_tokenizers(tokenizer_folder)
        self.empty = self([""])

    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (n, TEXT_LENGTH) for CLIP and for T5, padded as FLUX pads."""
        return tuple(
            tokenizer(
                captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer in (self.clip_tokenizer, self.t5_tokenizer)
        )  # fmt: skip


class Data:
    """Packed, normalised latents with their token ids; grows while shards are being written."""

    def __init__(self, out: Path, captions: Captions, scale: tuple[float, float] | None) -> None:
        """Load what is there; `scale` is (mean, spread) of a run begun earlier."""
        self.out, self.captions, self.scale = out, captions, scale
        self.count = self.shards = 0
        self.reload()
        if not self.count:
            raise FileNotFoundError(f"no shard in {out / 'latents'}; run fluxnb.training.latents first")

    def reload(self) -> None:
        """Take in shards written since."""
        found = latents.load(self.out, self.shards)
        if found is None:
            return
        z, texts, self.shards = found
        if self.scale is None:
            self.scale = (z.mean().item(), z.std().item())
        self.tokens = pack((z - self.scale[0]) / self.scale[1])  # (n, 64, 64)
        self.clip_ids, self.t5_ids = self.captions(texts)
        self.count = len(texts)

    def batch(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Clean tokens (B, 64, 64) and ids, some captions emptied."""
        rows = torch.randint(self.count, (size,), generator=generator)
        drop = torch.rand(size, 1, generator=generator) < EMPTY_SHARE
        clip_empty, t5_empty = self.captions.empty
        return (
            self.tokens[rows],
            torch.where(drop, clip_empty, self.clip_ids[rows]),
            torch.where(drop, t5_empty, self.t5_ids[rows]),
        )


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


def train(
    out: Path, minutes: float, batch: int, seed: int, muon_lr: float, adam_lr: float, final: float
) -> None:
    """Train until the whole run has taken `minutes`."""
    torch.manual_seed(seed)
    captions = Captions(out)
    net = TextToVelocity(captions.clip_tokenizer, captions.t5_tokenizer)
    average = ema_copy(net)
    optimizers = Optimizers(net, learns_by_muon, muon_lr, adam_lr)
    file = out / "transformer.pt"
    step, spent, scale, samples = 0, 0.0, None, 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        optimizers.load_state_dict(state["optimizers"])
        step, spent, scale, samples = state["step"], state["minutes"], state["scale"], state["samples"]
    data = Data(out, captions, scale)
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    generator = torch.Generator().manual_seed(seed + step + 1_000_000 * rank)
    start = time.monotonic()
    loss_average = None
    while (elapsed := spent + minutes_since(start)) < minutes:
        x0, clip_ids, t5_ids = data.batch(batch, generator)
        sigma = torch.sigmoid(torch.randn(batch, generator=generator))
        noise = torch.randn(x0.shape, generator=generator)
        xt = x0 + sigma[:, None, None] * (noise - x0)
        with (
            torch.autocast("cpu", torch.bfloat16),
            mock.patch.object(functional, "scaled_dot_product_attention", plain_attention),
        ):
            v = net(xt, sigma, clip_ids, t5_ids)
        loss = (v.float() - (noise - x0)).square().mean()
        factor = min(1.0, (step + 1) / 200) * (1 - (1 - final) * elapsed / minutes)
        optimizers.step(loss, factor)
        ema_update(average, net, step)
        step, samples = step + 1, samples + batch * workers
        loss_average = loss.item() if loss_average is None else 0.99 * loss_average + 0.01 * loss.item()
        if step % RELOAD == 0:
            data.reload()
        if rank == 0 and step % RELOAD == 0:
            log_row(
                out / "transformer.csv",
                {"step": step, "minutes": elapsed, "samples": samples, "loss": loss_average},
            )
        if rank == 0 and step % 200 == 0:
            _save(file, net, average, optimizers, step, elapsed, data.scale, samples)
    if rank == 0:
        _save(file, net, average, optimizers, step, elapsed, data.scale, samples)


def minutes_since(start: float) -> float:
    """Minutes since a monotonic time, as the first process counts them, so that all stop together."""
    minutes = torch.tensor((time.monotonic() - start) / 60)
    if dist.is_initialized():
        dist.broadcast(minutes, 0)
    return minutes.item()


def _save(
    file: Path, net: nn.Module, average: nn.Module, optimizers: Optimizers,
    step: int, minutes: float, scale: tuple[float, float], samples: int,
) -> None:  # fmt: skip
    save_atomically(
        file,
        {
            "net": net.state_dict(), "ema": average.state_dict(), "optimizers": optimizers.state_dict(),
            "step": step, "minutes": minutes, "scale": scale, "samples": samples,
        },
    )  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--final", type=float, default=0.03, help="share of the learning rate left at the end"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    train(args.out, args.minutes, args.batch, args.seed, args.muon_lr, args.adam_lr, args.final)


if __name__ == "__main__":
    main()
