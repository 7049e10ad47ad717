"""Widgets for notebooks; knows sessions, the records of maps, and pictures, but no networks."""

from fluxnb.widgets.flux import FluxWidget

__all__ = ["FluxWidget"]
