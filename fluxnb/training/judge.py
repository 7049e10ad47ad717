"""Train and use the judge: a small network that says what stands where in a 128 px picture.

    python -m fluxnb.training.judge --out RUN --steps 1500

It learns from real scenes of other seeds than the demo model's, slightly blurred and noisy, and
never sees a generated picture. For each of 8x8 cells it names the object there, or none, and for
the picture its ground. A picture's objects are the classes with the highest score in any cell.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from fluxnb.training import scenes
from fluxnb.training.optim import log_row

OBJECTS = tuple(scenes.OBJECTS)
COLORS = tuple(scenes.COLORS)
GRID = 8  # cells to a side, 16 px each
NOTHING = len(OBJECTS)  # class of an empty cell
TRAIN_SEED, TEST_SEED = 5_000_000, 6_000_000
WEIGHTS = Path(__file__).with_name("judge.safetensors")


class Judge(nn.Module):
    """Four strided convolutions, two plain ones, and two heads; 0.6 M parameters."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()

        def conv(c_in: int, c_out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
            )

        self.body = nn.Sequential(
            conv(3, 32, 2),
            conv(32, 64, 2),
            conv(64, 128, 2),
            conv(128, 128, 2),
            conv(128, 128, 1),
            conv(128, 128, 1),
        )
        self.cells = nn.Conv2d(128, len(OBJECTS) + 1, 1)
        self.ground = nn.Linear(128, len(COLORS))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, 128, 128) in -1..1 to cell logits (B, 33, 8, 8) and ground logits (B, 10)."""
        features = self.body(x)
        return self.cells(features), self.ground(features.mean((2, 3)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge sees in one picture.

    Args:
        objects: All objects by falling score; the first is the most certain one.
        centres: Where each stands, (x, y) as fractions of the picture, in the same order.
        ground: Colour of the ground.
    """

    objects: tuple[str, ...]
    centres: tuple[tuple[float, float], ...]
    ground: str


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: np.ndarray) -> list[Verdict]:
    """Judge pictures, uint8 (n, 128, 128, 3)."""
    judge.eval()
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    cells, grounds = judge(x)
    chances = cells.softmax(1)[:, :NOTHING]  # (n, 32, 8, 8)
    verdicts = []
    for chance, ground in zip(chances, grounds, strict=True):
        order = chance.amax((1, 2)).argsort(descending=True).tolist()
        weight = chance / chance.sum((1, 2), keepdim=True)
        spots = (torch.arange(GRID) + 0.5) / GRID
        x_mean, y_mean = (weight.sum(1) @ spots), (weight.sum(2) @ spots)
        verdicts.append(
            Verdict(
                tuple(OBJECTS[i] for i in order),
                tuple((x_mean[i].item(), y_mean[i].item()) for i in order),
                COLORS[int(ground.argmax())],
            )
        )
    return verdicts


def labelled(rng: random.Random, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[scenes.Scene]]:
    """Pictures uint8, the class of each cell (count, 8, 8), grounds (count,), and their scenes.

    A cell that an object covers for a tenth to a half counts for nothing (class -100).
    """
    pictures, cells, grounds, made = [], [], [], []
    for _ in range(count):
        scene = scenes.make_scene(rng)
        picture, masks = scenes.render(scene)
        label = np.full((GRID, GRID), NOTHING)
        for name, mask in masks.items():
            cover = mask.reshape(GRID, 16, GRID, 16).mean((1, 3))
            label[cover > 0.1] = -100
            label[cover > 0.5] = OBJECTS.index(name)
        pictures.append(picture)
        cells.append(label)
        grounds.append(COLORS.index(scene.color))
        made.append(scene)
    return np.stack(pictures), np.stack(cells), np.array(grounds), made


def augment(x: torch.Tensor) -> torch.Tensor:
    """Half of the pictures softened (down and up by two), all of them a little noisy."""
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, soft, x) + 0.05 * torch.randn_like(x)


def accuracy(judge: Judge, count: int = 1000) -> tuple[float, float]:
    """Share of held-out real scenes whose objects, and whose ground, are all named right."""
    pictures, _, _, made = labelled(random.Random(TEST_SEED), count)
    verdicts = judge_pictures(judge, pictures)
    right = [
        {s.name for s in scene.sprites} == set(v.objects[: len(scene.sprites)])
        for scene, v in zip(made, verdicts, strict=True)
    ]
    ground = [scene.color == v.ground for scene, v in zip(made, verdicts, strict=True)]
    return float(np.mean(right)), float(np.mean(ground))


def train(out: Path, steps: int, batch: int = 32, rate: float = 2e-3) -> Judge:
    """Train a judge from random weights and log its accuracy on held-out real scenes."""
    torch.manual_seed(TRAIN_SEED)
    rng = random.Random(TRAIN_SEED)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(1, steps + 1):
        judge.train()
        pictures, cells, grounds, _ = labelled(rng, batch)
        x = augment(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)
        cell_logits, ground_logits = judge(x)
        loss = F.cross_entropy(cell_logits, torch.from_numpy(cells)) + 0.5 * F.cross_entropy(
            ground_logits, torch.from_numpy(grounds)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            objects, ground = accuracy(judge, 1000 if step == steps else 200)
            row = {"step": step, "loss": loss.item(), "objects_right": objects, "ground_right": ground}
            log_row(out / "judge.csv", row)
    return judge


def load(file: Path = WEIGHTS) -> Judge:
    """The judge of a file, by default the one that comes with the package."""
    judge = Judge()
    judge.load_state_dict(load_file(file))
    return judge.eval()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    state = train(args.out, args.steps).state_dict()
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(halves, args.out / "judge.safetensors")


if __name__ == "__main__":
    main()
