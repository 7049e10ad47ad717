"""`fluxnb generate`: draws a picture from a prompt, with the flags of `diffusionkit-cli`, or from a recipe.

Knows the flags and their order; what they mean to a run is `FluxPipeline.generate_image`'s affair.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from fluxnb import checks, disk
from fluxnb.errors import FluxnbWarning, InputError

if TYPE_CHECKING:
    from fluxnb.checkpoints.adapters import Use
    from fluxnb.checkpoints.catalog import Entry
    from fluxnb.recipe import Recipe
    from fluxnb.settings import Settings
    from fluxnb.source import Source

DEMO = "fluxnb/demo"
OWN = "fluxnb/"  # as in the catalog, which is not read before a name needs it
DENOISE = 0.6  # if a picture is given: diffusers' own, keeps the composition
IN_RECIPE = (
    "steps", "seed", "height", "width", "cfg", "negative_prompt", "guidance", "shift", "denoise", "revision",
    "quantize", "w16", "a16", "lora_scales",
)  # fmt: skip
"""Flags that a recipe answers."""


def register(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "generate",
        help="draw a picture from a prompt",
        description="Draws a picture and prints its path. The flags are those of diffusionkit-cli, and some "
        "more; where a flag is left out, the model's own default holds.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT", help="what to draw")
    what.add_argument(
        "--from", dest="recipe", metavar="PNG", help="draw again a picture that fluxnb saved, from its recipe"
    )

    picture = parser.add_argument_group("the picture")
    add = picture.add_argument
    add("--steps", type=int, metavar="N", help="steps, 1 to 1000")
    add("--seed", type=int, metavar="N", help="seed of the noise; without it one is drawn and told")
    add("--height", type=int, metavar="PIXELS", help="a multiple of 16")
    add("--width", type=int, metavar="PIXELS", help="a multiple of 16")
    add("--cfg", type=float, metavar="W", help="weight of classifier-free guidance; 0 switches it off")
    add("--negative_prompt", "--negative-prompt", metavar="TEXT", help="what to lead away from; needs --cfg")
    add("--guidance", type=float, metavar="G", help="guidance strength, for models that take one")
    add("--shift", type=float, metavar="S", help="shift of the schedule")
    add("--image-path", metavar="FILE", help="picture to start from; without a size it gives the size")
    add(
        "--denoise",
        type=float,
        metavar="D",
        help=f"how much of that picture to draw anew, above 0 to 1 (default: {DENOISE})",
    )

    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("--model-version", metavar="NAME", help=f"name of the model, or its path (default: {DEMO})")
    add("--local-ckpt", metavar="PATH", help="folder or file to take the weights from")
    add("--revision", metavar="REV", help="branch, tag or commit of a model on the hub")
    add("--quantize", type=int, metavar="BITS", help="keep the weights in 3, 4, 6 or 8 bits")
    add("--w16", action="store_true", help="keep the weights in 16 bits")
    add("--a16", action="store_true", help="compute in 16 bits")
    add("--t5", action="store_true", help="for diffusionkit-cli's sake: FLUX.1 always reads by T5")
    add(
        "--no-low-memory-mode",
        dest="low_memory_mode",
        action="store_false",
        default=None,
        help="keep all networks in memory at once; the demo model always does",
    )
    add("--lora-paths", nargs="+", default=[], metavar="FILE", help="LoRA adapters to draw with")
    add("--lora-scales", nargs="+", type=float, metavar="S", help="the strength of each (default: 1)")
    add("--preload-models", action="store_true", help="read the text encoders before all else")

    output = parser.add_argument_group("the output")
    add = output.add_argument
    add("--output-path", "-o", default="out.png", metavar="FILE", help="default: out.png; is written over")
    add(
        "--metadata",
        action=argparse.BooleanOptionalAction,
        help="whether the PNG carries its recipe, prompt included (default: yes)",
    )
    add("--verbose", "-v", action="store_true", help="tell times and memory")
    add(
        "--benchmark-mode",
        action="store_true",
        help="draw one step first, which is thrown away, keep all networks in memory, and tell times",
    )
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    """Draws the picture; what can be known to be wrong is said before the model is loaded."""
    # Late: these bring in the networks, which `fluxnb --help` has no use for.
    from fluxnb import images, recipe, source
    from fluxnb.pipeline import FluxPipeline

    scales = _scales(chosen)
    is_png = images.form_of(chosen.output_path) == "png"
    if chosen.metadata and not is_png:
        raise InputError(
            f"only a PNG carries a recipe, and {chosen.output_path} is none; leave out --metadata"
        )
    disk.check(chosen.output_path)
    start = None if chosen.image_path is None else source.read(chosen.image_path)
    if chosen.recipe is None:
        again = None
        _check(chosen)
        loading = _loading(chosen)
    else:
        again = recipe.read(chosen.recipe)
        loading = _loading_again(chosen, again, start)
    if chosen.low_memory_mode is not None or chosen.benchmark_mode:
        loading["low_memory_mode"] = False
    pipeline = FluxPipeline(**loading)
    for path, scale in zip(chosen.lora_paths, scales, strict=True):
        pipeline.load_lora_weights(path, scale=scale)
    if again is None:
        settings = replace(_settings(chosen, pipeline.entry, start), adapters=pipeline.adapters)
    else:
        settings = again.settings
        _check_adapters(chosen, settings, pipeline.adapters)

    if chosen.preload_models or chosen.benchmark_mode:
        pipeline.ensure_models_are_loaded()
    if chosen.benchmark_mode:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come with the picture
            pipeline.draw(replace(settings, sigmas=settings.sigmas[-2:]), start)
    image, log = pipeline.draw(settings, start, verbose=True)
    is_told = is_png and chosen.metadata is not False
    recipe.save(image, chosen.output_path, log["recipe"] if is_told else None)
    print(_summary(log, chosen.verbose or chosen.benchmark_mode), file=sys.stderr)
    print(chosen.output_path)
    return 0


def _scales(chosen: argparse.Namespace) -> list[float]:
    """Gives the strength of each adapter."""
    paths = chosen.lora_paths
    if chosen.lora_scales is None:
        return [1.0] * len(paths)
    if len(chosen.lora_scales) != len(paths):
        raise InputError(
            f"--lora-scales has {len(chosen.lora_scales)} strengths for {len(paths)} adapters in "
            "--lora-paths; give one for each"
        )
    return [checks.number("--lora-scales", scale) for scale in chosen.lora_scales]


def _check_adapters(chosen: argparse.Namespace, settings: Settings, adapters: tuple[Use, ...]) -> None:
    """Refuses to draw a recipe with other adapters than its own; a recipe opens no files by itself."""
    wanted, given = ({use.digest: use.name for use in uses} for uses in (settings.adapters, adapters))
    if wanted.keys() - given.keys():
        names = ", ".join(map(repr, wanted.values()))
        raise InputError(f"{chosen.recipe} was drawn with the adapters {names}; name them: --lora-paths FILE")
    if given.keys() - wanted.keys():
        name = next(name for digest, name in given.items() if digest not in wanted)
        raise InputError(f"{chosen.recipe} was drawn without the adapter {name!r}; leave it out")


def _check(chosen: argparse.Namespace) -> None:
    """Refuses what no model can draw, by the names of the flags; else it would be said after minutes."""
    from fluxnb import flow

    checks.text("--prompt", chosen.prompt)
    checks.optional(checks.text, "--negative_prompt", chosen.negative_prompt)
    checks.optional(checks.whole, "--steps", chosen.steps, 1, flow.MAX_STEPS)
    checks.optional(checks.whole, "--seed", chosen.seed, *flow.SEEDS)
    checks.optional(checks.number, "--cfg", chosen.cfg, low=0)
    checks.optional(checks.number, "--guidance", chosen.guidance, low=0)
    checks.optional(checks.number, "--shift", chosen.shift, above=0)
    checks.optional(checks.number, "--denoise", chosen.denoise, above=0, high=1)
    _sides(chosen)


def _loading(chosen: argparse.Namespace) -> dict:
    """Gives the arguments of `FluxPipeline`."""
    model = chosen.model_version or DEMO
    loading = {name: getattr(chosen, name) for name in ("local_ckpt", "revision", "quantize", "w16", "a16")}
    is_demo = model.lower().startswith(OWN) and chosen.local_ckpt is None
    return _given(loading | {"model_version": model, "low_memory_mode": not is_demo})


def _given(loading: dict) -> dict:
    """Leaves out what is None, the pipeline's own default."""
    return {name: value for name, value in loading.items() if value is not None}


