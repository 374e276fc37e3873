"""View cameras: which world ray each pixel of a view sees, and where in a view a world ray lands.

Owns rotations, the two projections of `cora.types.ViewSpec` and the letterbox box; knows nothing of panorama pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cora.errors import GeometryError
from cora.geometry.sphere import direction_to_lonlat, lonlat_to_direction, wrap_longitude
from cora.types import ViewSpec

__all__ = ["check_view", "content_box", "content_mask", "project_to_view", "rays_at", "rotation_matrix", "view_rays"]


def check_view(spec: ViewSpec) -> None:
    """Raise GeometryError when the angles of `spec` describe nothing that can be rendered."""
    flat = spec.projection == "perspective"
    for name, value, largest in (
        ("hfov_deg", spec.hfov_deg, 180.0 if flat else 360.0),
        ("vfov_deg", spec.vfov_deg, 180.0),
    ):
        if not 0.0 < value <= largest or (flat and value == largest):
            bound = f"above 0 and {'below' if flat else 'at most'} {largest:g}"
            raise GeometryError(f"view {spec.index}: {name} of a {spec.projection} view is {bound}, got {value:g}")
    if not -90.0 <= spec.pitch_deg <= 90.0:
        raise GeometryError(f"view {spec.index}: pitch_deg is in [-90, 90], got {spec.pitch_deg:g}")
    if spec.projection == "equirectangular" and spec.roll_deg != 0.0:
        raise GeometryError(f"view {spec.index}: an equirectangular view cannot roll, got roll_deg {spec.roll_deg:g}")


def rotation_matrix(yaw_rad: float, pitch_rad: float, roll_rad: float = 0.0) -> Tensor:
    """Return the camera-to-world rotation float64[3, 3]: roll first, then pitch, then yaw.

    Convention: yaw turns right, pitch turns up, roll turns the camera clockwise as seen from behind it. The forward
    ray (0, 0, 1) at yaw 90 degrees becomes (1, 0, 0), at pitch 90 degrees (0, 1, 0); the camera's up vector (0, 1, 0)
    at roll 90 degrees becomes (1, 0, 0).
    """
    cos_yaw, sin_yaw = math.cos(yaw_rad), math.sin(yaw_rad)
    cos_pitch, sin_pitch = math.cos(pitch_rad), math.sin(pitch_rad)
    cos_roll, sin_roll = math.cos(roll_rad), math.sin(roll_rad)
    yaw = torch.tensor([[cos_yaw, 0, sin_yaw], [0, 1, 0], [-sin_yaw, 0, cos_yaw]], dtype=torch.float64)
    pitch = torch.tensor([[1, 0, 0], [0, cos_pitch, sin_pitch], [0, -sin_pitch, cos_pitch]], dtype=torch.float64)
    roll = torch.tensor([[cos_roll, sin_roll, 0], [-sin_roll, cos_roll, 0], [0, 0, 1]], dtype=torch.float64)
    return yaw @ pitch @ roll


def content_box(spec: ViewSpec, height: int, width: int) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the part of a height x width view that shows the scene, in whole pixels.

    Convention: a letterboxed view keeps degrees per pixel equal on both axes and centres the picture; the odd pixel
    goes to the bottom or right. 360 x 180 degrees in 224 x 224 pixels is (56, 0, 112, 224).
    """
    if not spec.letterbox:
        return 0, 0, height, width
    pixels_per_degree = min(width / spec.hfov_deg, height / spec.vfov_deg)
    box_height = min(height, max(1, round(spec.vfov_deg * pixels_per_degree)))
    box_width = min(width, max(1, round(spec.hfov_deg * pixels_per_degree)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def content_mask(spec: ViewSpec, height: int, width: int) -> Tensor:
    """Return bool[height, width]: True where the view shows the scene, False on letterbox bars."""
    top, left, box_height, box_width = content_box(spec, height, width)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + box_height, left : left + box_width] = True
    return mask


def view_rays(spec: ViewSpec, height: int, width: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the world rays of the pixel centres of a view.

    Args:
        spec: The view; angles in degrees.
        height: Rows of the view in pixels.
        width: Columns of the view in pixels.
        dtype: Floating dtype of the result; the computation is in float64.

    Returns:
        Unit rays, float[height, width, 3]. On letterbox bars (see `content_mask`) they mean nothing.
    """
    rows = torch.arange(height, dtype=torch.float64) + 0.5
    columns = torch.arange(width, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return rays_at(spec, x, y, height, width).to(dtype)


def rays_at(spec: ViewSpec, x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Return the unit world rays float64[..., 3] at continuous view coordinates.

    Args:
        spec: The view.
        x: Columns, float[...]; pixel centres at half-integers.
        y: Rows, float[...].
        height: Rows of the view in pixels.
        width: Columns of the view in pixels.
    """
    check_view(spec)
    top, left, box_height, box_width = content_box(spec, height, width)
    across = (x.double() - left) / box_width - 0.5
    down = (y.double() - top) / box_height - 0.5
    yaw_rad, pitch_rad = math.radians(spec.yaw_deg), math.radians(spec.pitch_deg)
    hfov_rad, vfov_rad = math.radians(spec.hfov_deg), math.radians(spec.vfov_deg)
    if spec.projection == "equirectangular":
        return lonlat_to_direction(yaw_rad + across * hfov_rad, pitch_rad - down * vfov_rad)
    plane_x = 2 * across * math.tan(hfov_rad / 2)
    plane_y = -2 * down * math.tan(vfov_rad / 2)
    rays = torch.stack([plane_x, plane_y, torch.ones_like(plane_x)], dim=-1)
    rays = rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True)
    return torch.matmul(rays, rotation_matrix(yaw_rad, pitch_rad, math.radians(spec.roll_deg)).T)


def project_to_view(rays: Tensor, spec: ViewSpec, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where world rays land in a view.

    Args:
        rays: float[..., 3] world directions.
        spec: The view.
        height: Rows of the view in pixels.
        width: Columns of the view in pixels.

    Returns:
        x float64[...] and y float64[...], continuous view coordinates, and visible bool[...]: inside the picture (and
        in front of the camera). Coordinates of invisible rays are finite but mean nothing.
    """
    check_view(spec)
    rays = rays.double()
    top, left, box_height, box_width = content_box(spec, height, width)
    hfov_rad, vfov_rad = math.radians(spec.hfov_deg), math.radians(spec.vfov_deg)
    yaw_rad, pitch_rad = math.radians(spec.yaw_deg), math.radians(spec.pitch_deg)
    if spec.projection == "equirectangular":
        lon, lat = direction_to_lonlat(rays)
        across = wrap_longitude(lon - yaw_rad) / hfov_rad
        down = (pitch_rad - lat) / vfov_rad
        in_front = torch.ones_like(lon, dtype=torch.bool)
    else:
        local = torch.matmul(rays, rotation_matrix(yaw_rad, pitch_rad, math.radians(spec.roll_deg)))
        in_front = local[..., 2] > 1e-9
        depth = torch.where(in_front, local[..., 2], torch.ones_like(local[..., 2]))
        across = local[..., 0] / depth / (2 * math.tan(hfov_rad / 2))
        down = -local[..., 1] / depth / (2 * math.tan(vfov_rad / 2))
    # Rays through the very edge of the picture count as seen in spite of rounding.
    edge = 0.5 + 1e-9
    visible = in_front & (across.abs() <= edge) & (down.abs() <= edge)
    return (across + 0.5) * box_width + left, (down + 0.5) * box_height + top, visible
