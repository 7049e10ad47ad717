"""Train and use the judge: a small network that says what stands where in a picture.

    python -m fluxnb.training.judge --out RUN --steps 4000

It learns from real scenes of other seeds than the demo model's, held-out pairs among them, softened
and noisy, and never sees a generated picture. Each cell is an image token (16 px): the judge names
the object there, or none, says where the centre of that object's box is and how long its side, and
names the picture's ground. It is convolutional, so it takes any canvas of whole tokens.
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
from fluxnb.training.scenes import TOKEN
from fluxnb.training.scoring import token_shares
from fluxnb.training.verdicts import QUESTIONS, Found, Verdict, answers

OBJECTS = tuple(scenes.OBJECTS)
COLORS = tuple(scenes.COLORS)
NOTHING = len(OBJECTS)  # class of an empty cell
UNSURE = -100  # class of a cell that counts for nothing
THERE = 0.5  # chance from which on a cell shows an object
NEAR = 1.5  # tokens: cells that see their centres closer than this see one object
TRAIN_SEED, TEST_SEED = 5_000_000, 6_000_000
OTHER_CANVASES = 0.15  # share of batches
WEIGHTS = Path(__file__).with_name("judge.safetensors")


class Judge(nn.Module):
    """Four strided convolutions, three plain ones, and three heads; 0.7 M parameters."""

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
            *(conv(128, 128, 2 if i == 0 else 1) for i in range(4)),
        )
        self.cells = nn.Conv2d(128, len(OBJECTS) + 1, 1)
        self.boxes = nn.Conv2d(128, 3, 1)
        self.ground = nn.Linear(128, len(COLORS))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, H, W) in -1..1 to cells (B, 65, h, w), boxes (B, 3, h, w) and grounds (B, 10).

        Cells and grounds are logits.
        A box is the way from the cell's middle to the box's centre, across and down, and its side, in tokens.
        """
        features = self.body(x)
        return self.cells(features), self.boxes(features), self.ground(features.mean((2, 3)))


def to_input(pictures: np.ndarray) -> torch.Tensor:
    """Pictures uint8 (B, H, W, 3) as the judge takes them."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: np.ndarray) -> list[Verdict]:
    """Judge pictures of one size, uint8 (n, H, W, 3)."""
    judge.eval()
    verdicts = []
    for start in range(0, len(pictures), 100):
        cells, boxes, grounds = judge(to_input(pictures[start : start + 100]))
        outputs = zip(cells.softmax(1)[:, :NOTHING].numpy(), boxes.numpy(), grounds.argmax(1), strict=True)
        verdicts += [verdict(chances, box, COLORS[int(ground)]) for chances, box, ground in outputs]
    return verdicts


def verdict(chances: np.ndarray, boxes: np.ndarray, ground: str) -> Verdict:
    """What one picture shows: an object whose centre lies in the box of a more certain one is that one.

    Args:
        chances: Of each object in each cell (64, h, w).
        boxes: As the judge gives them (3, h, w).
        ground: Colour.
    """
    down, across = np.indices(chances.shape[1:]) + 0.5
    places = np.stack([across + boxes[0], down + boxes[1], boxes[2]], -1).reshape(-1, 3)
    found = [
        one
        for i in np.flatnonzero(chances.max((1, 2)) >= THERE)
        for one in _instances(OBJECTS[i], chances[i].ravel(), places)
    ]
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: -one.chance):
        if not any(other.covers(one.x, one.y) for other in kept):
            kept.append(one)
    return Verdict(tuple(kept), ground)


def _instances(name: str, chances: np.ndarray, places: np.ndarray) -> list[Found]:
    """The objects of one word: from the most certain cell on, cells that see one centre belong together."""
    found, left = [], chances.copy()
    while left.max() >= THERE:
        middle = places[left.argmax(), :2]
        members = np.hypot(*(places[:, :2] - middle).T) < NEAR
        weight = np.where(members, left, 0)
        x, y, side = weight @ places / weight.sum()
        found.append(Found(name, float(x), float(y), float(side), float(weight.max())))
        left = np.where(members, 0, left)
    return found


@dataclass(frozen=True, slots=True)
class Lessons:
    """Scenes to learn from or to be tested on.

    Args:
        scenes: What is shown.
        pictures: uint8 (n, H, W, 3).
        classes: Of cells (n, h, w): a number of `OBJECTS`, `NOTHING` or `UNSURE`.
        boxes: As the judge gives them (n, 3, h, w); zero outside of boxes.
        grounds: Numbers of `COLORS` (n,).
    """

    scenes: tuple[scenes.Scene, ...]
    pictures: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    grounds: np.ndarray


def lessons(made: list[scenes.Scene]) -> Lessons:
    """Scenes of one size with what is to be said of them."""
    rendered = [scenes.render(scene) for scene in made]
    labels = [label(scene, masks) for scene, (_, masks) in zip(made, rendered, strict=True)]
    return Lessons(
        tuple(made),
        np.stack([picture for picture, _ in rendered]),
        *map(np.stack, zip(*labels, strict=True)),
        np.array([COLORS.index(scene.color) for scene in made]),
    )


def label(scene: scenes.Scene, masks: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Classes (h, w) and boxes (3, h, w) of a scene's cells.

    A cell that an object covers for more than a half has its class, one covered for a tenth is unsure.
    """
    shape = scene.height // TOKEN, scene.width // TOKEN
    classes, boxes = np.full(shape, NOTHING), np.zeros((3, *shape), np.float32)
    for name, mask in masks.items():
        cover = token_shares(mask)
        classes = np.where(cover > 0.1, UNSURE, classes)
        classes = np.where(cover > 0.5, OBJECTS.index(name), classes)
    down, across = np.indices(shape) + 0.5
    for sprite in scene.sprites:
        left, top, side = sprite.left / TOKEN, sprite.top / TOKEN, sprite.side / TOKEN
        inside = (across > left) & (across < left + side) & (down > top) & (down < top + side)
        way = np.stack([left + side / 2 - across, top + side / 2 - down, np.full(shape, side)])
        boxes = np.where(inside, way, boxes).astype(np.float32)
    return classes, boxes


