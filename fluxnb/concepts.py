"""ConceptAttention: where concepts are in a picture, by the outputs of attention; knows nothing of runs.

After Helbling et al. 2025, arXiv 2502.04320, section 4. Concept tokens go through the weights of the text
stream beside the picture: they attend to the image and to each other, nothing attends to them, so the
picture stays as it is. At each double block the image's outputs of attention, heads joined, before the
projection, are multiplied with those of the concepts, and a softmax over the concepts shares out each image
token.

    o_c = softmax(q_c [k_img, k_c]^T / sqrt(D)) [v_img, v_c]        shares = softmax over c of o_img . o_c

The mean of the shares over blocks and steps is the map. Concept tokens stand at position 0, where RoPE is the
identity, and their modulation takes the time and the guidance of the step but zeros for the pooled text. Each
concept is encoded by T5 as a text of its own, and only its own tokens are used, not the end token or padding.
A concept of several tokens scores as the mean of its tokens, which is the score of their mean output.

What the image gives of one step is kept (`ImageSide`), so that new concepts need no pass through the network.
Letters: see `fluxnb.model`; P tokens of all concepts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields

import mlx.core as mx
import numpy as np

from fluxnb import backend, checks
from fluxnb.backend import stock
from fluxnb.checkpoints.networks import Networks, SwappedNetworks
from fluxnb.errors import InputError
from fluxnb.listen import Enough
from fluxnb.model.config import MMDiTConfig
from fluxnb.model.layers import Attend, heads_last
from fluxnb.model.mmdit import MMDiT
from fluxnb.probe import find_blocks

KEPT = 2**32
"""Most bytes of image sides that are kept; a step of FLUX.1 at 1024 pixels takes 1.2 GB in 16 bits.

48 keys, values and outputs of 4096 tokens x 3072 numbers; twice as much in float32.
"""

SHARE = 1 / 16
"""Most of this machine's memory that they may take."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockSide:
    """The image in one double block, evaluated.

    Args:
        layer: Number of the block.
        k: Keys (1, H, h*w, D), after norm and RoPE.
        v: Values (1, H, h*w, D).
        output: What attention gave the image, (h*w, H * D); None where it is not asked for.
        mod: Modulation of the concepts, six arrays (1, 1, H * D).
    """

    layer: int
    k: mx.array
    v: mx.array
    output: mx.array | None
    mod: tuple[mx.array, ...]

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        """All that it holds."""
        own = (getattr(self, field.name) for field in fields(self))
        return tuple(array for array in own if isinstance(array, mx.array)) + self.mod


ImageSide = tuple[BlockSide, ...]
"""The double blocks of one step, from the first to the last that is asked for."""


class Keeper:
    """Keeps the image's side of the attention in one pass.

    Args:
        blocks: Numbers of the double blocks whose outputs are asked for.
        text: Text tokens of the pass.
    """

    def __init__(self, blocks: tuple[int, ...], text: int):
        """Has kept nothing yet."""
        self._blocks = blocks
        self._text = text
        self._kept: list[tuple[int, mx.array, mx.array, mx.array | None]] = []

    def around(self, attend: Attend) -> Attend:
        """Puts the keeper around an attention function; it ends the pass after the last block."""

        def keep(q: mx.array, k: mx.array, v: mx.array, layer: int) -> mx.array:
            mixed = attend(q, k, v, layer)
            output = heads_last(mixed[:, :, self._text :])[0] if layer in self._blocks else None
            self._kept.append((layer, k[:, :, self._text :], v[:, :, self._text :], output))
            if layer == max(self._blocks):
                raise Enough
            return mixed

        return keep

    def result(self, network: MMDiT, sigma: float, guidance: float | None) -> ImageSide:
        """Evaluates and returns what was kept, with the modulation that concepts get.

        Args:
            network: What the pass went through.
            sigma: Noise level of the pass.
            guidance: Guidance strength, None if the network takes none.
        """
        pooled = mx.zeros((1, network.config.vec_dim))
        strength = None if guidance is None else mx.array([guidance])
        vec = network.condition(pooled, mx.array([sigma]), strength)
        side = tuple(
            BlockSide(layer, k, v, output, tuple(network.double_blocks[layer].txt_mod(vec.astype(k.dtype))))
            for layer, k, v, output in self._kept
        )
        mx.eval([part.arrays for part in side])
        return side


