"""The demo model's networks in torch, at their one size, and its folder on disk.

Built from diffusers and transformers, so that the checkpoint is theirs by construction.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH = 192
HEAD = 32  # head width; RoPE axes below add up to it
TEXT_WIDTH = 128
TEXT_LENGTH = 24  # positions of both tokenizers


def best_device() -> str:
    """Where to train: "cuda" or "mps" if torch has it, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def autocast(device: str) -> AbstractContextManager:
    """bfloat16 for products on a CPU or by CUDA; plain float32 on a Mac, where nothing else was tried."""
    return torch.autocast(device, torch.bfloat16) if device in ("cpu", "cuda") else nullcontext()


def build_vae(scaling_factor: float = 1.0, shift_factor: float = 0.0) -> AutoencoderKL:
    """The autoencoder: factor 8, 16 latent channels, 2.8 M parameters.

    Two groups in every GroupNorm: with few channels a group, flat colours are lost.
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=2,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        force_upcast=False,
    )


class TextEncoders(nn.Module):
    """T5 and CLIP at the demo model's size: 0.4 M and 0.4 M parameters."""

    def __init__(self, clip_tokenizer: CLIPTokenizer, t5_tokenizer: T5TokenizerFast) -> None:
        """Random weights; the vocabularies' sizes and special tokens come from the tokenizers."""
        super().__init__()
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5_tokenizer),
                d_model=TEXT_WIDTH,
                d_kv=HEAD,
                d_ff=2 * TEXT_WIDTH,
                num_layers=2,
                num_heads=TEXT_WIDTH // HEAD,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
                use_cache=False,
                pad_token_id=t5_tokenizer.pad_token_id,
                eos_token_id=t5_tokenizer.eos_token_id,
            )
        )
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(clip_tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=TEXT_WIDTH // HEAD,
                max_position_embeddings=TEXT_LENGTH,
                bos_token_id=clip_tokenizer.bos_token_id,
                eos_token_id=clip_tokenizer.eos_token_id,
                pad_token_id=clip_tokenizer.pad_token_id,
            )
        )

    def forward(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States of all T5 positions, (B, TEXT_LENGTH, 128), and CLIP's pooled vector, (B, 128)."""
        return self.t5(input_ids=t5_ids).last_hidden_state, self.clip(input_ids=clip_ids).pooler_output


def build_transformer() -> FluxTransformer2DModel:
    """The MMDiT: 2 double and 4 single blocks of width 192, 5.2 M parameters, random weights."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD,
        num_attention_heads=WIDTH // HEAD,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )


def velocity(
    net: nn.Module, img: torch.Tensor, sigma: torch.Tensor, txt: torch.Tensor, vec: torch.Tensor,
    grid: tuple[int, int],
) -> torch.Tensor:  # fmt: skip
    """Velocity of packed latents.

    Args:
        net: The transformer.
        img: Packed latents, (B, rows * columns, 64).
        sigma: Noise level, (B,), 0..1.
        txt: (B, L, 128).
        vec: (B, 128).
        grid: Rows and columns of image tokens.
    """
    return net(
        hidden_states=img,
        encoder_hidden_states=txt,
        pooled_projections=vec,
        timestep=sigma,
        img_ids=image_ids(grid).to(img.device),
        txt_ids=torch.zeros(txt.shape[1], 3, device=img.device),
        return_dict=False,
    )[0]


def image_ids(grid: tuple[int, int]) -> torch.Tensor:
    """Position ids (0, row, column) of a grid of tokens, (rows*columns, 3)."""
    ids = torch.zeros(*grid, 3)
    ids[..., 1] = torch.arange(grid[0])[:, None]
    ids[..., 2] = torch.arange(grid[1])[None]
    return ids.view(-1, 3)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, 16, H, W) to tokens (B, H/2 * W/2, 64), channel = c*4 + row*2 + column."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def save_folder(
    folder: Path,
    vae: AutoencoderKL,
    transformer: FluxTransformer2DModel,
    encoders: TextEncoders,
    clip_tokenizer: CLIPTokenizer,
    t5_tokenizer: T5TokenizerFast,
) -> None:
    """Write a FLUX.1 checkpoint in the diffusers folder layout.

    The transformer and the autoencoder are float16 on disk; diffusers reads them as float32 unless told
    otherwise. The text encoders stay float32, since transformers computes in what it finds.
    """
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=encoders.clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=encoders.t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )
    vae.half()
    transformer.half()
    pipeline.save_pretrained(folder)
