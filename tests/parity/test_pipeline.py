"""The whole pipeline against diffusers on the same checkpoint, prompt and seed.

Measured with torch 2.13 and diffusers 0.42.1 on random weights: after 4 steps the latents differ by at most
2.2e-6 of the longest way that one of them went from the noise, and the pictures by at most one grey level.
From a picture it is 6.3e-6, with and without CFG, guidance and the shift by resolution.
"""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxTransformer2DModel,
)
from diffusers import FluxPipeline as Reference
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from fluxnb import flow
from fluxnb.checkpoints.sources import DEMO_FOLDER
from fluxnb.pipeline import FluxPipeline
from fluxnb.session import FluxSession
from fluxnb.training import tokenizers

TOLERANCE = 1e-4
PROMPT = "a cat to the left of a sunflower on a blue background"


def save(folder, guidance):
    """Writes a small FLUX.1 with random weights; with guidance, also dev's shift by resolution."""
    torch.manual_seed(0)
    tokenizers.build(folder)
    clip_words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    t5_words = T5TokenizerFast.from_pretrained(folder / "tokenizer_2")
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=48,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=0.4,
        shift_factor=0.2,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_words),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=clip_words.model_max_length,
            bos_token_id=clip_words.bos_token_id,
            eos_token_id=clip_words.eos_token_id,
            pad_token_id=clip_words.pad_token_id,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_words),
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )
    with torch.no_grad():  # so that every part matters, and a forgotten bias or norm shows
        for network in (transformer, vae, clip, t5):
            for parameter in network.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                else:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance, shift=1.0 if guidance else 2.5)
    Reference(scheduler, vae, clip, clip_words, t5, t5_words, transformer).save_pretrained(folder)


@pytest.fixture(scope="module", params=["plain", "guided", "demo"])
def both(request, tmp_path_factory):
    """The same checkpoint in fluxnb and in diffusers."""
    folder = DEMO_FOLDER
    if request.param != "demo":
        folder = tmp_path_factory.mktemp(request.param)
        save(folder, guidance=request.param == "guided")
    return FluxPipeline(local_ckpt=str(folder)), Reference.from_pretrained(folder)


def reference(theirs, run, output_type, **more):
    """What diffusers makes of the settings of a run."""
    theirs.set_progress_bar_config(disable=True)
    height, width = (8 * side for side in run.latent_size)
    with torch.no_grad():
        return theirs(
            run.prompt,
            negative_prompt=run.negative_text,
            true_cfg_scale=run.cfg_weight or 1.0,
            guidance_scale=run.guidance or 0.0,
            height=height,
            width=width,
            max_sequence_length=run.text.txt.shape[1],
            generator=torch.Generator().manual_seed(run.seed),
            output_type=output_type,
            **{"num_inference_steps": run.num_steps} | more,
        ).images


@pytest.mark.parametrize("cfg_weight", [0.0, 3.0])
@pytest.mark.parametrize(("seed", "latent_size"), [(0, (16, 16)), (-3, (12, 20))])
def test_four_steps_end_in_the_latents_of_diffusers(both, cfg_weight, seed, latent_size):
    ours, theirs = both
    run = FluxSession(ours).start(
        PROMPT,
        seed=seed,
        num_steps=4,
        cfg_weight=cfg_weight,
        negative_text="a tree" if cfg_weight else "",
        latent_size=latent_size,
    )
    noise = np.array(flow.pack(run.latents))
    run.finish()
    expected = reference(theirs, run, "latent").numpy()
    found = np.array(flow.pack(run.latents))
    way = np.abs(expected - noise).max()
    assert way > 1  # the networks moved them
    assert np.abs(found - expected).max() < TOLERANCE * way


@pytest.mark.parametrize("cfg_weight", [0.0, 3.0])
@pytest.mark.parametrize(("seed", "steps", "denoise"), [(0, 6, 0.6), (7, 10, 0.9), (-3, 5, 0.2)])
def test_a_run_from_a_picture_ends_in_the_latents_of_diffusers(both, cfg_weight, seed, steps, denoise):
    ours, theirs = both
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8))
    run = FluxSession(ours).start(
        PROMPT,
        seed=seed,
        num_steps=steps,
        cfg_weight=cfg_weight,
        negative_text="a tree" if cfg_weight else "",
        latent_size=(12, 20),
        image=picture,
        denoise=denoise,
    )
    start = np.array(flow.pack(run.latents))
    run.finish()
    theirs = FluxImg2ImgPipeline(**theirs.components)
    expected = reference(
        theirs, run, "latent", image=picture, strength=denoise, num_inference_steps=steps
    ).numpy()
    found = np.array(flow.pack(run.latents))
    way = np.abs(expected - start).max()
    assert way > 0.1  # the networks moved them
    assert np.abs(found - expected).max() < TOLERANCE * way


def test_the_schedule_is_that_of_diffusers(both):
    ours, theirs = both
    run = FluxSession(ours).start(PROMPT, num_steps=4, latent_size=(12, 20))
    run.finish()
    reference(theirs, run, "latent")
    assert run.sigmas == pytest.approx(theirs.scheduler.sigmas.tolist(), abs=1e-6)


def test_pictures_are_those_of_diffusers_to_the_last_grey_level(both):
    ours, theirs = both
    run = FluxSession(ours).start(PROMPT, num_steps=4, cfg_weight=0.0, latent_size=(12, 20)).finish()
    expected = np.array(reference(theirs, run, "pil")[0], int)
    found = np.array(run.image(), int)
    assert found.shape == (96, 160, 3)
    assert np.abs(found - expected).max() <= 1
    assert expected.std() > 5
