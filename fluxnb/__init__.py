"""FLUX.1 in a notebook: generate pictures, step through how they come to be, and look inside.

    from fluxnb import FluxWidget

    FluxWidget()

The names below are the public ones. Each is fetched from its module on first use, so that
`import fluxnb` stays quick and brings in no widgets, tokenizers or plots. Where MLX cannot run,
`import fluxnb` raises BackendError, which says what to install.

Where to look for what:

    a picture       pipeline.py       the four networks together; texts, latents, pictures
                    settings.py       all that decides a picture, checked, defaults filled in
                    flow.py           schedule, noise, Euler's step, as pure functions
                    texts.py          a text as the transformer reads it
                    advice.py         what to know before: lost texts, unknown words and sizes
                    source.py         a picture to start from
                    given.py          own latents and embeddings
                    adapting.py       LoRA adapters beside the weights
                    drawing.py        the whole way at once, with what it took
                    decoding.py       latents to pictures and back
                    images.py         pictures to PNG, JPEG, WebP; heat maps
                    recipe.py         all that draws a picture again, in its PNG
                    diffusionkit.py   DiffusionKit's calls

    a run           session.py        starts runs, opens saved ones, sweeps
                    run.py            steps, forks, replay
                    questions.py      what else a run can be asked
                    family.py         the tree of forks
                    bisection.py      the step at which a picture is decided
                    trajectory.py     its way: speed, turns, errors, guidance
                    saved.py          a run as a file
                    identity.py       which model drew it
                    sweep.py          many runs, here or by an executor

    attention       probe.py          what can be asked for, and its names
                    look.py           repeats steps of a run and makes maps of them
                    asked.py          from probes to readers, from readings to maps
                    listen.py         attention functions that listen, and their formulas
                    concepts.py       ConceptAttention
                    maps.py           the records that come of it
                    trust.py          how well such maps find objects

    interventions   interventions.py  cut, scale, swap; heads and blocks
                    altered.py        the attention function that does it
                    effect.py         what it does to a step

    models          checkpoints/      files of every layout to networks
                    model/            the networks
                    backend/          MLX made ready for this machine
                    memory.py         what a run would take
                    demo/             the model that comes with fluxnb
                    training/         how that was made and measured

    to be seen      widgets/          FluxWidget, and the page that it writes
                    plots/            figures
                    cli.py            the command `fluxnb`, whose parts are in commands/

    for all         errors.py         everything raised or warned of
                    checks.py         arguments checked where they enter
                    brief.py          records that show themselves in a line
                    disk.py           files written whole or not at all
                    interrupts.py     Ctrl-C that is never lost
                    version.py        the version
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fluxnb import backend as backend  # raises BackendError where MLX cannot run
from fluxnb.errors import (
    BackendError,
    CheckpointError,
    DownloadError,
    FluxnbError,
    FluxnbWarning,
    InputError,
    PromptWarning,
    UnknownModelError,
)
from fluxnb.version import __version__

if TYPE_CHECKING:
    from fluxnb.effect import Effect
    from fluxnb.flow import Step
    from fluxnb.interventions import Intervention
    from fluxnb.maps import AttentionMap, ConceptMaps, Ledger
    from fluxnb.pipeline import FluxPipeline
    from fluxnb.probe import Probe
    from fluxnb.run import Run
    from fluxnb.session import FluxSession
    from fluxnb.widgets import FluxWidget

__all__ = [
    "AttentionMap",
    "BackendError",
    "CheckpointError",
    "ConceptMaps",
    "DownloadError",
    "Effect",
    "FluxPipeline",
    "FluxSession",
    "FluxWidget",
    "FluxnbError",
    "FluxnbWarning",
    "InputError",
    "Intervention",
    "Ledger",
    "Probe",
    "PromptWarning",
    "Run",
    "Step",
    "UnknownModelError",
    "__version__",
]

_HOMES = {
    "AttentionMap": "fluxnb.maps",
    "ConceptMaps": "fluxnb.maps",
    "Effect": "fluxnb.effect",
    "FluxPipeline": "fluxnb.pipeline",
    "FluxSession": "fluxnb.session",
    "FluxWidget": "fluxnb.widgets",
    "Intervention": "fluxnb.interventions",
    "Ledger": "fluxnb.maps",
    "Probe": "fluxnb.probe",
    "Run": "fluxnb.run",
    "Step": "fluxnb.flow",
}


def __getattr__(name: str) -> Any:
    """Fetches a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fluxnb' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, fetched yet or not, for completion."""
    return __all__
