"""View layouts on the sphere: closed rings of yaws, rows of pitches, and the rings of a list of views.

Owns how many views a ring needs and where they look; the strategies in `cora.processors.strategies` combine rings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from cora.errors import GeometryError
from cora.geometry.sphere import wrap_yaw_deg
from cora.types import Projection, ViewSpec

__all__ = ["even_ring", "kept_height_deg", "pitch_rows", "renumber", "ring_size", "rings", "yaw_ring"]


def ring_size(hfov_deg: float, overlap_ratio: float) -> int:
    """Return how many views of width `hfov_deg` close the circle with at least the overlap asked for.

    Convention: ceil(360 / (hfov * (1 - overlap))). 90 degrees give 8 views at overlap 0.5 and 4 at 0; 45 degrees give
    11 at 0.25.

    Raises:
        GeometryError: The field of view is not in (0, 360] or the overlap not in [0, 1).
    """
    if not 0.0 < hfov_deg <= 360.0:
        raise GeometryError(f"fov_deg of a ring of views is in (0, 360], got {hfov_deg:g}")
    if not 0.0 <= overlap_ratio < 1.0:
        raise GeometryError(f"overlap_ratio is in [0, 1), got {overlap_ratio:g}")
    # The tolerance keeps 360 / (90 * (1 - 0.9)) at 40 although it comes out as 40.00000000000001.
    return max(1, math.ceil(360.0 / (hfov_deg * (1.0 - overlap_ratio)) - 1e-6))


def even_ring(
    count: int,
    hfov_deg: float,
    vfov_deg: float,
    *,
    pitch_deg: float = 0.0,
    projection: Projection = "perspective",
    ring: int | None = 0,
    first_index: int = 0,
) -> list[ViewSpec]:
    """Return `count` views equally spaced around the circle, ordered by yaw modulo 360 from yaw 0.

    A single view is no ring: it has no neighbour, and its `ring` is None.

    Args:
        count: How many views; 0 gives none.
        hfov_deg: Width of each view in degrees.
        vfov_deg: Height of each view in degrees.
        pitch_deg: Latitude of the view centres.
        projection: Projection of each view.
        ring: Ring number written to the views.
        first_index: Index of the first view.
    """
    return [
        ViewSpec(
            index=first_index + position,
            projection=projection,
            yaw_deg=wrap_yaw_deg(position * 360.0 / count),
            pitch_deg=pitch_deg,
            hfov_deg=hfov_deg,
            vfov_deg=vfov_deg,
            ring=ring if count > 1 else None,
        )
        for position in range(count)
    ]


def yaw_ring(
    hfov_deg: float,
    overlap_ratio: float,
    *,
    pitch_deg: float = 0.0,
    vfov_deg: float | None = None,
    projection: Projection = "perspective",
    ring: int | None = 0,
    first_index: int = 0,
) -> list[ViewSpec]:
    """Return the closed ring of views with at least the overlap asked for; see `ring_size` and `even_ring`.

    Args:
        hfov_deg: Width of each view in degrees.
        overlap_ratio: Smallest overlap of neighbours as a fraction of `hfov_deg`, in [0, 1).
        pitch_deg: Latitude of the view centres.
        vfov_deg: Height of each view in degrees; `hfov_deg` when None.
        projection: Projection of each view.
        ring: Ring number written to the views.
        first_index: Index of the first view.

    Convention: a 90 degree ring at overlap 0.5 looks at 0, 45, 90, 135, -180, -135, -90, -45; view 0 looks at the
    centre of the panorama, and the last view is a neighbour of the first.
    """
    return even_ring(
        ring_size(hfov_deg, overlap_ratio),
        hfov_deg,
        hfov_deg if vfov_deg is None else vfov_deg,
        pitch_deg=pitch_deg,
        projection=projection,
        ring=ring,
        first_index=first_index,
    )


def pitch_rows(pitch_min_deg: float, pitch_max_deg: float, vfov_deg: float, overlap_ratio: float) -> list[float]:
    """Return the centre latitudes (degrees, from the bottom up) of the rows that cover a band of latitudes.

    Equal limits give one row at that latitude. Otherwise the rows' pictures lie within the band, equally spaced, the
    lowest starting at `pitch_min_deg` and the highest ending at `pitch_max_deg`, with at least the overlap asked for;
    a band lower than one picture gives one row at its middle.

    Raises:
        GeometryError: Limits outside [-90, 90] or in the wrong order, or an impossible overlap.
    """
    if not -90.0 <= pitch_min_deg <= pitch_max_deg <= 90.0:
        raise GeometryError(
            f"pitch_min_deg <= pitch_max_deg within [-90, 90] is needed, got {pitch_min_deg:g} and {pitch_max_deg:g}"
        )
    if not 0.0 <= overlap_ratio < 1.0:
        raise GeometryError(f"overlap_ratio is in [0, 1), got {overlap_ratio:g}")
    lowest, highest = pitch_min_deg + vfov_deg / 2, pitch_max_deg - vfov_deg / 2
    if pitch_min_deg == pitch_max_deg or highest - lowest < 1e-9:
        return [(pitch_min_deg + pitch_max_deg) / 2]
    gaps = max(1, math.ceil((highest - lowest) / (vfov_deg * (1.0 - overlap_ratio)) - 1e-6))
    return [lowest + (highest - lowest) * gap / gaps for gap in range(gaps + 1)]


def rings(views: Sequence[ViewSpec]) -> list[list[int]]:
    """Return the positions (in `views`) of each closed ring's members, in ring order, rings by number.

    Views without a ring are left out.
    """
    members: dict[int, list[int]] = {}
    for position, view in enumerate(views):
        if view.ring is not None:
            members.setdefault(view.ring, []).append(position)
    return [members[ring] for ring in sorted(members)]


def renumber(views: Sequence[ViewSpec]) -> list[ViewSpec]:
    """Return the views with `index` set to their position."""
    return [replace(view, index=position) for position, view in enumerate(views)]


def kept_height_deg(fov_deg: float, kept: float) -> float:
    """Return the vertical field of view (degrees) when only the central part `kept` of a picture plane's rows is kept.

    Convention: 0.9 of a 90 degree view is 2 * atan(0.9 * tan(45 degrees)) = 83.97 degrees, not 81.
    """
    return math.degrees(2 * math.atan(kept * math.tan(math.radians(fov_deg) / 2)))
