"""Measures what fewer bits change: `python tests/benchmarks/quantisation.py`.

For 16-bit weights, 16-bit streams, and weights of 8, 6, 4 and 3 bits beside float32 are printed the relative
error (L2 norm of the difference over that of float32) of a pass and of the last latents:

    random    4 double and 8 single blocks of width 768 with random weights, 256 + 64 tokens, 4 steps
    demo      the demo model, whose weights are trained, 64 + 24 tokens, 20 steps with CFG; its T5 has fewer
              bits too, so that the prompt is read by the changed model

and the megabytes of the weights of the transformer. It is not a part of pytest, and takes a minute. On an AMD
EPYC the last latents differed by, at 16-bit weights, 16-bit streams, 8, 6, 4 and 3 bits:

    random    0.003   0.004   0.005   0.022   0.103   0.186
    demo      0.005   0.010   0.024   0.044   0.187   0.433
"""

from itertools import pairwise
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from fluxnb import FluxPipeline, FluxSession, backend, flow
from fluxnb.checkpoints import native
from fluxnb.checkpoints.files import Tensors
from fluxnb.checkpoints.fill import fill
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import random_weights
from fluxnb.model.mmdit import MMDiT

FORMS = {"w16": (mx.bfloat16, None), "a16": (mx.float32, None)} | {
    f"{bits} bits": (mx.float32, bits) for bits in (8, 6, 4, 3)
}
CONFIG = MMDiTConfig(heads=6, depth=4, depth_single=8, txt_dim=512, vec_dim=256)
CELLS, TOKENS, STEPS = (32, 32), 64, 4
PROMPT = "a red circle to the left of a blue square"


def error(near, exact):
    """Gives the relative error."""
    return (mx.linalg.norm(near - exact) / mx.linalg.norm(exact)).item()


def megabytes(network):
    """Counts what the parameters take."""
    return sum(array.nbytes for _, array in tree_flatten(network.parameters())) / 1e6


def changed(network, dtype, bits):
    """Fills a new network from the parameters of one."""
    arrays = dict(tree_flatten(tree_map(lambda array: array, network.parameters())))
    tensors = Tensors(arrays, dict.fromkeys(arrays, Path("random")), Path("random"))
    return fill(MMDiT(network.config), native.TABLE, tensors, dtype, bits)


def draw(network, dtype):
    """Makes a run; returns the velocity of its middle step at float32's latents, and its last latents."""
    txt, vec = (mx.random.normal(shape, key=mx.random.key(7)) for shape in ((1, TOKENS, 512), (1, 256)))
    ids = {"img_ids": flow.image_ids(CELLS), "txt_ids": mx.zeros((TOKENS, 3))}

    def velocity(latents, sigma):
        img = flow.pack(latents).astype(dtype)
        return flow.unpack(network(img, txt, vec, mx.array([sigma]), **ids), CELLS).astype(mx.float32)

    latents = flow.noise(0, CELLS)
    middle = velocity(latents, 0.5)
    sigmas = flow.schedule(STEPS, 1.0)
    for sigma, after in pairwise(sigmas):
        latents = latents + (after - sigma) * velocity(latents, sigma)
        mx.eval(latents)
    return middle, latents


def random_network():
    """Yields name, error of a pass, error of the latents, megabytes."""
    network = random_weights(MMDiT(CONFIG), 0)
    mx.eval(network.parameters())
    exact = draw(network, mx.float32)
    for name, (dtype, bits) in FORMS.items():
        other = changed(network, dtype, bits)
        near = draw(other, mx.bfloat16 if name == "a16" else mx.float32)
        yield name, *map(error, near, exact), megabytes(other)


def demo():
    """Yields the same of the demo model."""
    session = FluxSession(FluxPipeline())
    run = session.start(PROMPT).finish()
    step = run.steps[len(run.steps) // 2]
    for name, (dtype, bits) in FORMS.items():
        pipeline = FluxPipeline(w16=dtype == mx.bfloat16, a16=name == "a16", quantize=bits)
        other = FluxSession(pipeline).start(PROMPT).finish()
        velocity = pipeline.velocity(
            step.latents, step.sigma, other.text, None, other.negative, run.cfg_weight
        )
        yield (
            name,
            error(velocity, step.velocity),
            error(other.latents, run.latents),
            megabytes(pipeline.networks.mmdit),
        )


if __name__ == "__main__":
    backend.setup()
    backend.fit_threads(CONFIG.width)
    for title, rows in (("random", random_network()), ("demo", demo())):
        print(f"{title:10}{'a pass':>12}{'last latents':>16}{'MB':>10}")
        for name, one, last, size in rows:
            print(f"{name:10}{one:12.5f}{last:16.5f}{size:10.1f}", flush=True)
