"""The JSON that diffusers and transformers save beside weights -> our frozen configs, or what we cannot run.

Knows nothing of weights. A setting that would change what a network computes is read or has to be what our
networks do; one that only matters in training is passed over.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fluxnb.checkpoints.catalog import Entry
from fluxnb.checkpoints.files import read_json
from fluxnb.errors import CheckpointError, InputError
from fluxnb.model.config import CLIPConfig, MMDiTConfig, T5Config, TAESDConfig, VAEConfig

REQUIRED = object()
LARGEST = 1e6
"""No number of a config, that is none of its sizes, exceeds this."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON file, and how its settings are read; a method that refuses one raises CheckpointError."""

    path: Path
    values: dict[str, Any]

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """Gives a setting, or the default that diffusers has for it where the file leaves it out."""
        value = self.values.get(key, default)
        if value is REQUIRED:
            raise CheckpointError(f"{self.path} lacks {key}; download it again")
        return value

    def whole(self, key: str, default: Any = REQUIRED) -> int:
        """Gives a whole number of at least 1."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(key, value, "a whole number of at least 1")
        return value

    def wholes(self, key: str, default: Any = REQUIRED) -> tuple[int, ...]:
        """Gives a list of whole numbers of at least 1."""
        value = self.get(key, default)
        if (
            not isinstance(value, (list, tuple))
            or not all(type(n) is int and n > 0 for n in value)
            or not value
        ):
            raise self._wrong(key, value, "a list of whole numbers of at least 1")
        return tuple(value)

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """Gives a number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
            raise self._wrong(key, value, f"a number of at most {LARGEST:g}")
        return float(value)

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        """Gives true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def must(self, key: str, *allowed: Any, default: Any = REQUIRED) -> None:
        """Refuses a setting other than those that our network has."""
        value = self.get(key, default)
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise self._wrong(key, value, " or ".join(repr(one) for one in allowed))

    def _wrong(self, key: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {key} is {value!r}, expected {expected}; this is no FLUX.1 that fluxnb can run"
        )


def read(path: Path) -> Settings:
    """Reads the settings of a component.

    Raises:
        CheckpointError: the file is missing or is no JSON object.
    """
    return Settings(path, read_json(path))


def mmdit(settings: Settings) -> MMDiTConfig:
    """Reads the config of diffusers' FluxTransformer2DModel.

    Raises:
        CheckpointError: another class, a setting that is missing, of the wrong kind, or not ours.
    """
    settings.must("_class_name", "FluxTransformer2DModel")
    settings.must("patch_size", 1, default=1)
    channels = settings.whole("in_channels")
    out_channels = settings.get("out_channels", None)
    return _made(
        settings,
        MMDiTConfig,
        in_channels=channels,
        out_channels=channels if out_channels is None else settings.whole("out_channels"),
        txt_dim=settings.whole("joint_attention_dim"),
        vec_dim=settings.whole("pooled_projection_dim"),
        heads=settings.whole("num_attention_heads"),
        head_dim=settings.whole("attention_head_dim"),
        depth=settings.whole("num_layers"),
        depth_single=settings.whole("num_single_layers"),
        axes_dim=settings.wholes("axes_dims_rope", (16, 56, 56)),
        guidance=settings.flag("guidance_embeds"),
    )


def t5(settings: Settings) -> T5Config:
    """Reads the config of transformers' T5EncoderModel, version 1.1 (gated GELU).

    Raises:
        CheckpointError: another class, a setting that is missing, of the wrong kind, or not ours.
    """
    settings.must("model_type", "t5")
    settings.must("feed_forward_proj", "gated-gelu")
    settings.must("dense_act_fn", "gelu_new", default="gelu_new")
    return _made(
        settings,
        T5Config,
        vocab_size=settings.whole("vocab_size"),
        width=settings.whole("d_model"),
        heads=settings.whole("num_heads"),
        head_dim=settings.whole("d_kv"),
        mlp_width=settings.whole("d_ff"),
        depth=settings.whole("num_layers"),
        buckets=settings.whole("relative_attention_num_buckets", 32),
        max_distance=settings.whole("relative_attention_max_distance", 128),
        eps=settings.number("layer_norm_epsilon", 1e-6),
    )


def clip(settings: Settings) -> CLIPConfig:
    """Reads the config of transformers' CLIPTextModel.

    Raises:
        CheckpointError: another class, a setting that is missing, of the wrong kind, or not ours.
    """
    settings.must("model_type", "clip_text_model")
    settings.must("hidden_act", "quick_gelu", default="quick_gelu")
    eos_token = settings.whole("eos_token_id", 49407)
    return _made(
        settings,
        CLIPConfig,
        vocab_size=settings.whole("vocab_size"),
        width=settings.whole("hidden_size"),
        heads=settings.whole("num_attention_heads"),
        mlp_width=settings.whole("intermediate_size"),
        depth=settings.whole("num_hidden_layers"),
        max_length=settings.whole("max_position_embeddings"),
        eos_token=None if eos_token == 2 else eos_token,  # 2: written before 2023, and wrong; see CLIPConfig
        eps=settings.number("layer_norm_eps", 1e-5),
    )


def vae(settings: Settings) -> VAEConfig:
    """Reads the config of diffusers' AutoencoderKL as FLUX.1 has it: without convolutions around the latents.

    Raises:
        CheckpointError: another class, a setting that is missing, of the wrong kind, or not ours.
    """
    settings.must("_class_name", "AutoencoderKL")
    settings.must("act_fn", "silu", default="silu")
    settings.must("use_quant_conv", False, default=True)
    settings.must("use_post_quant_conv", False, default=True)
    settings.must("mid_block_add_attention", True, default=True)
    settings.must("latents_mean", None, default=None)
    settings.must("latents_std", None, default=None)
    channels = settings.wholes("block_out_channels")
    settings.must("down_block_types", ["DownEncoderBlock2D"] * len(channels))
    settings.must("up_block_types", ["UpDecoderBlock2D"] * len(channels))
    image_channels = settings.whole("in_channels")
    settings.must("out_channels", image_channels)
    return _made(
        settings,
        VAEConfig,
        channels=channels,
        layers=settings.whole("layers_per_block"),
        latent_channels=settings.whole("latent_channels"),
        image_channels=image_channels,
        groups=settings.whole("norm_num_groups", 32),
        scale_factor=settings.number("scaling_factor"),
        shift_factor=settings.number("shift_factor"),
    )


def taesd(settings: Settings) -> TAESDConfig:
    """Reads the config of diffusers' AutoencoderTiny.

    Raises:
        CheckpointError: another class, a setting that is missing, of the wrong kind, or not ours.
    """
    settings.must("_class_name", "AutoencoderTiny")
    settings.must("act_fn", "relu", default="relu")
    settings.must("upsample_fn", "nearest", default="nearest")
    settings.must("upsampling_scaling_factor", 2, default=2)
    encoder_blocks = settings.wholes("num_encoder_blocks", (1, 3, 3, 3))
    decoder_blocks = settings.wholes("num_decoder_blocks", (3, 3, 3, 1))
    encoder = settings.wholes("encoder_block_out_channels", (64,) * len(encoder_blocks))
    channels = encoder[0]
    settings.must("encoder_block_out_channels", [channels] * len(encoder_blocks), default=[64] * 4)
    settings.must("decoder_block_out_channels", [channels] * len(decoder_blocks), default=[64] * 4)
    image_channels = settings.whole("in_channels", 3)
    settings.must("out_channels", image_channels, default=3)
    return TAESDConfig(
        channels=channels,
        encoder_blocks=encoder_blocks,
        decoder_blocks=decoder_blocks,
        latent_channels=settings.whole("latent_channels", 4),
        image_channels=image_channels,
        scale_factor=settings.number("scaling_factor", 1.0),
        shift_factor=settings.number("shift_factor", 0.0),
    )


def schedule(settings: Settings, entry: Entry) -> Entry:
    """Puts the schedule of diffusers' FlowMatchEulerDiscreteScheduler into an entry.

    Raises:
        CheckpointError: another class, a setting that is missing, of the wrong kind, or not ours.
    """
    settings.must("_class_name", "FlowMatchEulerDiscreteScheduler")
    settings.must("num_train_timesteps", 1000, default=1000)
    settings.must("time_shift_type", "exponential", default="exponential")
    settings.must("shift_terminal", None, default=None)
    for other in ("invert_sigmas", "stochastic_sampling"):
        settings.must(other, False, default=False)
    for other in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        settings.must(other, False, default=False)
    if not settings.flag("use_dynamic_shifting", False):
        return _changed(settings, entry, shift=settings.number("shift", 1.0))
    return _changed(
        settings,
        entry,
        shift=None,
        base_tokens=settings.whole("base_image_seq_len", 256),
        base_shift=settings.number("base_shift", 0.5),
        max_tokens=settings.whole("max_image_seq_len", 4096),
        max_shift=settings.number("max_shift", 1.15),
    )


def _changed(settings: Settings, entry: Entry, **changes: Any) -> Entry:
    """Changes an entry; what it cannot have is the file's fault."""
    return _made(settings, partial(replace, entry), **changes)


def _made(settings: Settings, kind: Callable[..., Any], **sizes: Any) -> Any:
    """Makes a config; sizes that do not go together are the file's fault."""
    try:
        return kind(**sizes)
    except InputError as error:
        raise CheckpointError(f"{settings.path}: {error}") from error
