"""anyres: the whole sphere, crops of the horizon, columns, perspective views. Uses `max_patches` and `fov_deg`."""

from __future__ import annotations

from cora.geometry.layouts import even_ring, kept_height_deg
from cora.processors.strategies.options import CropOptions, check_perspective_fov, whole_sphere
from cora.types import ViewSpec

__all__ = ["anyres"]

MOST_COLUMNS = 6
HORIZON_HEIGHT_DEG = 90.0
KEPT_HEIGHT = 0.8


def anyres(options: CropOptions) -> list[ViewSpec]:
    """Return exactly 1 + `max_patches` views.

    First the squashed global view; then n = min(6, max_patches // 2) crops of the horizon, 360 / n degrees wide, and n
    columns of the same width from pole to pole; the rest are perspective views of `fov_deg` that keep 80 % of their
    height, evenly spaced around the horizon. A single column would repeat the global view and is left out.
    """
    check_perspective_fov(options, "anyres")
    views = [whole_sphere(letterbox=False)]
    count = min(MOST_COLUMNS, options.max_patches // 2)
    for ring, height_deg in enumerate((HORIZON_HEIGHT_DEG, 180.0)):
        if count == 1 and height_deg == 180.0:
            continue
        views += even_ring(
            count, 360.0 / max(1, count), height_deg, projection="equirectangular", ring=ring, first_index=len(views)
        )
    rest = options.max_patches + 1 - len(views)
    vfov_deg = kept_height_deg(options.fov_deg, KEPT_HEIGHT)
    return views + even_ring(rest, options.fov_deg, vfov_deg, ring=2, first_index=len(views))
