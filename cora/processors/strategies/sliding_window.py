"""sliding_window: a closed ring of rectangles cut from the panorama. Uses `fov_deg` and `overlap_ratio`."""

from __future__ import annotations

from cora.geometry.layouts import yaw_ring
from cora.processors.strategies.options import CropOptions
from cora.types import ViewSpec

__all__ = ["sliding_window"]

# A twelfth of the rows, mostly tripod and sky, is cut at the top and at the bottom.
HEIGHT_DEG = 180.0 * (1 - 2 / 12)


def sliding_window(options: CropOptions) -> list[ViewSpec]:
    """Return the ring of equirectangular views, `fov_deg` wide and 150 degrees high; yaw is the centre of each."""
    return yaw_ring(options.fov_deg, options.overlap_ratio, vfov_deg=HEIGHT_DEG, projection="equirectangular")
