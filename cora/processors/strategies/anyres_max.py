"""anyres_max: the whole sphere, a grid of its cells, then perspective views. Uses `max_patches` and `fov_deg`."""

from __future__ import annotations

from cora.geometry.layouts import even_ring
from cora.processors.strategies.options import CropOptions, check_perspective_fov, whole_sphere
from cora.types import ViewSpec

__all__ = ["anyres_max"]

MOST_COLUMNS = 6
MOST_ROWS = 3


def anyres_max(options: CropOptions) -> list[ViewSpec]:
    """Return exactly 1 + `max_patches` views.

    First the squashed global view; then a grid of equirectangular cells that tile the panorama, row by row from the
    top: min(6, max_patches // 2) columns and min(3, max_patches // columns) rows, each at least one; the rest are
    square perspective views of `fov_deg`, evenly spaced around the horizon. A grid of a single cell would repeat the
    global view and is left out.
    """
    check_perspective_fov(options, "anyres_max")
    views = [whole_sphere(letterbox=False)]
    columns = min(MOST_COLUMNS, max(1, options.max_patches // 2))
    rows = min(MOST_ROWS, max(1, options.max_patches // columns))
    height_deg = 180.0 / rows
    for row in range(rows if rows * columns > 1 else 0):
        views += even_ring(
            columns,
            360.0 / columns,
            height_deg,
            pitch_deg=90.0 - (row + 0.5) * height_deg,
            projection="equirectangular",
            ring=row,
            first_index=len(views),
        )
    rest = options.max_patches + 1 - len(views)
    return views + even_ring(rest, options.fov_deg, options.fov_deg, ring=MOST_ROWS, first_index=len(views))
