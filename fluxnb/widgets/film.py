"""One run as the browser holds it: pictures and maps in bytes, and the messages that carry them.

Knows nothing of widgets and comms. A film is developed on the worker's thread; its bytes may be sent
from any thread. Letters: h, w image tokens (16 pixels).

Messages to the browser; each has `run`, the number of the run that it is about:

    run      what was drawn: settings, sigmas, words, numbers of blocks
    frames   kind "clean" or "noisy", the steps, picture format; one buffer for each step
    maps     word (its place in the prompt), blocks, the steps, height, width, for each step `mass` (five
             shares, see `maps.Mass`); `last` closes the word; one buffer: uint8 (steps, h, w), each
             map's largest weight 255
    refused  word, blocks, sentence: these maps cannot be had

`here` has none: it answers `hello` first, also where no film is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass

from PIL import Image

from fluxnb import images
from fluxnb.maps import AttentionMap
from fluxnb.probe import find_blocks
from fluxnb.run import Run
from fluxnb.widgets.status import plain

LOSSLESS = 256  # pixels: up to this side a picture travels as PNG, above it as JPEG
SHEET = 6  # pictures of a contact sheet, at most


@dataclass(frozen=True, slots=True)
class Message:
    """What travels to the browser: a JSON object and bytes beside it."""

    content: dict
    buffers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What was drawn, as the browser is told.

    Args:
        prompt: The prompt.
        seed: Of the noise, None for own latents.
        num_steps: Steps of the whole run.
        shift: Static shift of the schedule, None for own sigmas.
        cfg_weight: Weight of CFG.
        sigmas: Noise levels, `num_steps` + 1 of them.
        words: The prompt's words.
        double: Number of double blocks.
        single: Number of single blocks, which are counted after the double ones.
    """

    prompt: str
    seed: int | None
    num_steps: int
    shift: float | None
    cfg_weight: float
    sigmas: tuple[float, ...]
    words: tuple[str, ...]
    double: int
    single: int


class Film:
    """The pictures and maps of one run.

    Picture k shows the state after k steps: for k below the number of steps made, what step k found
    (`run.image(k, kind)`); the last one is the result, the same for both kinds.

    Args:
        number: Tells this run from the others of its widget.
        run: The run, which may still grow.
    """

    def __init__(self, number: int, run: Run) -> None:
        """Takes a run; nothing is decoded yet."""
        self.number = number
        self.run = run
        double, single = run.session.pipeline.blocks
        self.facts = Facts(
            run.prompt,
            run.seed,
            run.num_steps,
            run.shift,
            run.cfg_weight,
            run.sigmas,
            tuple(word.text for word in run.words),
            double,
            single,
        )
        self._frames: dict[tuple[str, int], bytes] = {}
        self._maps: dict[tuple[int, str], dict[int, AttentionMap]] = {}
        self._form = "png" if max(run.latent_size) * 8 <= LOSSLESS else "jpeg"

    @property
    def note(self) -> str:
        """What its run asks for in vain, see `Run.notes`, in sentences."""
        return " ".join(note[0].upper() + note[1:] + "." for note in self.run.notes)

    def choices(self, blocks: str | int | Iterable[str | int]) -> tuple[str, ...]:
        """Returns groups and numbers of blocks as `look` takes them.

        Args:
            blocks: "all", "double", "single", a number, also in digits, or several of these.

        Raises:
            InputError: If one of them is none of the model's.
        """
        single = isinstance(blocks, str) or not isinstance(blocks, Iterable)
        chosen = dict.fromkeys(_number(str(one)) for one in ([blocks] if single else blocks))
        for one in chosen:
            find_blocks(one, self.facts.double, self.facts.single)
        return tuple(map(str, chosen))

    def opening(self) -> Message:
        """Returns the message that a film begins with."""
        facts = asdict(self.facts) | {"seed": plain(self.run.seed)}
        return Message({"type": "run", "run": self.number, **facts})

    def develop(self, kind: str, step: int) -> Message:
        """Decodes the picture before `step`, and after the last step the result too, unless it is there.

        Args:
            kind: "clean" or "noisy".
            step: Index of a step that has been made.
        """
        if (kind, step) not in self._frames:
            self._frames[kind, step] = images.encode(self.run.image(step, kind), self._form)
        if step + 1 < self.run.num_steps:
            return self._pictures(kind, [step])
        if kind == "noisy":
            self.develop("clean", step)
        # The last step goes to sigma 0: its clean picture is the result, for both kinds.
        self._frames[kind, step + 1] = self._frames["clean", step]
        return self._pictures(kind, [step, step + 1])

    def undeveloped(self, kind: str) -> list[int]:
        """Lists the steps made whose pictures of this kind are not there."""
        return [step.index for step in self.run.steps if (kind, step.index) not in self._frames]

    def look(self, word: int, blocks: str, step: int) -> None:
        """Reads who looks at a word in a step, unless that is known.

        Args:
            word: Place of the word in the prompt.
            blocks: "all", "double", "single" or the number of a block in digits.
            step: Index of a step that has been made.

        Raises:
            InputError: If there is no such word or block.
        """
        known = self._maps.setdefault((word, blocks), {})
        if step not in known:
            known[step] = self.run.attention(step, self.run.words[word], blocks=_number(blocks))

    def maps(self, word: int, blocks: str, steps: Iterable[int], last: bool) -> Message:
        """Returns the message with some maps that have been read.

        Args:
            word: Place of the word in the prompt.
            blocks: As for `look`.
            steps: Indices of steps looked at.
            last: Whether no more of this word and these blocks will come.
        """
        steps = list(steps)
        found = [self._maps[word, blocks][step] for step in steps]
        height, width = found[0].weights.shape
        content = {
            "type": "maps",
            "run": self.number,
            "word": word,
            "blocks": blocks,
            "steps": steps,
            "height": height,
            "width": width,
            "mass": [astuple(one.mass) for one in found],
            "last": last,
        }
        return Message(content, (b"".join(images.to_grid(one.weights).tobytes() for one in found),))

    def refusal(self, word: int, blocks: str, sentence: str) -> Message:
        """Returns the message that these maps cannot be had."""
        content = {"type": "refused", "run": self.number, "word": word, "blocks": blocks}
        return Message({**content, "sentence": sentence})

    def messages(self) -> Iterator[Message]:
        """Returns everything so far, for a page that comes late and for a saved one."""
        yield self.opening()
        for kind in ("clean", "noisy"):
            steps = sorted(step for have, step in list(self._frames) if have == kind)
            if steps:
                yield self._pictures(kind, steps)
        for (word, blocks), known in list(self._maps.items()):
            if known:
                steps = sorted(known)
                yield self.maps(word, blocks, steps, last=len(steps) == len(self.run.steps))

    def contact_sheet(self) -> Image.Image | None:
        """Returns up to six clean pictures from first to last, side by side; None if there is none yet."""
        steps = sorted(step for kind, step in list(self._frames) if kind == "clean")
        if not steps:
            return None
        count = min(SHEET, len(steps))
        chosen = [steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)]
        pictures = [images.decode(self._frames["clean", step]) for step in chosen]
        return images.contact_sheet(pictures, [f"step {step}" for step in chosen])

    def _pictures(self, kind: str, steps: list[int]) -> Message:
        content = {"type": "frames", "run": self.number, "kind": kind, "form": self._form, "steps": steps}
        return Message(content, tuple(self._frames[kind, step] for step in steps))


def _number(blocks: str) -> str | int:
    """Returns digits as the number of a block, all else as it is."""
    return int(blocks) if blocks.isdecimal() else blocks
