"""anyres_e2p: the whole sphere, letterboxed, then rings of perspective views. Uses all options but `max_patches`."""

from __future__ import annotations

from cora.geometry.layouts import pitch_rows, yaw_ring
from cora.processors.strategies.options import CropOptions, check_perspective_fov, whole_sphere
from cora.types import ViewSpec

__all__ = ["anyres_e2p"]


def anyres_e2p(options: CropOptions) -> list[ViewSpec]:
    """Return the global view and one closed ring of square views for each row of latitudes, from the bottom up."""
    check_perspective_fov(options, "anyres_e2p")
    views = [whole_sphere(letterbox=True)]
    rows = pitch_rows(options.pitch_min_deg, options.pitch_max_deg, options.fov_deg, options.overlap_ratio)
    for ring, pitch_deg in enumerate(rows):
        views += yaw_ring(
            options.fov_deg, options.overlap_ratio, pitch_deg=pitch_deg, ring=ring, first_index=len(views)
        )
    return views
