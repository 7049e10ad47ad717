"""Sizes of the networks as frozen records, those of FLUX.1 as functions; knows nothing of arrays or files."""

from dataclasses import dataclass, fields
from typing import Any

from fluxnb import checks
from fluxnb.errors import InputError

LARGEST, DEEPEST, LEVELS = 1 << 20, 200, 16
"""Most of a width or a vocabulary, of layers, and of levels: a network is built before it is compared with
the files, and files may say anything."""

DEPTHS = ("depth", "depth_single", "layers", "encoder_blocks", "decoder_blocks")
"""What counts layers."""

MAY_BE_0 = ("depth_single", "eos_token", "shift_factor")
"""What need not be above 0."""


@dataclass(frozen=True, slots=True)
class MMDiTConfig:
    """Sizes of a multimodal diffusion transformer.

    Attributes:
        in_channels: numbers in an image token that goes in (64: 16 latent channels, 2x2 cells).
        out_channels: numbers in an image token that comes out.
        txt_dim: width of the text tokens, i.e. of the T5 encoder.
        vec_dim: width of the pooled text vector, i.e. of the CLIP encoder.
        heads: attention heads.
        head_dim: width of one head.
        depth: double blocks (a stream for the text, one for the image).
        depth_single: single blocks (one stream for both), 0 for none.
        mlp_ratio: width of the MLPs' inner layer over that of the stream.
        axes_dim: parts of `head_dim` that RoPE turns by each column of the ids; () for no RoPE.
        theta: base of RoPE's frequencies.
        guidance: whether the network takes a guidance strength, as FLUX.1-dev does.
    """

    in_channels: int = 64
    out_channels: int = 64
    txt_dim: int = 4096
    vec_dim: int = 768
    heads: int = 24
    head_dim: int = 128
    depth: int = 19
    depth_single: int = 38
    mlp_ratio: float = 4.0
    axes_dim: tuple[int, ...] = (16, 56, 56)
    theta: float = 10000.0
    guidance: bool = False

    def __post_init__(self):
        _check(self)
        checks.whole("heads * head_dim", self.width, 1, LARGEST)
        if self.axes_dim and sum(self.axes_dim) != self.head_dim:
            raise InputError(
                f"axes_dim {self.axes_dim} sum to {sum(self.axes_dim)}, head_dim is {self.head_dim}; "
                "make them equal, or axes_dim () for no RoPE"
            )
        if any(n % 2 for n in self.axes_dim):
            raise InputError(f"axes_dim {self.axes_dim} must be even: RoPE turns pairs of numbers")

    @property
    def width(self) -> int:
        """Width of the streams, D."""
        return self.heads * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Width of the inner layer of the blocks' MLPs."""
        return int(self.width * self.mlp_ratio)


@dataclass(frozen=True, slots=True)
class T5Config:
    """Sizes of a T5 v1.1 encoder.

    Attributes:
        vocab_size: rows of the embedding.
        width: width of the stream, D (`d_model` in the files).
        heads: attention heads.
        head_dim: width of one head (`d_kv`); heads * head_dim need not be `width`.
        mlp_width: inner width of the gated MLP (`d_ff`).
        depth: blocks.
        buckets: rows of the table of relative positions.
        max_distance: tokens from which on all distances share the last bucket.
        eps: added to the mean square in the norms.
    """

    vocab_size: int = 32128
    width: int = 4096
    heads: int = 64
    head_dim: int = 64
    mlp_width: int = 10240
    depth: int = 24
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True, slots=True)
class CLIPConfig:
    """Sizes of a CLIP text encoder.

    Attributes:
        vocab_size: rows of the embedding.
        width: width of the stream, D.
        heads: attention heads.
        mlp_width: inner width of the MLP.
        depth: blocks.
        max_length: tokens that there are positions for.
        eos_token: id of the end token, whose state is the pooled vector; None for the highest id of a prompt
            (what `eos_token_id: 2` in old config files stands for).
        eps: added to the variance in the norms.
    """

    vocab_size: int = 49408
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    depth: int = 12
    max_length: int = 77
    eos_token: int | None = 49407
    eps: float = 1e-5

    def __post_init__(self):
        _check(self)
        if self.width % self.heads:
            raise InputError(
                f"width {self.width} is not a multiple of heads {self.heads}; choose one that is"
            )


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """Sizes of the autoencoder, and what its latents are normalised by.

    Attributes:
        channels: channels of each level, from pixels to latents; each level but the last halves the side.
        layers: residual blocks of a level in the encoder; the decoder has one more.
        latent_channels: channels of the latents.
        image_channels: channels of a picture.
        groups: groups of the group norms.
        scale_factor: latents that the transformer sees = (z - shift_factor) * scale_factor.
        shift_factor: see `scale_factor`.
        eps: added to the variance in the norms.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    latent_channels: int = 16
    image_channels: int = 3
    groups: int = 32
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159
    eps: float = 1e-6

    def __post_init__(self):
        _check(self)
        if any(n % self.groups for n in self.channels):
            raise InputError(
                f"channels {self.channels} are not all multiples of groups {self.groups}; choose such"
            )


@dataclass(frozen=True, slots=True)
class TAESDConfig:
    """Sizes of a tiny autoencoder, and what its latents are normalised by.

    Attributes:
        channels: channels of every inner layer.
        encoder_blocks: blocks of each level of the encoder; each level but the first halves the side.
        decoder_blocks: blocks of each level of the decoder; each level but the last doubles the side.
        latent_channels: channels of the latents.
        image_channels: channels of a picture.
        scale_factor: normalised latents = (z - shift_factor) * scale_factor; for TAEF1 z itself.
        shift_factor: see `scale_factor`.
    """

    channels: int = 64
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_channels: int = 16
    image_channels: int = 3
    scale_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self):
        _check(self)


def schnell() -> MMDiTConfig:
    """Gives the sizes of FLUX.1-schnell (11.89e9 parameters)."""
    return MMDiTConfig()


def dev() -> MMDiTConfig:
    """Gives the sizes of FLUX.1-dev: schnell's and a guidance strength (11.90e9 parameters)."""
    return MMDiTConfig(guidance=True)


def t5_xxl() -> T5Config:
    """Gives the sizes of T5 v1.1 XXL's encoder, FLUX.1's larger text encoder."""
    return T5Config()


def clip_l() -> CLIPConfig:
    """Gives the sizes of CLIP ViT-L/14's text encoder, FLUX.1's smaller text encoder."""
    return CLIPConfig()


def flux_vae() -> VAEConfig:
    """Gives the sizes of FLUX.1's autoencoder."""
    return VAEConfig()


def taef1() -> TAESDConfig:
    """Gives the sizes of TAEF1, the tiny autoencoder for FLUX.1's latents."""
    return TAESDConfig()


def _check(config: Any) -> None:
    """Refuses sizes that no network has."""
    for field in fields(config):
        value = getattr(config, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        checks.whole(f"the number of {field.name}", len(numbers), high=LEVELS)
        for number in numbers:
            if isinstance(number, float):
                above = None if field.name in MAY_BE_0 else 0
                checks.number(field.name, number, above=above, high=LARGEST)
            elif number is not None and not isinstance(number, bool):
                most = DEEPEST if field.name in DEPTHS else LARGEST
                checks.whole(field.name, number, int(field.name not in MAY_BE_0), most)
