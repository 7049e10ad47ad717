"""Configs of the networks told from shapes of their parameters, for files that come without a config.json.

What no shape tells is taken as FLUX.1 has it: RoPE turns 1/8 of a head by the first id and 7/16 by each of
the others (16, 56 and 56 of 128 numbers), theta 10000; CLIP's heads are 64 wide and its end token is the last
of its vocabulary; T5's farthest distance is 128; the autoencoder's norms have 32 groups, its latents scale
0.3611 and shift 0.1159. A model that has the very shapes of FLUX.1 and other such numbers (the autoencoder of
Stable Diffusion 3 is one) cannot be told from it. Knows nothing of files: a shape is asked for by the name of
our parameter.
"""

from dataclasses import dataclass
from itertools import count
from typing import Any

from fluxnb.checkpoints.layouts import Outline
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, VAEConfig

CLIP_HEAD_DIM = 64


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes of the parameters of a component.

    Attributes:
        outline: tells the shape of a parameter, and what it is made of.
        origin: what to call the files in an error.
    """

    outline: Outline
    origin: object

    def matrix(self, name: str, axes: int = 2) -> tuple[int, ...]:
        """Gives a shape that has to be there and to have so many axes."""
        shape = self.outline.shape(name)
        if shape is None or len(shape) != axes:
            found = "is missing" if shape is None else f"has the shape {shape}"
            raise self.wrong(f"{self.outline.sources(name)}, which tells sizes of the network, {found}")
        return shape

    def has(self, *names: str) -> bool:
        """Tells whether one of these parameters is there."""
        return any(self.outline.shape(name) for name in names)

    def many(self, *patterns: str) -> int:
        """Counts the layers that are there, of which each has one of these; `{}` stands for 0, 1, ..."""
        return next(i for i in count() if not self.has(*(pattern.format(i) for pattern in patterns)))

    def parts(self, what: str, whole: int, part: int) -> int:
        """Divides without a rest."""
        if part < 1 or whole % part:
            raise self.wrong(f"the {what} is {whole}, which is not a multiple of {part}")
        return whole // part

    def made(self, kind: type, **sizes: Any) -> Any:
        """Makes a config; sizes that do not go together are the file's fault."""
        try:
            return kind(**sizes)
        except InputError as error:
            raise self.wrong(str(error)) from error

    def wrong(self, what: str) -> CheckpointError:
        """Says what is wrong with the files."""
        return CheckpointError(
            f"{self.origin}: {what}; take a whole file of a FLUX.1, or one with config.json"
        )


def mmdit(shapes: Shapes) -> MMDiTConfig:
    """Tells the sizes of a transformer.

    Raises:
        CheckpointError: a tensor that tells them is missing, or they do not go together as in FLUX.1.
    """
    width, in_channels = shapes.matrix("img_in.weight")
    (head_dim,) = shapes.matrix("double_blocks.0.img_attn.norm.query_norm.scale", axes=1)
    eighth = shapes.parts("width of a head", head_dim, 8)
    return shapes.made(
        MMDiTConfig,
        in_channels=in_channels,
        out_channels=shapes.matrix("final_layer.linear.weight")[0],
        txt_dim=shapes.matrix("txt_in.weight")[1],
        vec_dim=shapes.matrix("vector_in.in_layer.weight")[1],
        heads=shapes.parts("width", width, head_dim),
        head_dim=head_dim,
        depth=shapes.many("double_blocks.{}.img_attn.proj.weight", "double_blocks.{}.txt_mlp.0.weight"),
        depth_single=shapes.many("single_blocks.{}.linear1.weight", "single_blocks.{}.linear2.weight"),
        mlp_ratio=shapes.matrix("double_blocks.0.img_mlp.0.weight")[0] / width,
        axes_dim=(eighth, (head_dim - eighth) // 2, (head_dim - eighth) // 2),
        guidance=shapes.has("guidance_in.in_layer.weight", "guidance_in.out_layer.weight"),
    )


def vae(shapes: Shapes) -> VAEConfig:
    """Tells the sizes of an autoencoder.

    Raises:
        CheckpointError: a tensor that tells them is missing, or they do not go together as in FLUX.1.
    """
    level, block = "encoder.down.{}.block.0.conv1.weight", "encoder.down.0.block.{}.conv1.weight"
    return shapes.made(
        VAEConfig,
        channels=tuple(shapes.matrix(level.format(i), axes=4)[0] for i in range(shapes.many(level))),
        layers=shapes.many(block),
        latent_channels=shapes.matrix("decoder.conv_in.weight", axes=4)[-1],
        image_channels=shapes.matrix("encoder.conv_in.weight", axes=4)[-1],
    )


def clip(shapes: Shapes) -> CLIPConfig:
    """Tells the sizes of CLIP's text encoder.

    Raises:
        CheckpointError: a tensor that tells them is missing, or they do not go together as in CLIP.
    """
    vocab_size, width = shapes.matrix("embeddings.token_embedding.weight")
    layer = "encoder.layers.{}."
    return shapes.made(
        CLIPConfig,
        vocab_size=vocab_size,
        width=width,
        heads=shapes.parts("width", width, CLIP_HEAD_DIM),
        mlp_width=shapes.matrix("encoder.layers.0.mlp.fc1.weight")[0],
        depth=shapes.many(layer + "self_attn.q_proj.weight", layer + "mlp.fc1.weight"),
        max_length=shapes.matrix("embeddings.position_embedding.weight")[0],
        eos_token=vocab_size - 1,
    )


def t5(shapes: Shapes) -> T5Config:
    """Tells the sizes of T5's encoder.

    Raises:
        CheckpointError: a tensor that tells them is missing, or they do not go together as in T5.
    """
    vocab_size, width = shapes.matrix("shared.weight")
    attention, feed = "encoder.block.{}.layer.0.SelfAttention", "encoder.block.{}.layer.1.DenseReluDense"
    buckets, heads = shapes.matrix(f"{attention.format(0)}.relative_attention_bias.weight")
    inner = shapes.matrix(f"{attention.format(0)}.q.weight")[0]
    return shapes.made(
        T5Config,
        vocab_size=vocab_size,
        width=width,
        heads=heads,
        head_dim=shapes.parts("width of the queries", inner, heads),
        mlp_width=shapes.matrix(f"{feed.format(0)}.wi_0.weight")[0],
        depth=shapes.many(f"{attention}.q.weight", f"{feed}.wi_0.weight"),
        buckets=buckets,
    )
