"""Plain value types shared by every layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Projection = Literal["perspective", "equirectangular"]


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """One view of a panorama: where it looks and how much it sees.

    Attributes:
        index: Position among the views of the layout, from 0.
        projection: ``perspective`` is gnomonic; ``equirectangular`` is a longitude-latitude rectangle.
        yaw_deg: Longitude of the centre, positive to the right, in [-180, 180).
        pitch_deg: Latitude of the centre, positive up, in [-90, 90].
        roll_deg: Clockwise roll of the camera; 0 for equirectangular views.
        hfov_deg: Horizontal extent; below 180 for perspective views, up to 360 for equirectangular ones.
        vfov_deg: Vertical extent, independent of `hfov_deg` (pixels need not be square).
        is_global: Whether the view shows the whole sphere.
        letterbox: Whether the picture keeps its aspect ratio and is padded with black (global views only).
        ring: Number of the closed ring of equally spaced views this one belongs to, or None.
    """

    index: int
    projection: Projection
    yaw_deg: float
    pitch_deg: float
    hfov_deg: float
    vfov_deg: float
    roll_deg: float = 0.0
    is_global: bool = False
    letterbox: bool = False
    ring: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
