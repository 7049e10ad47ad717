"""FLUX.1 in a notebook: generate pictures, step through how they come to be, and look inside.

    from fluxnb import FluxWidget

    FluxWidget()

The names below are the public ones. Each is fetched from its module on first use, so that
`import fluxnb` stays quick and brings in no widgets, tokenizers or plots. Where MLX cannot run,
`import fluxnb` raises BackendError, which says what to install.
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
