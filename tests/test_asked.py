"""Maps at the token counts of 1024 pixels: a small network, but 512 + 4096 tokens."""

import mlx.core as mx
import numpy as np
import pytest

from fluxnb import backend
from fluxnb.asked import Asked
from fluxnb.flow import image_ids
from fluxnb.listen import overhear
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import attention, random_weights
from fluxnb.model.mmdit import MMDiT
from fluxnb.model.tokenizers import Word
from fluxnb.probe import Probe
from fluxnb.texts import TextEmbedding

CONFIG = MMDiTConfig(
    txt_dim=16,
    vec_dim=16,
    heads=2,
    head_dim=16,
    depth=1,
    depth_single=1,
    mlp_ratio=1.0,
    axes_dim=(4, 6, 6),
)
TEXT, SIZE = 512, (128, 128)  # text tokens, latent cells
WORDS = tuple(Word(f"w{i}", (i,)) for i in range(20))
PROBES = {
    "20 words' rows": [Probe(word, "all") for word in WORDS],
    "20 words' columns": [Probe(word, "all", direction="image_to_word") for word in WORDS],
    "the padding's rows and a patch, each head": [Probe("PAD", 0), Probe((31, 7), "all", "each")],
}


@pytest.fixture(scope="module")
def forward():
    """One pass at 1024 pixels with an attention function; and the text that it has."""
    backend.setup()
    network = random_weights(MMDiT(CONFIG), seed=0)
    img, txt, vec = (
        mx.random.normal(shape, key=mx.random.key(i))
        for i, shape in enumerate([(1, 4096, 64), (1, TEXT, 16), (1, 16)])
    )
    mx.eval(network.parameters(), img, txt, vec)
    text = TextEmbedding("", txt, vec, WORDS, end=20, notes=())

    def run(attend=attention):
        velocity = network(
            img,
            txt,
            vec,
            mx.array([0.5]),
            img_ids=image_ids(SIZE),
            txt_ids=mx.zeros((TEXT, 3)),
            attend=attend,
        )
        mx.eval(velocity)
        return velocity

    return run, text


def peak(call):
    """Most memory that a call takes beyond what is there, in MB."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    call()
    return (mx.get_peak_memory() - before) / 1e6


@pytest.fixture(scope="module")
def plain(forward):
    """Memory and velocity of a pass that nobody hears."""
    velocity = []
    return peak(lambda: velocity.append(forward[0]())), np.array(velocity[0])


@pytest.mark.parametrize(
    ("name", "is_replay"), [*((name, False) for name in PROBES), ("20 words' columns", True)]
)
def test_maps_at_1024_pixels_take_little_memory_beyond_the_plain_pass(forward, plain, name, is_replay):
    """An explicit softmax of one block takes 170 MB for each of its copies."""
    run, text = forward
    hearing = Asked(PROBES[name], text, SIZE, CONFIG).hearing(0, 0.5)
    listener = hearing.around(is_replay=is_replay)
    velocity = []

    def heard():
        overhear(lambda: velocity.append(run(listener)))
        assert len(hearing.maps) == len(PROBES[name])

    assert peak(heard) < plain[0] + 30
    assert is_replay or np.array_equal(velocity[0], plain[1])
