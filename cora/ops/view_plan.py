"""What every implementation of `erp_to_views` shares: the views' sampling grids and filters, made once and kept.

Gathered views (perspective ones, and all views without antialiasing) have a grid of positions in units of the panorama,
so one grid serves panoramas of every size and all views of a ring, which differ by a turn only. Antialiased
equirectangular views are separable: one filter per axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from cora.geometry.sampling import level_of_detail, panorama_coordinates
from cora.types import ViewSpec

__all__ = [
    "AxisFilter",
    "SamplingGrid",
    "SeparableFilter",
    "gather_grid",
    "is_separable",
    "sampling_grid",
    "separable_filter",
    "triangle_filter",
]


@dataclass(frozen=True, eq=False)
class SamplingGrid:
    """Where a picture of h x w pixels samples the panorama; a value to share, equal only to itself.

    Attributes:
        positions: float32[h * samples, w * samples, 3]: x and y as fractions of the panorama's width and height for a
            camera at yaw 0, and the level of detail of a sample in a panorama of one pixel; add log2(sqrt(H * W)) for
            one of H x W pixels.
        samples: Samples per pixel along each axis; a pixel is their mean.
        largest_level: Largest value of the third channel.
    """

    positions: Tensor
    samples: int
    largest_level: float

    def num_levels(self, panorama_height: int, panorama_width: int) -> int:
        """Return how many pyramid levels the samples use."""
        possible = math.floor(math.log2(min(panorama_height, panorama_width)))
        largest = self.largest_level + level_of_panorama(panorama_height, panorama_width)
        return 1 + min(possible, max(0, math.ceil(largest)))


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


def level_of_panorama(height: int, width: int) -> float:
    """Return the level of detail at which a panorama is one pixel: log2(sqrt(height * width))."""
    return 0.5 * math.log2(height * width)


def is_separable(view: ViewSpec, antialias: bool) -> bool:
    """Return whether the view is made by axis filters rather than gathered pixel by pixel."""
    return antialias and view.projection == "equirectangular"


def sampling_grid(
    view: ViewSpec, height: int, width: int, *, panorama_height: int, panorama_width: int, antialias: bool
) -> SamplingGrid:
    """Return the grid of a view's picture of height x width pixels (a letterboxed view's content), whatever its yaw."""
    shape = replace(view, index=0, yaw_deg=0.0, ring=None, letterbox=False, is_global=False)
    if not antialias:
        return gather_grid(shape, height, width, samples=1)
    fine = gather_grid(shape, height, width, samples=2)
    sample_level = fine.largest_level + level_of_panorama(panorama_height, panorama_width)
    if sample_level + 1 > -1:
        return fine
    # Every view pixel spans less than half a panorama pixel: there is next to nothing to average.
    return gather_grid(shape, height, width, samples=1)


@lru_cache(maxsize=32)
def gather_grid(view: ViewSpec, height: int, width: int, *, samples: int) -> SamplingGrid:
    """Return the sampling grid of a view that fills height x width pixels, with `samples` squared samples a pixel."""
    x, y = panorama_coordinates(view, height * samples, width * samples, panorama_height=1, panorama_width=1)
    level = level_of_detail(view, height * samples, width * samples, panorama_height=1, panorama_width=1)
    return SamplingGrid(torch.stack([x, y, level], dim=-1).float(), samples, float(level.max()))


@lru_cache(maxsize=64)
def separable_filter(
    view: ViewSpec, height: int, width: int, *, panorama_height: int, panorama_width: int
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
