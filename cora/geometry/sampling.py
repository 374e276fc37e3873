"""Where a view samples its panorama: positions, how large a pixel's footprint is, and the texels around a position.

Owns the seam and pole rules of sampling; the operation that does the arithmetic is `cora.ops.erp_to_views`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cora.geometry.camera import rays_at
from cora.geometry.sphere import direction_to_lonlat, lonlat_to_pixel
from cora.types import ViewSpec

__all__ = [
    "bilinear_indices",
    "bilinear_taps",
    "panorama_coordinates",
    "pixel_angles",
    "pixel_grid",
    "sample_bilinear",
]


def pixel_grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates (x, y) of the pixel centres of a picture, each float64[height, width]."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    return x, y


def panorama_coordinates(
    spec: ViewSpec, height: int, width: int, *, panorama_height: int, panorama_width: int
) -> tuple[Tensor, Tensor]:
    """Return the continuous panorama coordinates (x, y), each float64[height, width], that a view's pixels look at.

    x lies in [0, panorama_width] and y in [0, panorama_height].
    """
    x, y = pixel_grid(height, width)
    lon, lat = direction_to_lonlat(rays_at(spec, x, y, height, width))
    return lonlat_to_pixel(lon, lat, panorama_height, panorama_width)


def pixel_angles(spec: ViewSpec, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the angles (radians) that each pixel of a view sees along y and along x, each float64[height, width].

    They are the lengths of the columns of the Jacobian pixel -> direction on the sphere; those of a rectangle are taken
    on its plane of longitudes and latitudes, because that is how it is made.

    Convention: straight ahead, a pixel of a view 90 degrees and 180 pixels wide sees 2 / 180 of a radian.
    """
    if spec.projection == "equirectangular":
        angles = math.radians(spec.vfov_deg) / height, math.radians(spec.hfov_deg) / width
        return torch.full((height, width), angles[0]).double(), torch.full((height, width), angles[1]).double()
    x, y = pixel_grid(height, width)
    step = 1e-3
    along_y = rays_at(spec, x, y + step, height, width) - rays_at(spec, x, y - step, height, width)
    along_x = rays_at(spec, x + step, y, height, width) - rays_at(spec, x - step, y, height, width)
    return torch.linalg.vector_norm(along_y, dim=-1) / (2 * step), torch.linalg.vector_norm(along_x, dim=-1) / (
        2 * step
    )


def bilinear_taps(x: Tensor, y: Tensor, height: int | Tensor, width: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the four texels around panorama positions and their bilinear weights.

    Args:
        x: Columns, float[...]; any value, wraps.
        y: Rows, float[...] in [-0.5, height + 0.5].
        height: Rows of the panorama, or int64[...] with those of each position's own panorama.
        width: Columns of the panorama, or int64[...].

    Returns:
        indices int64[..., 4] into the row-major panorama and weights [..., 4] of x's dtype, which sum to 1.

    Convention: over a pole a sample continues on the other side: row -1 at column c is row 0 at column c + W // 2. In
    an 8-column panorama the texel above (column 1, row 0) is (column 5, row 0).
    """
    left, top = torch.floor(x - 0.5), torch.floor(y - 0.5)
    right, down = x - 0.5 - left, y - 0.5 - top
    weights = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], dim=-1)
    return bilinear_indices(left.long(), top.long(), height, width), weights


def bilinear_indices(left: Tensor, top: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
    """Return the four texels of `bilinear_taps`, int64[..., 4] into the row-major panorama.

    Args:
        left: Column of the upper left texel, int[...]; any value, wraps.
        top: Its row, int[...] in [-1, height - 1].
        height: See `bilinear_taps`.
        width: See `bilinear_taps`.
    """
    indices = []
    for row_step in (0, 1):
        row = top.long() + row_step
        over_pole = (row < 0) | (row >= height)
        row = torch.where(row < 0, -1 - row, torch.where(row >= height, 2 * height - 1 - row, row))
        for column_step in (0, 1):
            column = torch.remainder(left.long() + column_step + over_pole * (width // 2), width)
            indices.append(row * width + column)
    return torch.stack(indices, dim=-1)


def sample_bilinear(panorama: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the panorama float[H, W, C] sampled bilinearly at (x, y), each [...]: float[..., C]."""
    height, width, channels = panorama.shape
    indices, weights = bilinear_taps(x, y, height, width)
    texels = panorama.reshape(-1, channels)[indices]
    return (texels * weights[..., None].to(panorama.dtype)).sum(dim=-2)
