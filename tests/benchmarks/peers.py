"""Measures fluxnb beside mlx-examples, mflux and diffusers: `python tests/benchmarks/peers.py [--rounds 7]`.

    blocks    one pass of 1 double and 2 single blocks of FLUX.1's width, 3072, 256 + 256 tokens, float32,
              the same weights for all, with embeddings and last layer
    load      the demo model from its files
    forward   one pass of the demo model's transformer, 64 + 24 tokens
    picture   the demo model draws a prompt: texts, 20 steps with CFG, decoding

The peers take turns, round by round, so that another load on the machine meets all of them; only one
computes at a time. CPU time is that of all threads. Where the machine has other work it tells more than the
clock, but only with one thread each (OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1), since threads wait by
spinning. Those on MLX share one process, its weights and its fast BLAS with fluxnb; torch has a process of
its own. mlx-examples needs a clone of ml-explore/mlx-examples (--mlx-examples PATH); mflux is taken where it
can be imported; its image MLP takes another GELU than FLUX.1's, hence its larger difference. Needs torch and
diffusers, 8 GB of memory and 2.6 GB in the folder for temporary files. It is not a part of pytest.
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
    clock: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for peer in TASKS[task]:
        answer = workers[peer].ask(peer, task)  # the first time does not count
        if "error" in answer:
            print(f"{task:9s}{peer:14s}left out: {answer['error'].splitlines()[0]}")
        else:
            clock[peer], cpu[peer] = [], []
    for _ in range(rounds):
        for peer in clock:
            for _ in range(REPEATS[task]):
                answer = workers[peer].ask(peer, task)
                clock[peer].append(1e3 * answer["clock"])
                cpu[peer].append(1e3 * answer["cpu"])
    for peer in clock:
        row = f"{task:9s}{peer:14s}"
        row += "".join(f"{best(ms[peer]):9.1f}" for ms in (clock, cpu) for best in (min, statistics.median))
        if peer != "fluxnb" and "fluxnb" in clock:
            ratios = [
                best(ms["fluxnb"]) / best(ms[peer])
                for ms in (clock, cpu)
                for best in (min, statistics.median)
            ]
            goal = f"{GOALS[peer]:.1f}" if peer in GOALS else ""
            row += f"   {goal:6s}" + "".join(f"{ratio:7.2f}" for ratio in ratios)
            row += _difference(folder / f"fluxnb.{task}.npy", folder / f"{peer}.{task}.npy")
        print(row, flush=True)


def _difference(ours: Path, theirs: Path) -> str:
    """Says how far two outputs are from one another, over the largest number."""
    if not (ours.exists() and theirs.exists()):
        return ""
    one, other = (np.load(path) for path in (ours, theirs))
    return f"{np.abs(one - other).max() / np.abs(other).max():13.1e}"


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
            f"\n{args.rounds} rounds of {REPEATS}; milliseconds, then fluxnb's over the peer's\n"
            f"{'':23s}{'clock':>9s}{'':9s}{'CPU':>9s}{'':12s}{'goal, at most':13s}\n"
            f"{'task':9s}{'peer':14s}{'min':>9s}{'median':>9s}{'min':>9s}{'median':>9s}   {'':6s}"
            f"{'min':>7s}{'median':>7s}{'CPU':>7s}{'median':>7s}{'difference':>13s}"
        )
        for task in args.tasks:
            measure(workers, task, args.rounds, Path(name))
        mlx.close()
        torch.close()


if __name__ == "__main__":
    main()