def _sides(chosen: argparse.Namespace) -> tuple[int | None, int | None]:
    """Gives height and width in latent cells, as far as they are asked for."""
    sides = (("--height", chosen.height), ("--width", chosen.width))
    return tuple(None if side is None else checks.cells(name, side) for name, side in sides)


def _settings(chosen: argparse.Namespace, entry: Entry, start: Source | None) -> Settings:
    """Gives what is to be drawn."""
    from fluxnb.settings import fill_in, warn_of_no_effect

    own = entry.latent_size if start is None else start.latent_size(entry.latent_size)
    denoise = chosen.denoise if chosen.denoise is not None else 1.0 if start is None else DENOISE
    settings = fill_in(
        entry,
        chosen.prompt,
        seed=chosen.seed,
        num_steps=chosen.steps,
        shift=chosen.shift,
        guidance=chosen.guidance,
        cfg_weight=chosen.cfg,
        negative_text=chosen.negative_prompt or "",
        latent_size=tuple(side or other for side, other in zip(_sides(chosen), own, strict=True)),
        image=start,
        denoise=denoise,
    )
    warn_of_no_effect(entry, settings, chosen.guidance, chosen.negative_prompt, denoise)
    return settings


def _loading_again(chosen: argparse.Namespace, again: Recipe, start: Source | None) -> dict:
    """Gives the arguments of `FluxPipeline` for a recipe, or says what else has to be named.

    A recipe comes from whoever made the picture, so it never decides by itself what is downloaded or which
    files are opened.
    """
    from fluxnb.recipe import differing

    picture = chosen.recipe
    for flag in IN_RECIPE:
        value = getattr(chosen, flag)
        if value is not None and value is not False:  # but 0 is an answer
            raise InputError(f"--from takes {flag} from {picture}; leave out --{flag.replace('_', '-')}")
    if (start and start.digest) != again.settings.image:
        if again.settings.image is None:
            raise InputError(f"{picture} was drawn from no other picture; leave out --image-path")
        raise InputError(
            f"{picture} was drawn from another picture, of which it has the SHA-256 of the pixels only, "
            f"{again.settings.image[:12]}...; name that one: --image-path FILE"
        )
    name = chosen.model_version
    if chosen.local_ckpt is None:
        if again.is_own and name is None:
            raise InputError(
                f"{picture} was drawn with weights of its maker's own, {again.model!r}; "
                "name them: --local-ckpt PATH"
            )
        if not again.is_own and (name or DEMO).lower() != again.model.lower():
            raise InputError(
                f"{picture} was drawn by {again.model!r}; name it to have it loaded, and downloaded if it is "
                "not in the cache: --model-version NAME"
            )
    if changed := differing(again):
        warnings.warn(
            f"{picture} was drawn by {changed}; the last bits may differ", FluxnbWarning, stacklevel=2
        )
    loading = asdict(again.loading) | {"model_version": name or DEMO, "local_ckpt": chosen.local_ckpt}
    if chosen.local_ckpt is not None:
        loading["revision"] = None  # of the files on the hub, not of these
    return _given(loading)


def _summary(log: dict, is_long: bool) -> str:
    """Says what was drawn and how long it took."""
    phases = ("text_encoding", "denoising", "decoding")
    steps = len(log["denoising"]["iter_time"])
    size = f"{log['width']} x {log['height']} pixels"
    count = f"{steps} step{'s' * (steps != 1)}"
    lines = [f"seed {log['seed']}, {size}, {count}, {log['total_time']:.1f} s"]
    if is_long:
        lines += [
            f"{phase.replace('_', ' ')}: {log[phase]['time']:.3f} s, "
            f"{log[phase]['post']['peak_memory']:.3f} GB at most"
            for phase in phases
        ]
    return "\n".join(lines)
