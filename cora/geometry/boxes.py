"""Boxes on the sphere: their solid angle, how much two of them share, and their intersection over union.

A box is the field of view of an upright perspective camera: yaw and pitch of its centre, and the angles across its
middle. Its four sides are arcs of great circles, so it may lie across the seam or over a pole like anywhere else.
Knows nothing of pixels.

Reference: J. Dai et al., "Unbiased IoU for Spherical Image Object Detection", AAAI 2022, for boxes with sides of great
circles and the solid angle 4 arcsin(sin(hfov/2) sin(vfov/2)); here the shared part is found by clipping polygons
(I. E. Sutherland and G. W. Hodgman, 1974, with planes through the centre) and its area by the triangles of A. van
Oosterom and J. Strackee, "The Solid Angle of a Plane Triangle", 1983, equation 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from cora.errors import GeometryError
from cora.geometry.camera import rotation_matrix

__all__ = ["SphericalBox", "box_area", "box_intersection", "box_iou"]

_Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class SphericalBox:
    """A box on the sphere, in degrees.

    Attributes:
        yaw_deg: Yaw of the centre; any value, wraps.
        pitch_deg: Pitch of the centre, in [-90, 90].
        hfov_deg: Angle across the middle of the box from left to right, above 0 and below 180.
        vfov_deg: Angle across the middle from top to bottom, above 0 and below 180.
    """

    yaw_deg: float
    pitch_deg: float
    hfov_deg: float
    vfov_deg: float

    def __post_init__(self) -> None:
        """Raise GeometryError where the angles describe no box."""
        if not math.isfinite(self.yaw_deg) or not -90.0 <= self.pitch_deg <= 90.0:
            raise GeometryError(
                f"the centre of a box has a pitch in [-90, 90], got yaw {self.yaw_deg:g}, pitch {self.pitch_deg:g}"
            )
        if not (0.0 < self.hfov_deg < 180.0 and 0.0 < self.vfov_deg < 180.0):
            raise GeometryError(
                f"a box is above 0 and below 180 degrees wide and high, got {self.hfov_deg:g} x {self.vfov_deg:g}"
            )

    def contains(self, yaw_deg: float, pitch_deg: float) -> bool:
        """Return whether a direction lies in the box, its sides included."""
        point = _direction(math.radians(yaw_deg), math.radians(pitch_deg))
        return all(_dot(normal, point) >= -1e-12 for normal in _normals(self))


def box_area(box: SphericalBox) -> float:
    """Return the solid angle of a box in steradians.

    Convention: 90 x 90 degrees, a face of the cube, is 4 pi / 6.
    """
    across, down = math.radians(box.hfov_deg) / 2, math.radians(box.vfov_deg) / 2
    return 4.0 * math.asin(math.sin(across) * math.sin(down))


def box_intersection(first: SphericalBox, second: SphericalBox) -> float:
    """Return the solid angle that two boxes share, in steradians."""
    polygon = _corners(first)
    for normal in _normals(second):
        polygon = _clipped(polygon, normal)
        if len(polygon) < 3:
            return 0.0
    area = sum(_triangle_area(polygon[0], b, c) for b, c in pairwise(polygon[1:]))
    return min(abs(area), box_area(first), box_area(second))


def box_iou(first: SphericalBox, second: SphericalBox) -> float:
    """Return the intersection over union of two boxes, in [0, 1]."""
    shared = box_intersection(first, second)
    return shared / (box_area(first) + box_area(second) - shared)


def _corners(box: SphericalBox) -> list[_Vector]:
    """Return the corners of a box in order around it."""
    right, up = math.tan(math.radians(box.hfov_deg) / 2), math.tan(math.radians(box.vfov_deg) / 2)
    return _to_world(box, [(-right, up, 1.0), (right, up, 1.0), (right, -up, 1.0), (-right, -up, 1.0)])


def _normals(box: SphericalBox) -> list[_Vector]:
    """Return the inward normals of the planes through the four sides."""
    across, down = math.radians(box.hfov_deg) / 2, math.radians(box.vfov_deg) / 2
    sides = [
        (math.cos(across), 0.0, math.sin(across)),
        (-math.cos(across), 0.0, math.sin(across)),
        (0.0, math.cos(down), math.sin(down)),
        (0.0, -math.cos(down), math.sin(down)),
    ]
    return _to_world(box, sides)


def _to_world(box: SphericalBox, vectors: list[_Vector]) -> list[_Vector]:
    rotation = rotation_matrix(math.radians(box.yaw_deg), math.radians(box.pitch_deg))
    turned = torch.tensor(vectors, dtype=torch.float64) @ rotation.T
    return [_unit((x, y, z)) for x, y, z in turned.tolist()]


def _clipped(polygon: list[_Vector], normal: _Vector) -> list[_Vector]:
    """Return the part of a convex polygon on the inner side of a plane through the centre."""
    kept: list[_Vector] = []
    heights = [_dot(normal, corner) for corner in polygon]
    for index, corner in enumerate(polygon):
        before, height_before, height = polygon[index - 1], heights[index - 1], heights[index]
        if (height_before < 0.0) != (height < 0.0):
            # The point of the chord in the plane, pushed out to the sphere, is where the arc crosses it.
            share = height_before / (height_before - height)
            x, y, z = (a + share * (b - a) for a, b in zip(before, corner, strict=True))
            kept.append(_unit((x, y, z)))
        if height >= 0.0:
            kept.append(corner)
    return kept


def _triangle_area(a: _Vector, b: _Vector, c: _Vector) -> float:
    """Return the signed solid angle of a triangle of unit vectors."""
    return 2.0 * math.atan2(_dot(a, _cross(b, c)), 1.0 + _dot(a, b) + _dot(b, c) + _dot(c, a))


def _direction(lon: float, lat: float) -> _Vector:
    return math.cos(lat) * math.sin(lon), math.sin(lat), math.cos(lat) * math.cos(lon)


def _dot(a: _Vector, b: _Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: _Vector, b: _Vector) -> _Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _unit(a: _Vector) -> _Vector:
    length = math.sqrt(_dot(a, a))
    return a[0] / length, a[1] / length, a[2] / length
