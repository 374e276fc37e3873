"""e2p: a closed ring of perspective views of the horizon. Uses `fov_deg` and `overlap_ratio`."""

from __future__ import annotations

from cora.geometry.layouts import kept_height_deg, yaw_ring
from cora.processors.strategies.options import CropOptions, check_perspective_fov
from cora.types import ViewSpec

__all__ = ["e2p"]

KEPT_HEIGHT = 0.9


def e2p(options: CropOptions) -> list[ViewSpec]:
    """Return the ring; each view keeps the central 90 % of the rows of a square picture plane."""
    check_perspective_fov(options, "e2p")
    return yaw_ring(options.fov_deg, options.overlap_ratio, vfov_deg=kept_height_deg(options.fov_deg, KEPT_HEIGHT))
