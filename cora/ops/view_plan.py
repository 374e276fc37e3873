"""What every implementation of `erp_to_views` shares: the views' sampling grids and filters, made once and kept.

Gathered views (perspective ones, and all views without antialiasing) have a grid of positions in units of the panorama,
so one grid serves panoramas of every size. Antialiased equirectangular views are separable: one filter per axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from cora.geometry.camera import content_box
from cora.geometry.sampling import level_of_detail, panorama_coordinates
from cora.types import ViewSpec

__all__ = [
    "AxisFilter",
    "SeparableFilter",
    "gather_grid",
    "is_separable",
    "num_levels",
    "separable_filter",
    "triangle_filter",
]


@dataclass(frozen=True)
class AxisFilter:
    """A resampling filter along one axis of a picture.

    Attributes:
        indices: int64[K], the source rows or columns that take part, consecutive; those outside the picture mean its
            continuation around the sphere.
        weights: float32[n, K], their weight in each of the n output rows or columns; each row sums to 1.
    """

    indices: Tensor
    weights: Tensor


@dataclass(frozen=True)
class SeparableFilter:
    """How an equirectangular view is made: halve the panorama `level` times, then filter its rows and columns."""

    level: int
    rows: AxisFilter
    columns: AxisFilter


def is_separable(view: ViewSpec, antialias: bool) -> bool:
    """Return whether the view is made by axis filters rather than gathered pixel by pixel."""
    return antialias and view.projection == "equirectangular"


@lru_cache(maxsize=128)
def gather_grid(view: ViewSpec, height: int, width: int) -> tuple[Tensor, float]:
    """Return the sampling grid of a view's picture, and the largest level of detail in it.

    Args:
        view: The view; a letterboxed one is treated as filling height x width.
        height: Rows of the picture in pixels.
        width: Columns of the picture in pixels.

    Returns:
        Grid float32[height, width, 3]: x and y as fractions of the panorama's width and height, and the level of detail
        in a panorama of one pixel; add log2(sqrt(H * W)) for one of H x W pixels. The second item is the largest value
        of the third channel.
    """
    filling = replace(view, letterbox=False)
    x, y = panorama_coordinates(filling, height, width, panorama_height=1, panorama_width=1)
    level = level_of_detail(filling, height, width, panorama_height=1, panorama_width=1)
    return torch.stack([x, y, level], dim=-1).float(), float(level.max())


def num_levels(largest_level: float, panorama_height: int, panorama_width: int) -> int:
    """Return how many pyramid levels the samples need, from the second result of `gather_grid`."""
    largest = largest_level + 0.5 * math.log2(panorama_height * panorama_width)
    possible = int(math.log2(min(panorama_height, panorama_width)))
    return 1 + min(possible, max(0, math.ceil(largest)))


@lru_cache(maxsize=64)
def separable_filter(
    view: ViewSpec, height: int, width: int, panorama_height: int, panorama_width: int
) -> SeparableFilter:
    """Return the filters that make an antialiased equirectangular view fill height x width pixels."""
    ratio_x = view.hfov_deg / 360 * panorama_width / width
    ratio_y = view.vfov_deg / 180 * panorama_height / height
    # Halving first bounds the filters' length; at least a factor of 2 is left to the better triangle filter.
    level = math.floor(math.log2(max(1.0, min(ratio_x, ratio_y) / 2)))
    level_height, level_width = panorama_height >> level, panorama_width >> level
    left = ((view.yaw_deg - view.hfov_deg / 2) / 360 + 0.5) * level_width
    top = (0.5 - (view.pitch_deg + view.vfov_deg / 2) / 180) * level_height
    return SeparableFilter(
        level=level,
        rows=triangle_filter(top, view.vfov_deg / 180 * level_height / height, height),
        columns=triangle_filter(left, view.hfov_deg / 360 * level_width / width, width),
    )


def triangle_filter(start: float, step: float, count: int) -> AxisFilter:
    """Return triangles centred at start + (i + 0.5) * step of half width max(1, step), for i in 0 .. count - 1.

    Positions are continuous: element k of the source covers [k, k + 1].
    """
    centres = start + (torch.arange(count, dtype=torch.float64) + 0.5) * step
    half_width = max(1.0, step)
    first, last = math.floor(float(centres[0]) - half_width), math.ceil(float(centres[-1]) + half_width)
    indices = torch.arange(first, last)
    distances = (indices.double() + 0.5 - centres[:, None]).abs()
    weights = (1 - distances / half_width).clamp(min=0)
    return AxisFilter(indices, (weights / weights.sum(dim=1, keepdim=True)).float())
