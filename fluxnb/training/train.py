"""Make the demo checkpoint from nothing, stage by stage; a stage that is done is not done again.

    python -m fluxnb.training.train --out RUN --to fluxnb/demo
    python -m fluxnb.training.train --out TOY --to TOY/demo --smoke

Each stage is a module with its own command, which tells more; a stopped run goes on where it was.
Its mark, RUN/STAGE.done, holds what it was told: a folder is of one length, and deleting a mark does
the stage again. `--smoke` takes every stage through at toy length: nothing good comes of it, in
about two minutes. Processes that share a stage meet in a file and send gradients over the loopback
interface; nothing listens on another one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fluxnb.training.networks import best_device
from fluxnb.training.optim import MEETING

LOOPBACK = {"linux": "lo", "darwin": "lo0"}


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each stage is.

    Args:
        vae_steps: Of encoder and decoder together, with 16 crops each.
        text_steps: Of the text encoders.
        scenes: Encoded, of the usual canvas.
        others: Encoded, of the other canvases together.
        shard: Scenes to a file; divides both.
        steps: Of the transformer.
        decay_from: Step from which its learning rate falls.
        batch: Scenes to its step, of all processes together.
        decoder_steps: Of the decoder alone, with 8 crops each.
        preview: Scenes that the linear preview is fitted to.
        judge_steps: Of the judge.
        every: Steps to a checkpoint and a row of the log.
        picture_steps: Sampling steps of the sample sheet; None for the model's own.
        compile: Whether the transformer is compiled for its training.
    """

    vae_steps: int
    text_steps: int
    scenes: int
    others: int
    shard: int
    steps: int
    decay_from: int
    batch: int
    decoder_steps: int
    preview: int
    judge_steps: int
    every: int
    picture_steps: int | None
    compile: bool


FULL = Lengths(
    vae_steps=4000, text_steps=1600, scenes=112_000, others=16_800, shard=800, steps=19_400,
    decay_from=14_600, batch=64, decoder_steps=900, preview=400, judge_steps=4000, every=100,
    picture_steps=None, compile=True,
)  # fmt: skip
SMOKE = Lengths(
    vae_steps=4, text_steps=4, scenes=32, others=16, shard=8, steps=6, decay_from=3,
    batch=8, decoder_steps=2, preview=40, judge_steps=4, every=2, picture_steps=2, compile=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stages:
    """Runs stages of one folder, each in processes of its own.

    Args:
        out: The folder, RUN.
        threads: Of each process.
    """

    out: Path
    threads: int

    def __call__(self, name: str, *commands: tuple[object, ...], shared_by: int = 1) -> None:
        """Run commands (`python -m` before each) beside one another, unless RUN/`name`.done is there.

        Args:
            name: Of the stage.
            *commands: What to run.
            shared_by: Processes that share the work of the one command.

        Raises:
            SystemExit: If a command fails, or if the mark is of other commands.
        """
        mark, told = self.out / f"{name}.done", "\n".join(" ".join(map(str, c)) for c in commands)
        told += f"\nshared by {shared_by} processes" * (shared_by > 1)
        if mark.exists():
            if mark.read_text() != told:
                raise SystemExit(
                    f"{mark} is of another run: it was made by\n{mark.read_text()}\nand not by\n{told}\n"
                    "Take another folder, or delete the mark to do this stage again."
                )
            return
        print(told, flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        if sys.platform in LOOPBACK:
            environment |= {"GLOO_SOCKET_IFNAME": LOOPBACK[sys.platform]}
        with tempfile.TemporaryDirectory() as folder:
            meeting = {"WORLD_SIZE": str(shared_by), MEETING: str(Path(folder) / "meeting")}
            running = [
                subprocess.Popen(
                    [sys.executable, "-m", *map(str, command)],
                    env=environment | (meeting | {"RANK": str(rank)} if shared_by > 1 else {}),
                )
                for command in commands
                for rank in range(shared_by)
            ]
            codes = [one.wait() for one in running]
        if any(codes):
            raise SystemExit(f"the stage {name} failed; what it said is above")
        mark.write_text(told)


def train(out: Path, to: Path, lengths: Lengths, processes: int, threads: int) -> None:
    """All stages in order; `processes` share the long ones."""
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages(out, threads)
    run = ("--out", out)
    common = (*run, "--threads", threads)
    trained = (*common, "--every", lengths.every)
    each = ("--batch", max(1, 16 // processes))
    parts = [f"{part}/{processes}" for part in range(processes)]
    made = ("--count", lengths.scenes, "--others", lengths.others, "--shard", lengths.shard)
    stages("tokenizers", ("fluxnb.training.tokenizers", out))
    together = {"shared_by": processes}
    stages("vae", ("fluxnb.training.vae", *trained, *each, "--steps", lengths.vae_steps), **together)
    stages("text", ("fluxnb.training.text", *trained, "--steps", lengths.text_steps))
    stages("latents", *(("fluxnb.training.latents", *common, *made, "--part", part) for part in parts))
    learning = ("--steps", lengths.steps, "--decay-from", lengths.decay_from)
    each = ("--batch", max(1, lengths.batch // processes), *(("--compile",) if lengths.compile else ()))
    stages("transformer", ("fluxnb.training.transformer", *trained, *each, *learning), **together)
    decoding = ("--freeze-encoder", "--rate", 0.3, "--steps", lengths.decoder_steps)
    stages("decoder", ("fluxnb.training.vae", *trained, *decoding))
    stages("export", ("fluxnb.training.export", *run, "--to", to))
    stages("preview", ("fluxnb.training.preview", "--model", to, "--count", lengths.preview))
    stages("judge", ("fluxnb.training.judge", *common, "--steps", lengths.judge_steps))
    steps = () if lengths.picture_steps is None else ("--steps", lengths.picture_steps)
    stages("sheets", ("fluxnb.training.sheets", *run, "--model", to, *steps))
    stages("curves", ("fluxnb.training.curves", *run))


def usual_processes() -> int:
    """One where there is a GPU, else one for each core, but two at most: with more nothing was measured."""
    return 1 if best_device() != "cpu" else min(2, os.cpu_count() or 1)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument("--to", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--processes", type=int, help="that share the work; 1 with a GPU, else 2")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--smoke", action="store_true", help="toy lengths, to see that all of it runs")
    args = parser.parse_args()
    processes = args.processes or usual_processes()
    train(args.out.resolve(), args.to.resolve(), SMOKE if args.smoke else FULL, processes, args.threads)


if __name__ == "__main__":
    main()
