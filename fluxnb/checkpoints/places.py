"""Where the components of a model lie on the hub, and which files of a repository each needs; opens none.

Nothing else of a repository is downloaded: FLUX.1's hold the weights twice, once for diffusers and once as a
single file.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

STEMS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""What diffusers and transformers call the weights of a component, without `.safetensors`."""

SMALL = {
    "tokenizer_2": ("tokenizer_config.json", "tokenizer.json"),
    "scheduler": ("scheduler_config.json",),
    "model_index": ("model_index.json",),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a component lies on the hub.

    Attributes:
        component: "transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2",
            "scheduler", or "model_index" for the file that says which pipeline a folder of diffusers is.
        repo: the repository, "owner/name".
        path: a folder or a safetensors file in it; "" for its top.
        bits: of a weight in the files: 32, 16, or 4 in groups with a scale and a bias each.
    """

    component: str
    repo: str
    path: str
    bits: int = 16


def diffusers(repo: str) -> tuple[Place, ...]:
    """Gives the places of a repository in the layout of diffusers."""
    folders = (*STEMS, "tokenizer", "tokenizer_2", "scheduler")
    return tuple(Place(folder, repo, folder) for folder in folders)


def diffusionkit(repo: str, file: str, bits: int = 16) -> tuple[Place, ...]:
    """Gives the places of a model of DiffusionKit, which keeps text encoders in a repository of their own.

    DiffusionKit reads the tokenizers of `openai/clip-vit-large-patch14` and `google/t5-v1_1-xxl`. The latter
    holds no tokenizer.json; flan-t5-xxl, which has the same vocabulary, does.

    Args:
        repo: of the transformer.
        file: its weights.
        bits: see `Place`.
    """
    return (
        Place("transformer", repo, file, bits),
        Place("vae", repo, "ae.safetensors", 32),
        Place("text_encoder", "argmaxinc/stable-diffusion", "clip_l/model.fp16.safetensors"),
        Place("text_encoder_2", "argmaxinc/stable-diffusion", "t5/t5xxl.safetensors"),
        Place("tokenizer", "openai/clip-vit-large-patch14", ""),
        Place("tokenizer_2", "google/flan-t5-xxl", ""),
    )


def choose(place: Place, names: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Chooses the files that a component needs.

    Args:
        place: of the component.
        names: of all files in its repository, or in a copy of it.

    Returns:
        The files that are there, and those that are not.
    """
    if place.path.endswith(".safetensors"):
        needed = (place.path,)
    else:
        start = f"{place.path}/" if place.path else ""
        held = {name.removeprefix(start) for name in names if name.startswith(start)}
        needed = tuple(start + name for name in _needed(place.component, held))
    return tuple(name for name in needed if name in names), tuple(n for n in needed if n not in names)


def _needed(component: str, held: Collection[str]) -> tuple[str, ...]:
    """Gives the files that a component needs, by what its folder holds."""
    if component == "tokenizer":
        whole = "tokenizer.json" in held and "vocab.json" not in held
        return ("tokenizer_config.json", *(("tokenizer.json",) if whole else ("vocab.json", "merges.txt")))
    if component in SMALL:
        return SMALL[component]
    stem = STEMS[component]
    index = f"{stem}.safetensors.index.json"
    shard = re.compile(rf"{stem}-\d{{5}}-of-(\d{{5}})\.safetensors")
    counts = sorted({fit[1] for fit in map(shard.fullmatch, held) if fit})
    if not counts and index not in held:
        return ("config.json", f"{stem}.safetensors")
    shards = [f"{stem}-{i:05}-of-{n}.safetensors" for n in counts for i in range(1, int(n) + 1)]
    return ("config.json", index, *(shards or [f"{stem}-*.safetensors"]))
