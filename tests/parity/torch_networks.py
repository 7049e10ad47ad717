"""The reference networks in torch for the cases of tests/references.py: same weights, same inputs."""

import numpy as np
import references
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from references import Case
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from fluxnb.model import config


def build(case: Case) -> torch.nn.Module:
    """Builds the reference of a case, filled with weights made from the names of its parameters."""
    source = case.source
    if isinstance(case.config, config.MMDiTConfig):
        network = FluxTransformer2DModel(patch_size=1, **source)
    elif isinstance(case.config, config.T5Config):
        network = T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **source))
    elif isinstance(case.config, config.CLIPConfig):
        network = CLIPTextModel(CLIPTextConfig(**source))
    else:
        levels = len(case.config.channels)
        network = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            use_quant_conv=False,
            use_post_quant_conv=False,
            **{"latent_channels": 16, **source},
        )
    parameters = dict(network.named_parameters())
    made = references.weights({name: tuple(value.shape) for name, value in parameters.items()})
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(torch.from_numpy(made[name]))
    return network.eval()


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Gives names and shapes of the parameters, tied ones once."""
    return {name: tuple(value.shape) for name, value in network.named_parameters()}


@torch.no_grad()
def outputs(case: Case, network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Gives what comes out, channels last, by the names that `references.outputs` uses."""
    given = {name: torch.from_numpy(value) for name, value in references.inputs(case).items()}
    if isinstance(network, FluxTransformer2DModel):
        velocity = network(
            hidden_states=given["img"],
            encoder_hidden_states=given["txt"],
            pooled_projections=given["vec"],
            timestep=given["t"],
            guidance=given.get("guidance"),
            img_ids=given["img_ids"],
            txt_ids=given["txt_ids"],
        ).sample
        made = {"velocity": velocity}
    elif isinstance(network, T5EncoderModel):
        made = {"txt": network(given["ids"]).last_hidden_state}
    elif isinstance(network, CLIPTextModel):
        result = network(given["ids"])
        made = {"hidden": result.last_hidden_state, "vec": result.pooler_output}
    else:
        mean = network.encode(given["x"].permute(0, 3, 1, 2)).latent_dist.mean
        decoded = network.decode(given["z"].permute(0, 3, 1, 2)).sample
        made = {"decoded": decoded.permute(0, 2, 3, 1), "mean": mean.permute(0, 2, 3, 1)}
    return {name: value.contiguous().numpy() for name, value in made.items()}