class ImageSides:
    """The image sides used last, up to so many bytes; the newest is kept whatever its size.

    Args:
        limit: Bytes; None for `SHARE` of this machine's memory, `KEPT` at most.
    """

    def __init__(self, limit: int | None = None):
        """Keeps none yet."""
        self._limit = min(KEPT, int(backend.memory_bytes() * SHARE)) if limit is None else limit
        self._kept: OrderedDict[Hashable, ImageSide] = OrderedDict()
        self._lock = threading.Lock()  # a widget's worker asks too

    def get(self, key: Hashable, make: Callable[[], ImageSide]) -> ImageSide:
        """Returns what is kept under a key, or makes it."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and self.nbytes > self._limit:
                self._kept.popitem(last=False)
            return self._kept[key]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(array.nbytes for side in self._kept.values() for part in side for array in part.arrays)


def shares(network: MMDiT, side: ImageSide, texts: Iterable[mx.array]) -> mx.array:
    """Shares out each image token among concepts.

    Softmax and attention are MLX's own on every device (`backend.stock`): with rows for concepts alone, the
    number of calls is what takes the time.

    Args:
        network: The weights of the text stream.
        side: The image in one step.
        texts: For each concept its T5 states (1, tokens, D).

    Returns:
        (concepts, h*w), float32, sums over the concepts are 1; the mean over the blocks, not evaluated.
    """
    lengths = [text.shape[1] for text in texts]
    average = mx.array(np.repeat(np.eye(len(lengths), dtype=np.float32) / lengths, lengths, axis=1))
    x = network.txt_in(mx.concatenate(list(texts), axis=1).astype(side[0].k.dtype))  # (1, P, D)
    found = []
    for part in side:
        block = network.double_blocks[part.layer]
        q, k, v = block.read_text(x, part.mod)  # (1, H, P, D)
        k, v = mx.concatenate([k, part.k], axis=2), mx.concatenate([v, part.v], axis=2)
        q, k, v = (array.astype(mx.float32) for array in (q, k, v))
        mixed = heads_last(stock.attention(q, k, v, q.shape[-1] ** -0.5))  # (1, P, H * D)
        if part.output is not None:
            mean = average @ mixed[0]  # (concepts, H * D)
            found.append(stock.softmax(part.output.astype(mx.float32) @ mean.T))  # (h*w, concepts)
        if part is not side[-1]:
            x = block.write_text(x, mixed.astype(x.dtype), part.mod)
    return mx.stack(found).mean(axis=0).T


def check_names(concepts: Iterable[str]) -> tuple[str, ...]:
    """Returns the texts of concepts.

    Raises:
        InputError: if they are not at least two different texts.
    """
    if isinstance(concepts, str) or not isinstance(concepts, Iterable):
        raise InputError(f"concepts is {concepts!r}; give a list of texts, e.g. ['cat', 'sky', 'background']")
    names = tuple(checks.text("a concept", concept) for concept in concepts)
    if len(set(names)) < max(2, len(names)):
        raise InputError(
            f"the concepts are {names!r}; give at least two different ones: each place is shared out among "
            "them, so that one alone would have all; 'background' takes what is left"
        )
    return names


def encode(networks: Networks | SwappedNetworks, name: str) -> mx.array:
    """Returns the T5 states of a concept's own tokens: float32 (1, tokens, D), evaluated.

    Raises:
        InputError: if it has none, or more than T5 reads.
    """
    ids, cut = networks.t5_tokenizer.encode(name)
    end = networks.t5_tokenizer.end(name)
    if cut or not end:
        note = f"it is too long for T5, which does not see {cut!r}" if cut else "T5 reads nothing in it"
        raise InputError(f"{name!r} cannot be a concept: {note}; give a word or a few")
    states = networks.t5(mx.array([ids]), networks.dtype).astype(mx.float32)[:, :end]
    mx.eval(states)
    return states


def find_double_blocks(blocks: str | int | Iterable[int] | None, config: MMDiTConfig) -> tuple[int, ...]:
    """Returns the numbers of the double blocks that are meant; None for the later half.

    Raises:
        InputError: if there is no such double block.
    """
    if blocks is None:
        return tuple(range(config.depth // 2, config.depth))
    numbers = find_blocks(blocks, config.depth, config.depth_single)
    single = [number for number in numbers if number >= config.depth]
    if single:
        raise InputError(
            f"block {single[0]} is a single block, where text and image share all weights; concepts go "
            f"through the double blocks, 0..{config.depth - 1}"
        )
    return numbers
