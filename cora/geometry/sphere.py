"""The unit sphere and its equirectangular picture: directions, longitude and latitude, panorama pixels.

Owns the panorama's pixel convention; knows nothing of cameras or views.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "direction_to_lonlat",
    "lonlat_to_direction",
    "lonlat_to_pixel",
    "pixel_to_lonlat",
    "wrap_longitude",
    "wrap_yaw_deg",
]


def wrap_longitude(lon: Tensor) -> Tensor:
    """Return `lon` (radians, any shape) wrapped to [-pi, pi).

    Convention: +pi and -pi are the same meridian and both give -pi.
    """
    return torch.remainder(lon + math.pi, 2 * math.pi) - math.pi


def wrap_yaw_deg(yaw_deg: float) -> float:
    """Return `yaw_deg` wrapped to [-180, 180); 270 gives -90 and 180 gives -180."""
    wrapped = (yaw_deg + 180.0) % 360.0 - 180.0
    # A tiny negative remainder can round up to the excluded end.
    return -180.0 if wrapped >= 180.0 else wrapped


def direction_to_lonlat(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return longitude and latitude of directions.

    Args:
        rays: float[..., 3], (x right, y up, z forward); need not have unit length.

    Returns:
        lon float[...] in [-pi, pi] and lat float[...] in [-pi/2, pi/2], radians.

    Convention: (1, 0, 0) has longitude +pi/2; (0, 1, 0) has latitude +pi/2.
    """
    x, y, z = rays.unbind(-1)
    # atan2 keeps its precision near the poles, where asin(y) loses half of the digits.
    return torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))


def lonlat_to_direction(lon: Tensor, lat: Tensor) -> Tensor:
    """Return the unit directions float[..., 3] at longitude `lon` and latitude `lat` (radians, same shape)."""
    horizontal = torch.cos(lat)
    return torch.stack([horizontal * torch.sin(lon), torch.sin(lat), horizontal * torch.cos(lon)], dim=-1)


def lonlat_to_pixel(lon: Tensor, lat: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return continuous panorama coordinates (x, y) in pixels.

    The map is linear: longitudes outside [-pi, pi) give x outside [0, width), which samplers wrap.

    Convention: pixel centres are at half-integers. In a 4 x 8 panorama longitude 0, latitude 0 is (4.0, 2.0), the
    corner between four pixels, and the centre of pixel (column 0, row 0) is (0.5, 0.5).
    """
    return (lon / (2 * math.pi) + 0.5) * width, (0.5 - lat / math.pi) * height


def pixel_to_lonlat(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return longitude and latitude (radians) of continuous panorama coordinates; inverse of `lonlat_to_pixel`."""
    return (x / width - 0.5) * (2 * math.pi), (0.5 - y / height) * math.pi
