"""Train the autoencoder on scenes: encoder and decoder together, then the decoder alone.

    python -m fluxnb.training.vae --out RUN --steps 4000
    python -m fluxnb.training.vae --out RUN --steps 900 --freeze-encoder --rate 0.3

The second call may run beside the transformer's training: a frozen encoder means fixed latents.
Loss: L1 and squares of pixels, L1 of their gradients, 1e-5 KL; crops of 64 px, those with something on them
preferred. Either call goes on where an earlier one stopped, from RUN/vae.pt or RUN/decoder.pt, as if it
had not stopped: crops and noise are functions of the seed and the step. --steps counts all steps of
that phase. With `torchrun`, --batch is that of one process.
"""

from __future__ import annotations

import argparse
import random
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from fluxnb.training import scenes
from fluxnb.training.networks import best_device, build_vae
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

CROP = 64  # pixels
FIRST, NEW, POOL = 400, 2, 1500  # scenes at the first step, added by each step, and at most
KL_WEIGHT = 1e-5
LATENT_NOISE = 0.03  # share of the latents' spread that is added at most
SQUARES = 4.0  # weight of the squared error: PSNR counts squares, and few large errors
MUON_RATE, ADAM_RATE = 0.03, 1e-3


@lru_cache(POOL)
def picture(seed: int, number: int) -> np.ndarray:
    """One of the scenes of a seed, uint8 (128, 128, 3)."""
    return scenes.render(scenes.make_scene(random.Random(f"scene {number} of {seed}")))[0]


def crops(seed: int, step: int, batch: int) -> torch.Tensor:
    """The crops of a step, float32 (B, 3, 64, 64), -1..1, on the grid of image tokens.

    They are of the newest `POOL` scenes, of which each step brings new ones, so that a scene is drawn
    once and seen many times. The busier of two crops is taken in seven cases of ten.
    """
    rng = random.Random(f"crops of step {step} of {seed}")
    newest = FIRST + NEW * step
    places = range(0, scenes.SIZE - CROP + 1, scenes.TOKEN)

    def crop() -> np.ndarray:
        whole = picture(seed, rng.randrange(max(0, newest - POOL), newest))
        x, y = rng.choice(places), rng.choice(places)
        return whole[y : y + CROP, x : x + CROP]

    chosen = [max(crop(), crop(), key=np.std) if rng.random() < 0.7 else crop() for _ in range(batch)]
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
    return load_checkpoint(file)["ema"]


def step_loss(
    vae: torch.nn.Module, x: torch.Tensor, freeze_encoder: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of one batch, the pictures decoded, and the latents that they were decoded from."""
    posterior = vae.encode(x).latent_dist
    z = posterior.mode() if freeze_encoder else posterior.sample(generator)
    noise = torch.randn(z.shape, generator=generator) * torch.rand(len(z), 1, 1, 1, generator=generator)
    z = z + LATENT_NOISE * z.std().detach() * noise.to(z.device)
    y = vae.decode(z).sample
    loss = (y - x).abs().mean() + SQUARES * (y - x).square().mean()
    loss = loss + sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
    if not freeze_encoder:
        loss = loss + KL_WEIGHT * posterior.kl().mean() / z[0].numel()
    return loss, y, z


def train(
    out: Path,
    steps: int,
    freeze_encoder: bool,
    seed: int,
    rate: float = 1.0,
    init: Path | None = None,
    batch: int = 8,
    every: int = 100,
) -> None:
    """Train until this phase has taken `steps` steps; writes a checkpoint and a row after `every` steps.

    Raises:
        FileNotFoundError: If the encoder is to be frozen but was never trained.
    """
    torch.manual_seed(seed)
    device, (rank, _) = best_device(), this_process()
    vae = build_vae()
    if freeze_encoder:
        vae.load_state_dict(load_average(out / "vae.pt"))
    elif init is not None:
        vae.load_state_dict(load_file(init / "diffusion_pytorch_model.safetensors"))
    else:
        with torch.no_grad():
            vae.encoder.conv_out.bias[16:] = -5.0  # begin nearly without noise
    vae.to(device)
    average = ema_copy(vae)
    vae.encoder.requires_grad_(not freeze_encoder)
    optimizers = Optimizers(vae, learns_by_muon, rate * MUON_RATE, rate * ADAM_RATE)
    file = out / ("decoder.pt" if freeze_encoder else "vae.pt")
    done, spent = 0, 0.0
    if file.exists():
        state = load_checkpoint(file, device)
        vae.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        optimizers.load_state_dict(state["optimizers"])
        done, spent = state["step"], state["minutes"]
    vae.to(memory_format=torch.channels_last)
    start = time.monotonic()
    recent: list[float] = []
    for i in range(done, steps):
        factor = min(1.0, (i + 1) / 50) * (1 - 0.95 * i / steps)
        x = crops(seed + 1_000_000 * rank, i, batch).to(device)
        loss, y, z = step_loss(vae, x, freeze_encoder, step_generator(seed, i))
        optimizers.step(loss, factor)
        ema_update(average, vae, i, 0.996)
        recent.append(psnr(x, y))
        if rank == 0 and ((i + 1) % every == 0 or i + 1 == steps):
            minutes = spent + (time.monotonic() - start) / 60
            save_atomically(
                file,
                {
                    "net": vae.state_dict(), "ema": average.state_dict(),
                    "optimizers": optimizers.state_dict(), "step": i + 1, "minutes": minutes,
                },
            )  # fmt: skip
            figures = {"loss": loss.item(), "psnr": float(np.mean(recent)), "latent_std": z.std().item()}
            log_row(file.with_suffix(".csv"), {"step": i + 1, "minutes": minutes, **figures})
            recent.clear()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8, help="crops to a step of one process")
    parser.add_argument("--freeze-encoder", action="store_true")
    parser.add_argument("--init", type=Path, help="folder of an autoencoder to begin with")
    parser.add_argument("--rate", type=float, default=1.0, help="learning rates, as a multiple of the usual")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=100, help="steps to a checkpoint and a row of the log")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    join_processes()
    train(args.out, args.steps, args.freeze_encoder, args.seed, args.rate, args.init, args.batch, args.every)


if __name__ == "__main__":
    main()
