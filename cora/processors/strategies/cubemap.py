"""cubemap: the four horizontal faces of a cube, front, right, back, left. Uses no option."""

from __future__ import annotations

from cora.geometry.layouts import even_ring
from cora.processors.strategies.options import CropOptions
from cora.types import ViewSpec

__all__ = ["cubemap"]


def cubemap(options: CropOptions) -> list[ViewSpec]:
    """Return the ring of four perspective views of 90 x 90 degrees that touch without overlap."""
    del options
    return even_ring(4, 90.0, 90.0)
