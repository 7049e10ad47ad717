"""Train both text encoders on captions alone, before the transformer sees them; then they stay as they are.

    python -m fluxnb.training.text --out RUN --steps 1600

FLUX.1 takes its text encoders ready-made, and so does the demo model. Each learns to say what is in its
caption's scene: T5 at every noun the thing, its third of the picture across and down and its size, and
the ground at the end token; CLIP in its pooled vector the objects, the ground and the layout. Where a
caption leaves a place open, the answer is that of one scene of many; the log counts what is fixed. The
heads that say so are thrown away. A transformer that trained its text encoders
itself drew the ground and the objects, but stood them left and right by chance.

In one caption of eight, nouns give way to other words of the vocabulary, so that these have
encodings of their own as well: a word for something that the model may be taught later.

Encoders that are trained already learn on (`unpack`) behind new heads, which need a head start:

    python -m fluxnb.training.text --out RUN --steps 1000 --heads-alone 150 --rate 0.001 --seed 7

A stopped run goes on from RUN/text.pt as if it had not stopped: captions are functions of seed and step.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from fluxnb.training import scenes
from fluxnb.training.captions import Captions
from fluxnb.training.networks import TEXT_WIDTH, TextEncoders, best_device
from fluxnb.training.optim import load_checkpoint, log_row, save_atomically
from fluxnb.training.tokenizers import ORDINARY

OBJECTS, COLORS, PLACES = tuple(scenes.OBJECTS), tuple(scenes.COLORS), ("", *scenes.PLACES)
OTHERS = tuple(w for w in dict.fromkeys(ORDINARY.split()) if w not in scenes.OBJECTS)
NOUNS = (*OBJECTS, *OTHERS)
SIDES = tuple(sorted({*scenes.SIDES.values(), *scenes.PAIR_SIDES.values()}))
LAYOUTS = ("one", "across", "down", "two")  # one sprite, two beside each other, two above each other, twins
OTHER_SHARE = 0.125
BATCH = 128
IGNORED = -100


class Heads(nn.Module):
    """What is asked of the encoders' states; linear, so that an answer must lie open in them."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        self.noun = nn.Linear(TEXT_WIDTH, len(NOUNS) + 3 + 3 + len(SIDES))
        self.end = nn.Linear(TEXT_WIDTH, len(COLORS) + len(LAYOUTS))
        self.pooled = nn.Linear(
            TEXT_WIDTH, len(OBJECTS) + len(COLORS) + len(LAYOUTS) + len(PLACES) + len(SIDES)
        )


def third(centre: float) -> int:
    """0, 1 or 2 for the low, middle and high third of a picture; the middle one is a fifth wide."""
    return int(centre > 0.4) + int(centre > 0.6)


def layout(scene: scenes.Scene) -> int:
    """Index into `LAYOUTS`."""
    if len(scene.sprites) == 1:
        return 0
    if scene.relation == "two":
        return 3
    first, second = scene.sprites
    return 2 if first.top + first.side <= second.top else 1


def fixed_axes(scene: scenes.Scene) -> tuple[bool, bool]:
    """Whether the caption fixes the third of its objects across, and down."""
    if scene.relation:
        return layout(scene) == 1, layout(scene) == 2
    return scene.place in ("left", "right"), scene.place in ("top", "bottom")


def with_other_words(scene: scenes.Scene, rng: random.Random) -> tuple[str, dict[str, str]]:
    """The caption with other nouns for its objects, and which noun stands for which object."""
    words = {s.name: rng.choice(OTHERS) for s in scene.sprites}
    if scene.relation == "two":
        return scene.caption, {s.name: s.name for s in scene.sprites}
    caption = re.sub(r"\w+", lambda m: words.get(m[0], m[0]), scene.caption)
    return caption, words


