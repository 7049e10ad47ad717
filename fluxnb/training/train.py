"""Make the demo checkpoint from nothing, stage by stage; a stage that is done is not done again.

    python -m fluxnb.training.train --out RUN --to fluxnb/demo
    python -m fluxnb.training.train --out RUN --to RUN/demo --smoke

Each stage is a module with its own command, which tells more; a stopped run goes on where it was.
`--smoke` takes every stage through at toy length: nothing good comes of it, in about two minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each stage is."""

    vae_steps: int
    scenes: int
    minutes: float
    decoder_steps: int
    judge_steps: int


FULL = Lengths(vae_steps=2250, scenes=32_000, minutes=80, decoder_steps=0, judge_steps=1500)
SMOKE = Lengths(vae_steps=5, scenes=40, minutes=0.2, decoder_steps=5, judge_steps=5)


def stage(module: str, out: Path, *arguments: object, done: str | None = None) -> None:
    """Run a stage's command unless its mark RUN/`done`.done is there; then leave the mark."""
    mark = out / f"{done or module}.done"
    if mark.exists():
        return
    command = [sys.executable, "-m", f"fluxnb.training.{module}", *map(str, arguments)]
    print("$", *command[1:], flush=True)
    subprocess.run(command, check=True)
    mark.touch()


def train(out: Path, to: Path, lengths: Lengths, threads: int) -> None:
    """All stages in order."""
    out.mkdir(parents=True, exist_ok=True)
    common = ("--out", out, "--threads", threads)
    stage("tokenizers", out, out)
    stage("vae", out, *common, "--steps", lengths.vae_steps)
    stage("latents", out, *common, "--count", lengths.scenes)
    stage("transformer", out, *common, "--minutes", lengths.minutes)
    stage("vae", out, *common, "--steps", lengths.decoder_steps, "--freeze-encoder", done="decoder")
    stage("export", out, "--out", out, "--to", to)
    stage("preview", out, "--model", to)
    stage("judge", out, *common, "--steps", lengths.judge_steps)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument("--to", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    train(args.out, args.to, SMOKE if args.smoke else FULL, args.threads)


if __name__ == "__main__":
    main()
