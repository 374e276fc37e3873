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
    "bilinear_taps",
    "bilinear_texels",
    "level_of_detail",
    "panorama_coordinates",
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


def level_of_detail(spec: ViewSpec, height: int, width: int, *, panorama_height: int, panorama_width: int) -> Tensor:
    """Return log2 of how many panorama pixels one view pixel spans, float64[height, width]; negative when magnified.

    The span is the square root of the footprint's area, from the Jacobian of pixel -> direction on the sphere. Near a
    pole the panorama stretches horizontally; that stretch carries no detail and does not count.

    Convention: a view whose pixels span two panorama pixels each has level 1.
    """
    x, y = pixel_grid(height, width)
    along_x = rays_at(spec, x + 0.5, y, height, width) - rays_at(spec, x - 0.5, y, height, width)
    along_y = rays_at(spec, x, y + 0.5, height, width) - rays_at(spec, x, y - 0.5, height, width)
    steradians = torch.linalg.vector_norm(torch.linalg.cross(along_x, along_y), dim=-1)
    pixels_per_steradian = (panorama_width / (2 * math.pi)) * (panorama_height / math.pi)
    return 0.5 * torch.log2(steradians.clamp(min=1e-30) * pixels_per_steradian)


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
    return bilinear_texels(left.long(), top.long(), x - 0.5 - left, y - 0.5 - top, height, width)


def bilinear_texels(
    left: Tensor, top: Tensor, right: Tensor, down: Tensor, height: int | Tensor, width: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the four texels and weights of `bilinear_taps` for positions that are split already.

    Args:
        left: Column of the upper left texel, int[...]; any value, wraps.
        top: Its row, int[...] in [-1, height - 1].
        right: How far the position lies to the right of that texel's centre, float[...] in [0, 1).
        down: How far it lies below.
        height: See `bilinear_taps`.
        width: See `bilinear_taps`.
    """
    indices, weights = [], []
    for row_step in (0, 1):
        row = top.long() + row_step
        over_pole = (row < 0) | (row >= height)
        row = torch.where(row < 0, -1 - row, torch.where(row >= height, 2 * height - 1 - row, row))
        weight_y = down if row_step else 1 - down
        for column_step in (0, 1):
            column = torch.remainder(left.long() + column_step + over_pole * (width // 2), width)
            indices.append(row * width + column)
            weights.append(weight_y * (right if column_step else 1 - right))
    return torch.stack(indices, dim=-1), torch.stack(weights, dim=-1)


def sample_bilinear(panorama: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the panorama float[H, W, C] sampled bilinearly at (x, y), each [...]: float[..., C]."""
    height, width, channels = panorama.shape
    indices, weights = bilinear_taps(x, y, height, width)
    texels = panorama.reshape(-1, channels)[indices]
    return (texels * weights[..., None].to(panorama.dtype)).sum(dim=-2)
