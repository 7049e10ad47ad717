"""What a file of tensors holds, told from their names and shapes; knows nothing of paths, tables or configs.

A component is told in each layout by tensors that no other one has. Where one file holds several components,
as ComfyUI's checkpoints do, a prefix stands before the names of each.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WEIGHTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
"""The components that have weights, in the words of diffusers."""

PREFIXES = {
    "transformer": ("", "model.diffusion_model."),
    "vae": ("", "vae.", "first_stage_model."),
    "text_encoder": ("", "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("", "text_encoders.t5xxl.transformer."),
}
"""What may stand before the names of a component; the longer ones are ComfyUI's."""

MARKS = (
    ("transformer", "diffusers", r"transformer_blocks\.\d+\.ff\.net\."),
    ("transformer", "mflux", r"transformer_blocks\.\d+\.ff\.linear1\."),
    ("transformer", "bfl", r"double_blocks\.\d+\.img_attn\.norm\.query_norm\.scale"),
    ("transformer", "mlx-examples", r"double_blocks\.\d+\.img_attn\.norm\.query_norm\.weight"),
    ("transformer", "diffusionkit", r"multimodal_transformer_blocks\.\d+\.image_transformer_block\.attn\."),
    ("vae", "diffusers", r"decoder\.conv_norm_out\.(weight|bias)"),
    ("vae", "mflux", r"decoder\.conv_norm_out\.norm\."),
    ("vae", "bfl", r"decoder\.mid\.block_1\.conv1\.weight"),
    ("text_encoder", "transformers", r"(text_model\.)?encoder\.layers\.\d+\.self_attn\."),
    ("text_encoder_2", "transformers", r"encoder\.block\.\d+\.layer\.0\.SelfAttention\."),
    ("text_encoder_2", "mflux", r"t5_blocks\.\d+\.attention\.SelfAttention\."),
)
"""(component, layout, how a name begins that only it has)."""

POINTWISE = "decoder.mid.attn_1.q.weight"
"""A kernel of a single cell: its shape tells who saved an autoencoder of black-forest-labs' names."""

OTHERS = (
    (r"(model\.diffusion_model\.)?joint_blocks\.", "a Stable Diffusion 3"),
    (r"pos_embed\.proj\.", "a Stable Diffusion 3"),
    (r"(model\.diffusion_model\.)?input_blocks\.", "a Stable Diffusion with a UNet"),
    (r"(model\.diffusion_model\.)?down_blocks\.\d+\.attentions\.", "a Stable Diffusion with a UNet"),
    (r".*\.lora_(A|B|up|down)\.", "a LoRA, a change to a model and none itself"),
    (r"controlnet_", "a ControlNet"),
    (r"redux_(up|down)\.", "a FLUX.1-Redux, an adapter and no model itself"),
)
"""(how a name begins, what the file is then), for files that are taken for FLUX.1 most often."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What some tensors are.

    Attributes:
        component: one of `WEIGHTS`.
        layout: whose names they have: "diffusers", "transformers", "bfl" for black-forest-labs,
            "diffusionkit", "mflux", "mlx-examples", or "native", as fluxnb saves an autoencoder.
        prefix: stands before every name of the component, often nothing.
    """

    component: str
    layout: str
    prefix: str


def tell(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Kind, ...]:
    """Tells which components tensors belong to, at most one kind for each.

    Args:
        shapes: name -> shape, of all tensors of a file or of a component's files.
    """
    if _other(shapes):
        return ()
    found = {}
    for component, layout, mark in MARKS:
        for prefix in PREFIXES[component]:
            if component not in found and _begins(re.escape(prefix) + mark, shapes):
                found[component] = Kind(component, _saved_by(layout, prefix, shapes), prefix)
    return tuple(found.values())


def describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Says in words what tensors are."""
    parts = " and ".join(kind.component for kind in tell(shapes))
    return _other(shapes) or parts or f"nothing known ({min(shapes, default='no tensors')}, ...)"


def _other(names: Iterable[str]) -> str | None:
    """Says what tensors are that are known and no part of FLUX.1, None if they are none such."""
    return next((what for mark, what in OTHERS if _begins(mark, names)), None)


def _saved_by(layout: str, prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Tells three autoencoders of the same names apart, by where the channels of a kernel lie."""
    shape = shapes.get(prefix + POINTWISE, ())
    if layout != "bfl" or len(shape) < 2:
        return layout
    return "mlx-examples" if len(shape) == 2 else "native" if shape[1:3] == (1, 1) else "bfl"


def _begins(mark: str, names: Iterable[str]) -> bool:
    """Tells whether some name begins so."""
    expression = re.compile(mark)
    return any(expression.match(name) for name in names)