class Batches:
    """Captions with the answers that their scenes fix; the n-th batch is a function of the seed and n."""

    def __init__(self, captions: Captions, seed: int) -> None:
        """Draw scenes of `seed`."""
        self.captions, self.seed = captions, seed

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Ids and answers, `IGNORED` where nothing is asked; and which axes a caption fixes, for the log."""
        rng = random.Random(self.seed * 1_000_003 + step)
        made = [scenes.make_scene(rng, scenes.PAIRS) for _ in range(BATCH)]
        told = [
            with_other_words(s, rng)
            if rng.random() < OTHER_SHARE
            else (s.caption, {x.name: x.name for x in s.sprites})
            for s in made
        ]
        texts = [text for text, _ in told]
        clip_ids, t5_ids = self.captions(texts)
        spans = self.captions.t5_tokenizer(
            texts, padding="max_length", max_length=t5_ids.shape[1], truncation=True,
            return_offsets_mapping=True,
        )["offset_mapping"]  # fmt: skip
        nouns = torch.full((BATCH, t5_ids.shape[1], 4), IGNORED)
        fixed = torch.zeros(BATCH, 2, dtype=torch.bool)
        objects = torch.zeros(BATCH, len(OBJECTS))
        pooled = torch.full((BATCH, 4), IGNORED)
        for i, (scene, (text, words)) in enumerate(zip(made, told, strict=True)):
            fixed[i] = torch.tensor(fixed_axes(scene))
            for sprite in scene.sprites:
                word = words[sprite.name]
                if scene.relation == "two":
                    word, spots = scenes.plural(word), (IGNORED, IGNORED)
                else:
                    spots = (
                        third((sprite.left + sprite.side / 2) / scene.width),
                        third((sprite.top + sprite.side / 2) / scene.height),
                    )
                answer = torch.tensor([NOUNS.index(words[sprite.name]), *spots, SIDES.index(sprite.side)])
                for found in re.finditer(rf"\b{word}\b", text):
                    for position, (begin, end) in enumerate(spans[i]):
                        if begin < end and begin >= found.start() - 1 and end <= found.end():
                            nouns[i, position] = answer
                if words[sprite.name] in scenes.OBJECTS:
                    objects[i, OBJECTS.index(words[sprite.name])] = 1
            alone = len(scene.sprites) == 1
            pooled[i] = torch.tensor([
                COLORS.index(scene.color) if scene.says_color else IGNORED,
                layout(scene),
                PLACES.index(scene.place) if alone else IGNORED,
                SIDES.index(scene.sprites[0].side) if alone else IGNORED,
            ])  # fmt: skip
        return {
            "clip": clip_ids, "t5": t5_ids, "nouns": nouns, "fixed": fixed, "objects": objects,
            "pooled": pooled,
        }  # fmt: skip


def losses(
    encoders: TextEncoders, heads: Heads, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The sum of all losses, and shares of right answers, of thirds where the caption fixes them."""
    txt, vec = encoders(batch["clip"], batch["t5"])
    asked = batch["nouns"][..., 0] != IGNORED
    answers = batch["nouns"][asked]
    said = heads.noun(txt[asked]).split([len(NOUNS), 3, 3, len(SIDES)], -1)
    loss = sum(cross_entropy(s, answers[:, i], ignore_index=IGNORED) for i, s in enumerate(said))
    ends = batch["t5"].eq(encoders.t5.config.eos_token_id).int().argmax(1)
    at_end = heads.end(txt[torch.arange(len(txt), device=txt.device), ends]).split(
        [len(COLORS), len(LAYOUTS)], -1
    )
    loss = loss + sum(
        cross_entropy(s, batch["pooled"][:, i], ignore_index=IGNORED) for i, s in enumerate(at_end)
    )
    objects, *rest = heads.pooled(vec).split(
        [len(OBJECTS), len(COLORS), len(LAYOUTS), len(PLACES), len(SIDES)], -1
    )
    loss = loss + 20 * binary_cross_entropy_with_logits(objects, batch["objects"])
    loss = loss + sum(
        cross_entropy(s, batch["pooled"][:, i], ignore_index=IGNORED) for i, s in enumerate(rest)
    )
    grounds = batch["pooled"][:, 0] != IGNORED
    across, down = batch["fixed"][:, None].expand(*asked.shape, 2)[asked].T
    shares = {
        "noun": (said[0].argmax(-1) == answers[:, 0]).float().mean(),
        "across": (said[1].argmax(-1) == answers[:, 1])[across].float().mean(),
        "down": (said[2].argmax(-1) == answers[:, 2])[down].float().mean(),
        "size": (said[3].argmax(-1) == answers[:, 3]).float().mean(),
        "ground": (at_end[0].argmax(-1) == batch["pooled"][:, 0])[grounds].float().mean(),
        "pooled_objects": ((objects > 0) == batch["objects"].bool()).all(1).float().mean(),
        "pooled_ground": (rest[0].argmax(-1) == batch["pooled"][:, 0])[grounds].float().mean(),
    }
    return loss, shares


def train(
    out: Path, steps: int, seed: int, rate: float = 2e-3, heads_alone: int = 0, every: int = 100
) -> None:
    """Train until `steps` steps are done; writes RUN/text.pt and RUN/text.csv after `every` steps."""
    torch.manual_seed(seed)
    device = best_device()
    captions = Captions(out)
    encoders = TextEncoders(captions.clip_tokenizer, captions.t5_tokenizer).to(device)
    heads = Heads().to(device)
    both = nn.ModuleList([encoders, heads])
    optimizer = torch.optim.AdamW(both.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    batches = Batches(captions, seed)
    file, done, spent = out / "text.pt", 0, 0.0
    if file.exists():
        state = load_checkpoint(file, device)
        encoders.load_state_dict(state["net"])
        if state["heads"]:
            heads.load_state_dict(state["heads"])
            optimizer.load_state_dict(state["optimizer"])
        done, spent = state["step"], state["minutes"]
    start = time.monotonic()
    for i in range(done, steps):
        encoders.requires_grad_(i >= heads_alone)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (i + 1) / 100) * (1 - 0.98 * i / steps)
        batch = {name: value.to(device) for name, value in batches(i).items()}
        loss, shares = losses(encoders, heads, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        if (i + 1) % every == 0 or i + 1 == steps:
            minutes = spent + (time.monotonic() - start) / 60
            save_atomically(
                file,
                {
                    "net": encoders.state_dict(), "heads": heads.state_dict(),
                    "optimizer": optimizer.state_dict(), "step": i + 1, "minutes": minutes,
                },
            )  # fmt: skip
            figures = {name: value.item() for name, value in {"loss": loss, **shares}.items()}
            log_row(out / "text.csv", {"step": i + 1, "minutes": minutes, **figures})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument(
        "--heads-alone", type=int, default=0, help="steps before encoders that are trained already learn on"
    )
    parser.add_argument("--every", type=int, default=100, help="steps to a checkpoint and a row of the log")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.out, args.steps, args.seed, args.rate, args.heads_alone, args.every)


if __name__ == "__main__":
    main()