def augment(x: torch.Tensor) -> torch.Tensor:
    """Half of the pictures softened (down and up by two), an eighth by four, all of them a little noisy."""
    chance = torch.rand(len(x), 1, 1, 1)
    for factor, share in ((2, 0.625), (4, 0.125)):
        soft = F.interpolate(
            F.avg_pool2d(x, factor), scale_factor=factor, mode="bilinear", align_corners=False
        )
        x = torch.where(chance < share, soft, x)
    return x + 0.05 * torch.randn_like(x)


def accuracy(
    judge: Judge, count: int = 1000, canvas: tuple[int, int] = (scenes.SIZE, scenes.SIZE)
) -> dict[str, list[bool]]:
    """Whether the judge is right on real scenes that it never saw, by question."""
    rng = random.Random(TEST_SEED)
    made = [scenes.make_scene(rng, canvas=canvas, held_out=None) for _ in range(count)]
    pictures = np.stack([scenes.render(scene)[0] for scene in made])
    return answers(made, judge_pictures(judge, pictures))


def train(out: Path, steps: int, batch: int = 32, rate: float = 2e-3) -> Judge:
    """Train a judge from random weights and log its accuracy on held-out real scenes."""
    torch.manual_seed(TRAIN_SEED)
    rng = random.Random(TRAIN_SEED)
    judge = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(1, steps + 1):
        judge.train()
        usual = rng.random() >= OTHER_CANVASES
        canvas = (scenes.SIZE, scenes.SIZE) if usual else rng.choice(scenes.CANVASES)
        made = lessons([scenes.make_scene(rng, canvas=canvas, held_out=None) for _ in range(batch)])
        loss = loss_of(judge, made)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            right = accuracy(judge, 1000 if step == steps else 200)
            shares = {name: float(np.mean(right[name])) for name in QUESTIONS if name in right}
            log_row(out / "judge.csv", {"step": step, "loss": loss.item()} | shares)
            save(judge, out / "judge.safetensors")
    return judge


def loss_of(judge: Judge, made: Lessons) -> torch.Tensor:
    """What is minimised: cross-entropies of cells and grounds, L1 of boxes where an object is."""
    cells, boxes, grounds = judge(augment(to_input(made.pictures)))
    classes = torch.from_numpy(made.classes)
    shown = ((classes != NOTHING) & (classes != UNSURE)).unsqueeze(1)
    off = F.smooth_l1_loss(boxes, torch.from_numpy(made.boxes), beta=0.25, reduction="none")
    return (
        F.cross_entropy(cells, classes, ignore_index=UNSURE)
        + 0.5 * F.cross_entropy(grounds, torch.from_numpy(made.grounds))
        + 0.3 * (off * shown).sum() / shown.sum().clamp(min=1)
    )


def save(judge: Judge, file: Path) -> None:
    """Write a judge with weights of 16 bits."""
    state = {name: value.contiguous() for name, value in judge.state_dict().items()}
    save_file({n: v.half() if v.is_floating_point() else v for n, v in state.items()}, file)


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
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train(args.out, args.steps)


if __name__ == "__main__":
    main()
