"""Train the autoencoder on scenes: encoder and decoder together, then the decoder alone.

    python -m fluxnb.training.vae --out RUN --steps 2500
    python -m fluxnb.training.vae --out RUN --steps 10000 --freeze-encoder

The second call may run beside the transformer's training: a frozen encoder means fixed latents.
Loss: L1 of pixels, L1 of their gradients, 1e-5 KL; crops of 64 px, those with something on them
preferred. Either call goes on where an earlier one stopped, from RUN/vae.pt or RUN/decoder.pt; --steps
counts all steps of that phase.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from fluxnb.training import scenes
from fluxnb.training.networks import build_vae
from fluxnb.training.optim import Optimizers, ema_copy, ema_update, log_row, save_atomically

CROP = 64  # pixels
BATCH = 8
KL_WEIGHT = 1e-5
LATENT_NOISE = 0.03  # share of the latents' spread that is added at most
SQUARES = 4.0  # weight of the squared error: PSNR counts squares, and few large errors
MUON_RATE, ADAM_RATE = 0.03, 1e-3


class Crops:
    """An endless supply of crops from a slowly renewed pool of scenes."""

    def __init__(self, seed: int, size: int = 1500) -> None:
        """Start an empty pool of at most `size` scenes."""
        self.rng = random.Random(seed)
        self.size = size
        self.pool: list[np.ndarray] = []

    def picture(self) -> np.ndarray:
        """One scene, uint8 (128, 128, 3), new in one case of seven."""
        if len(self.pool) < 400 or self.rng.random() < 0.15:
            picture, _ = scenes.render(scenes.make_scene(self.rng))
            self.pool = [*self.pool[-self.size :], picture]
        return self.rng.choice(self.pool)

    def crop(self) -> np.ndarray:
        """A crop on the grid of image tokens, uint8 (64, 64, 3)."""
        picture = self.picture()
        steps = (scenes.SIZE - CROP) // scenes.TOKEN + 1
        x, y = (self.rng.randrange(steps) * scenes.TOKEN for _ in range(2))
        return picture[y : y + CROP, x : x + CROP]

    def batch(self) -> torch.Tensor:
        """Crops, float32 (8, 3, 64, 64), -1..1; the busier of two in seven cases of ten."""
        chosen = []
        for _ in range(BATCH):
            one, two = self.crop(), self.crop()
            chosen.append(max(one, two, key=np.std) if self.rng.random() < 0.7 else one)
        x = torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return x.contiguous(memory_format=torch.channels_last)


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of neighbouring pixels, across and down."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in -1..1, decibels."""
    return 10 * np.log10(4 / (x - y).square().mean().item())


def learns_by_muon(name: str, p: torch.nn.Parameter) -> bool:
    """Whether a parameter is a matrix or a convolution between features."""
    return p.ndim == 2 or (p.ndim == 4 and "conv_in" not in name and "conv_out" not in name)


def load_average(file: Path) -> dict[str, torch.Tensor]:
    """The running average of a checkpoint's weights."""
    return torch.load(file, weights_only=True)["ema"]


def train(
    out: Path, steps: int, freeze_encoder: bool, seed: int, rate: float = 1.0, start: Path | None = None
) -> None:
    """Train until this phase has taken `steps` steps.

    Raises:
        FileNotFoundError: If the encoder is to be frozen but was never trained.
    """
    torch.manual_seed(seed)
    rank = dist.get_rank() if dist.is_initialized() else 0
    vae = build_vae()
    if freeze_encoder:
        vae.load_state_dict(load_average(out / "vae.pt"))
    elif start is not None:
        vae.load_state_dict(load_file(start / "diffusion_pytorch_model.safetensors"))
    else:
        with torch.no_grad():
            vae.encoder.conv_out.bias[16:] = -5.0  # begin nearly without noise
    average = ema_copy(vae)
    vae.encoder.requires_grad_(not freeze_encoder)
    optimizers = Optimizers(vae, learns_by_muon, rate * MUON_RATE, rate * ADAM_RATE)
    file = out / ("decoder.pt" if freeze_encoder else "vae.pt")
    done = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        vae.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        optimizers.load_state_dict(state["optimizers"])
        done = state["step"]
    vae.to(memory_format=torch.channels_last)
    crops = Crops(seed + done + 1_000_000 * rank)
    start = time.monotonic()
    recent: list[float] = []
    for i in range(done, steps):
        factor = min(1.0, (i + 1) / 50) * (1 - 0.95 * i / steps)
        x = crops.batch()
        posterior = vae.encode(x).latent_dist
        z = posterior.mode() if freeze_encoder else posterior.sample()
        z = z + LATENT_NOISE * z.std().detach() * torch.randn_like(z) * torch.rand(len(z), 1, 1, 1)
        y = vae.decode(z).sample
        loss = (y - x).abs().mean() + SQUARES * (y - x).square().mean()
        loss = loss + sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
        if not freeze_encoder:
            loss = loss + KL_WEIGHT * posterior.kl().mean() / z[0].numel()
        optimizers.step(loss, factor)
        ema_update(average, vae, i, 0.996)
        recent = [*recent[-99:], psnr(x, y)]
        if rank == 0 and (i % 100 == 99 or i == steps - 1):
            save_atomically(
                file,
                {
                    "net": vae.state_dict(),
                    "ema": average.state_dict(),
                    "optimizers": optimizers.state_dict(),
                    "step": i + 1,
                },
            )
            log_row(
                file.with_suffix(".csv"),
                {
                    "step": i + 1,
                    "minutes": (time.monotonic() - start) / 60,
                    "loss": loss.item(),
                    "psnr": float(np.mean(recent)),
                    "latent_std": z.std().item(),
                },
            )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--freeze-encoder", action="store_true")
    parser.add_argument("--init", type=Path, help="folder of an autoencoder to begin with")
    parser.add_argument("--rate", type=float, default=1.0, help="learning rates, as a multiple of the usual")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    train(args.out, args.steps, args.freeze_encoder, args.seed, args.rate, args.init)


if __name__ == "__main__":
    main()
