"""resize: the whole panorama squashed into one picture. Uses no option."""

from __future__ import annotations

from cora.processors.strategies.options import CropOptions, whole_sphere
from cora.types import ViewSpec

__all__ = ["resize"]


def resize(options: CropOptions) -> list[ViewSpec]:
    """Return the one squashed global view."""
    del options
    return [whole_sphere(letterbox=False)]
