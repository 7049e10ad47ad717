"""How records show themselves: all fields, but of an array its type and shape; knows no record itself."""

from __future__ import annotations

from dataclasses import fields


class Brief:
    """The base of records that hold arrays: `AttentionMap(weights=float32 (8, 8), word='cat', ...)`.

    Its children are dataclasses made with `repr=False`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Names the fields in their order."""
        shown = ", ".join(f"{field.name}={_shown(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({shown})"


def _shown(value: object) -> str:
    """Says what an array is, of numpy or MLX; shows anything else as it does itself."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).rpartition('.')[2]} {tuple(value.shape)}"
    return repr(value)
