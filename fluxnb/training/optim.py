"""Muon for matrices and convolutions beside AdamW for the rest; averages, checkpoints, logs, processes.

torch.optim.Muon takes matrices only; the autoencoder's weights are convolutions, and there Muon
needs far fewer steps than AdamW, so it is written here for both.
"""

from __future__ import annotations

import copy
import csv
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

MEETING = "FLUXNB_MEETING"
"""Environment variable with the path of the file in which processes meet; they need no port to do so."""


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearly the closest orthogonal matrix, by Newton-Schulz iteration.

    The quintic's coefficients are Keller Jordan's (Muon, 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; convolutions count as (out, in * kernel) matrices."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        """Take parameters of two or four dimensions."""
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients in place; processes of a `torchrun` share the work."""
        rank, workers = this_process()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            updates = []
            for i, p in enumerate(params):
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                average = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                update = (p.grad + group["momentum"] * average).reshape(p.shape[0], -1)  # Nesterov
                updates.append(orthogonalize(update) if i % workers == rank else torch.zeros_like(update))
            if workers > 1:
                updates = sum_over_processes(updates)
            for p, update in zip(params, updates, strict=True):
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                p.add_(update.view_as(p), alpha=-group["lr"] * scale)


class Optimizers:
    """Muon and AdamW as one optimiser with one schedule."""

    def __init__(
        self, net: nn.Module, is_matrix: Callable[[str, nn.Parameter], bool], muon_lr: float, adam_lr: float
    ) -> None:
        """Give Muon the parameters that `is_matrix` names, and AdamW the others."""
        named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if is_matrix(n, p)]
        others = [p for n, p in named if not is_matrix(n, p)]
        self.parameters = matrices + others
        self.muon = Muon(matrices, muon_lr)
        self.adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self._base = (muon_lr, adam_lr)

    def step(self, loss: torch.Tensor, factor: float) -> None:
        """Differentiate, clip the gradient's norm to 1, update at `factor` times the base rates."""
        for optimizer, base in zip((self.muon, self.adam), self._base, strict=True):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        loss.backward()
        average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.muon.step()
        self.adam.step()

    def state_dict(self) -> dict:
        """Both states."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """The inverse of `state_dict`."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def join_processes() -> None:
    """Find the other processes, if this is one of a `torchrun` or of `train`; these meet in a file."""
    if "RANK" in os.environ:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        place = f"file://{os.environ[MEETING]}" if MEETING in os.environ else None
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=count)


def this_process() -> tuple[int, int]:
    """The number of this process, and how many there are in its `torchrun`; (0, 1) alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def step_generator(seed: int, step: int, shared: bool = False) -> torch.Generator:
    """The source of what is drawn in a step: by this process or, shared, by all of them alike.

    Each step has another one, and, unless it is shared, each process.
    """
    rank, workers = this_process()
    first = seed + 1_000_003 * step * workers  # of process 0
    return torch.Generator().manual_seed(first + 1 if shared else first + 1_000_003 * rank)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes of a `torchrun`; alone, do nothing."""
    if dist.is_initialized():
        sums = sum_over_processes([p.grad for p in parameters])
        for p, total in zip(parameters, sums, strict=True):
            p.grad.copy_(total / dist.get_world_size())


def sum_over_processes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sums of tensors over the processes of a `torchrun`, in one exchange."""
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    parts = flat.split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def ema_copy(net: nn.Module) -> nn.Module:
    """A copy of a network that will follow it as a running average."""
    return copy.deepcopy(net).requires_grad_(False)


@torch.no_grad()
def ema_update(average: nn.Module, net: nn.Module, step: int, decay: float = 0.998) -> None:
    """Move the average towards the network; early steps count more."""
    weight = max(1 - decay, 1 / (step + 1))
    for a, b in zip(average.parameters(), net.parameters(), strict=True):
        a.lerp_(b, weight)


def log_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV file (with its header when new) and print it."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)


def save_atomically(path: Path, state: dict) -> None:
    """Write a checkpoint so that a stop in the middle leaves the old one whole."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load_checkpoint(path: Path, device: str = "cpu") -> dict:
    """The inverse of `save_atomically`, with all tensors on a device, wherever they were trained."""
    return torch.load(path, weights_only=True, map_location=device)
