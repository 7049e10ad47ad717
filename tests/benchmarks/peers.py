"""Measures fluxnb beside mlx-examples, mflux and diffusers: `python tests/benchmarks/peers.py [--rounds 7]`.

    blocks    one pass of 1 double and 2 single blocks of FLUX.1's width, 3072, 256 + 256 tokens, float32,
              the same weights for all, with embeddings and last layer
    load      the demo model from its files
    forward   one pass of the demo model's transformer, 64 + 24 tokens
    picture   the demo model draws a prompt: texts, 20 steps with CFG, decoding

The peers take turns, round by round, so that another load on the machine meets all of them; only one
computes at a time. Those on MLX share one process, its weights and its fast BLAS with fluxnb; torch has a
process of its own. Both may use every core. mlx-examples needs a clone of ml-explore/mlx-examples
(--mlx-examples PATH); mflux is taken where it can be imported. Needs torch and diffusers, 8 GB of memory and
2.6 GB in the folder for temporary files. It is not a part of pytest.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORKER = Path(__file__).with_name("peer_worker.py")
MLX_PEERS = ("fluxnb", "mlx-examples", "mflux")
TASKS = {
    "blocks": ("fluxnb", "mlx-examples", "mflux", "diffusers"),
    "load": ("fluxnb", "diffusers"),
    "forward": ("fluxnb", "diffusers"),
    "picture": ("fluxnb", "diffusers"),
}
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
GOALS = {"mlx-examples": 0.9, "diffusers": 1.0}  # fluxnb's time over theirs, at most
REPEATS = {"blocks": 1, "load": 1, "forward": 20, "picture": 1}  # in a round


class Worker:
    """A process that does one task at a time."""

    def __init__(self, *arguments: str):
        """Starts it."""
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **QUIET},
        )

    def ask(self, peer: str, task: str = "") -> dict:
        """Has something done and returns the answer."""
        print(json.dumps([peer, task]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else {"error": "its process ended"}

    def close(self) -> None:
        """Ends it."""
        self.process.stdin.close()
        self.process.wait()


def measure(workers: dict[str, Worker], task: str, rounds: int, folder: Path) -> None:
    """Measures a task and prints its rows."""
    seconds: dict[str, list[float]] = {}
    for peer in TASKS[task]:
        answer = workers[peer].ask(peer, task)  # the first time does not count
        if "error" in answer:
            print(f"{task:9s}{peer:14s}left out: {answer['error']}")
        else:
            seconds[peer] = []
    for _ in range(rounds):
        for peer, spent in seconds.items():
            spent += [workers[peer].ask(peer, task)["seconds"] for _ in range(REPEATS[task])]
    ours = seconds.get("fluxnb", [])
    for peer, spent in seconds.items():
        row = f"{task:9s}{peer:14s}{1e3 * min(spent):10.1f}{1e3 * statistics.median(spent):10.1f}"
        if peer != "fluxnb" and ours:
            ratios = min(ours) / min(spent), statistics.median(ours) / statistics.median(spent)
            row += f"{ratios[0]:10.2f}{ratios[1]:8.2f}{GOALS.get(peer, float('nan')):8.1f}"
            row += _difference(folder / f"fluxnb.{task}.npy", folder / f"{peer}.{task}.npy")
        print(row, flush=True)


def _difference(ours: Path, theirs: Path) -> str:
    """Says how far two outputs are from one another, over the largest number."""
    if not (ours.exists() and theirs.exists()):
        return ""
    one, other = (np.load(path) for path in (ours, theirs))
    return f"{np.abs(one - other).max() / np.abs(other).max():14.1e}"


def main() -> None:
    """Measures everything asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--mlx-examples", type=Path, help="a clone of ml-explore/mlx-examples")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clone = [str(args.mlx_examples)] if args.mlx_examples else []
        mlx, torch = Worker("mlx", name, *clone), Worker("torch", name)
        workers = dict.fromkeys(MLX_PEERS, mlx) | {"diffusers": torch}
        print(
            f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
        )
        for worker in (mlx, torch):
            print(worker.ask("versions").get("text", "cannot start"))
        if "blocks" in args.tasks:
            print(mlx.ask("prepare").get("error", ""), end="")
        print(
            f"\n{args.rounds} rounds\n{'task':9s}{'peer':14s}{'min ms':>10s}{'median':>10s}"
            f"{'ours/it':>10s}{'median':>8s}{'goal':>8s}{'difference':>14s}"
        )
        for task in args.tasks:
            measure(workers, task, args.rounds, Path(name))
        mlx.close()
        torch.close()


if __name__ == "__main__":
    main()
