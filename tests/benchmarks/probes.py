"""Measures what looking costs: `python tests/benchmarks/probes.py [--rounds N] [--heads H ...]`.

First on the demo model, then on networks with the token counts of 1024 pixels (512 + 4096), of one double and
one single block with random weights and heads of 128 numbers: 24 heads are FLUX.1's width, fewer heads are
faster to measure. Everything is measured in turn, round by round. The table gives seconds on the clock and of
process CPU time, minimum and median, and their ratios to the line that one is compared with: where a machine
has other work, the CPU time is the steadier one. It is not a part of pytest.
"""

import argparse
import statistics
import time

import mlx.core as mx

from fluxnb import backend
from fluxnb.asked import Asked
from fluxnb.concepts import Keeper, shares
from fluxnb.flow import image_ids
from fluxnb.listen import Enough, overhear
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import attention, random_weights
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.tokenizers import Word
from fluxnb.probe import Probe
from fluxnb.session import FluxSession
from fluxnb.texts import TextEmbedding

PROMPT = "a cat to the left of a sunflower on a blue background and a big dog near a red car"  # 20 words
TEXT, SIZE = 512, (128, 128)  # text tokens and latent cells of 1024 pixels


def measure(calls: dict, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Times calls in turn, after one of each that is not counted: seconds of clock and CPU."""
    seconds = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            clock, cpu = time.perf_counter(), time.process_time()
            call()
            if round_:
                seconds[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return seconds


def summary(taken: list[tuple[float, float]]) -> list[float]:
    """Returns minimum and median on the clock, then of the CPU."""
    return [f(column) for column in zip(*taken, strict=True) for f in (min, statistics.median)]


def report(title: str, seconds: dict, compared: dict[str, str]) -> None:
    """Prints a table; `compared` says what a line is compared with."""
    head = ("clock min", "median", "CPU min", "median")
    print(f"\n{title}\n{'seconds':58s}" + "".join(f"{name:>10s}" for name in head) + "   ratios likewise")
    for name, taken in seconds.items():
        own = summary(taken)
        line = f"{name:58s}" + "".join(f"{value:10.4f}" for value in own)
        if name in compared:
            base = summary(seconds[compared[name]])
            line += "  " + "".join(f"{mine / other:7.3f}" for mine, other in zip(own, base, strict=True))
        print(line, flush=True)


class Until:
    """The default attention, which ends the pass when that of a block is computed."""

    def __init__(self, last: int):
        self.last = last

    def __call__(self, q, k, v, layer):
        mixed = attention(q, k, v, layer)
        if layer == self.last:
            mx.eval(mixed)
            raise Enough
        return mixed


def demo(rounds: int) -> None:
    """Measures on the demo model; rows are those of all blocks, and no map is made of them yet."""
    session = FluxSession.from_pretrained("fluxnb/demo")
    run = session.start(PROMPT, num_steps=4).finish()
    probes = [Probe(word, "all") for word in run.words]
    record, blocks = run.steps[2], sum(session.pipeline.blocks)
    names = iter(range(10**9))

    def forward(attend=attention):
        mx.eval(session.pipeline.velocity(record.latents, record.sigma, run.text, attend=attend))

    def new_concept():
        run.concepts(["cat", "dog", f"tree {next(names)}"], step=2)

    known = [["cat", "dog", word] for word in ("bird", "fish", "tree", "car")]
    for concepts in known:
        run.concepts(concepts, step=2)
    calls, compared = {}, {}
    for weight, title in ((None, "with CFG"), (0, "without CFG")):
        plain, listening = f"a run of 4 steps {title}", f"... and the rows of {len(probes)} words, {title}"
        calls[plain] = lambda weight=weight: session.start(PROMPT, num_steps=4, cfg_weight=weight).finish()
        calls[listening] = lambda weight=weight: session.start(
            PROMPT, num_steps=4, cfg_weight=weight, probes=probes
        ).finish()
        compared[listening] = plain
    calls["a forward"] = forward
    for last in (0, 1, blocks - 1):
        base = f"a forward up to the attention of block {last}"
        calls[base] = lambda last=last: overhear(lambda: forward(Until(last)))
        for kind, direction in (("row", "word_to_image"), ("column", "image_to_word")):
            name = f"a {kind} later, blocks 0..{last}"
            calls[name] = lambda last=last, direction=direction: run.attention(
                2, "cat", range(last + 1), direction=direction
            )
            compared[name] = base
    cycle = iter(known * 10**6)
    calls["other concepts, their texts encoded before"] = lambda: run.concepts(next(cycle), step=2)
    calls["a new concept, its text encoded too"] = new_concept
    calls["a text encoded"] = lambda: session.pipeline.encode_text("tree")
    compared |= dict.fromkeys(list(calls)[-3:], "a forward")
    made = session.start(PROMPT, num_steps=1, probes=probes)
    made.advance()
    calls[f"the maps of a step made of the rows of {len(probes)} words"] = lambda: made._state[2][0]._make()
    report(f"demo model, {run.text.txt.shape[1]} + 64 tokens", measure(calls, rounds), compared)


def large(heads: int, rounds: int) -> None:
    """Measures on one double and one single block at the token counts of 1024 pixels."""
    backend.setup()
    config = MMDiTConfig(heads=heads, depth=1, depth_single=1)
    network = random_weights(MMDiT(config), seed=0)
    shapes = [(1, 4096, 64), (1, TEXT, config.txt_dim), (1, config.vec_dim), (1, 9, config.txt_dim)]
    img, txt, vec, concepts = (
        mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes)
    )
    mx.eval(network.parameters(), img, txt, vec, concepts)
    words = tuple(Word(f"w{i}", (2 * i, 2 * i + 1)) for i in range(20))
    text = TextEmbedding("", txt, vec, words, end=40, notes=())

    def forward(attend=attention):
        ids = {"img_ids": image_ids(SIZE), "txt_ids": mx.zeros((TEXT, 3))}
        mx.eval(network(img, txt, vec, mx.array([0.5]), **ids, attend=attend))

    def heard(probes, is_replay):
        hearing = Asked(probes, text, SIZE, config).hearing(0, 0.5)
        overhear(lambda: forward(hearing.around(is_replay=is_replay)))
        len(hearing.maps)

    keeper = Keeper((0,), TEXT)
    overhear(lambda: forward(keeper.around(attention)))
    side = keeper.result(network, 0.5, None)
    base = "a forward up to the last attention"
    calls = {
        "a forward": forward,
        "... and the rows of 20 words in all blocks": lambda: heard([Probe(w, "all") for w in words], False),
        base: lambda: overhear(lambda: forward(Until(1))),
        "a row later, all blocks": lambda: heard([Probe("w3", "all")], True),
        "a column later, all blocks": lambda: heard([Probe("w3", "all", direction="columns")], True),
        "a map of a patch later, all blocks": lambda: heard([Probe((9, 9), "all")], True),
        "other concepts (3 of 3 tokens), the texts encoded before": lambda: mx.eval(
            shares(network, side, [concepts[:, i : i + 3] for i in (0, 3, 6)])
        ),
    }
    names = list(calls)
    compared = {names[1]: names[0], names[6]: names[0]} | dict.fromkeys(names[3:6], base)
    title = f"1 double + 1 single block, {heads} heads, {TEXT} + 4096 tokens"
    report(title, measure(calls, rounds), compared)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="on the demo model")
    parser.add_argument("--large-rounds", type=int, default=3, help="at the tokens of 1024 pixels")
    parser.add_argument("--heads", type=int, nargs="*", default=[4], help="of 128 numbers; 24 are FLUX.1's")
    args = parser.parse_args()
    demo(args.rounds)
    for heads in args.heads:
        large(heads, args.large_rounds)


if __name__ == "__main__":
    main()
