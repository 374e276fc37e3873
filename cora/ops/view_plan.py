"""What every implementation of `erp_to_views` shares: the views' sampling plans and filters, made once and kept.

Gathered views (perspective ones, and all views without antialiasing) have a plan of taps into one level of the
panorama; the views of a ring share it, because they differ by a turn only. Antialiased equirectangular views are
separable: one filter per axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from cora.errors import GeometryError
from cora.geometry.sampling import level_of_detail, panorama_coordinates
from cora.types import ViewSpec

__all__ = [
    "AxisFilter",
    "GatherPlan",
    "SeparableFilter",
    "gather_plan",
    "is_separable",
    "separable_filter",
    "triangle_filter",
]

# What fits into a tap, and leaves room for a shift in 32 bits.
LARGEST_HEIGHT, LARGEST_WIDTH = 32_765, 65_535
# Yaws that are this part of a column apart are the same.
_SAME_COLUMN = 1e-6


@dataclass(frozen=True, eq=False)
class GatherPlan:
    """Where a picture of h x w pixels samples a level of the panorama; a value to share, equal only to itself.

    Attributes:
        level: How many times the panorama is halved first.
        taps: int32[h * w * samples], the upper left texel of each bilinear sample for a camera at yaw 0, as
            (row + 1) << 16 | column; row -1 lies beyond the north pole.
        weights: float32[h * w * samples, 2], how far the sample lies to the right of that texel and below it.
        samples: Samples per pixel; a pixel is their mean.
        height: h.
        width: w.
    """

    level: int
    taps: Tensor
    weights: Tensor
    samples: int
    height: int
    width: int


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


def gather_plan(
    view: ViewSpec, height: int, width: int, *, panorama_height: int, panorama_width: int, antialias: bool
) -> tuple[GatherPlan, int]:
    """Return the plan of a view's picture of height x width pixels (a letterboxed view's content), and its yaw.

    The yaw is a number of columns that the plan's taps move to the right, so that views which differ by a turn of whole
    columns share a plan.

    With `antialias` a pixel is the mean of 2 x 2 or 3 x 3 samples, at most 1.41 texels apart, of the level in which the
    widest pixel spans 2 to 4 texels; or a single sample where every pixel spans less than half a texel.

    Raises:
        GeometryError: The panorama has too many rows or columns to be addressed.
    """
    if panorama_height > LARGEST_HEIGHT or panorama_width > LARGEST_WIDTH:
        raise GeometryError(
            f"a panorama has at most {LARGEST_WIDTH} x {LARGEST_HEIGHT} pixels, "
            f"got {panorama_width} x {panorama_height}"
        )
    shape = replace(view, index=0, yaw_deg=0.0, ring=None, letterbox=False, is_global=False)
    per_axis, level = _samples_and_level(shape, height, width, panorama_height, panorama_width) if antialias else (1, 0)
    level_height, level_width = panorama_height >> level, panorama_width >> level
    columns = view.yaw_deg / 360 * level_width
    shift = math.floor(columns + _SAME_COLUMN)
    fraction = max(0.0, columns - shift)
    if fraction < 2 * _SAME_COLUMN:
        fraction = 0.0
    plan = _make_gather_plan(shape, height, width, per_axis, level, level_height, level_width, fraction)
    return plan, shift % level_width


def _samples_and_level(
    shape: ViewSpec, height: int, width: int, panorama_height: int, panorama_width: int
) -> tuple[int, int]:
    """Return the samples per pixel and axis, and the level they are taken from."""
    span = _largest_level(shape, height, width) + 0.5 * math.log2(panorama_height * panorama_width)
    if span <= -1:
        return 1, 0
    largest = math.floor(math.log2(min(panorama_height, panorama_width))) - 1
    level = max(0, min(largest, math.floor(span) - 1))
    # A pixel spans up to four texels of that level; two samples an axis leave gaps from 2.8 texels on.
    return (2 if span - level < 1.5 else 3), level


@lru_cache(maxsize=256)
def _largest_level(shape: ViewSpec, height: int, width: int) -> float:
    """Return the largest level of detail of the pixels in a panorama of one pixel."""
    return float(level_of_detail(shape, height, width, panorama_height=1, panorama_width=1).max())


# A plan of 448 x 448 pixels with four samples each takes 10 MB.
@lru_cache(maxsize=24)
def _make_gather_plan(
    shape: ViewSpec,
    height: int,
    width: int,
    per_axis: int,
    level: int,
    level_height: int,
    level_width: int,
    fraction: float,
) -> GatherPlan:
    sizes = {"panorama_height": level_height, "panorama_width": level_width}
    x, y = (
        coordinate.view(height, per_axis, width, per_axis).transpose(1, 2).flatten() - 0.5
        for coordinate in panorama_coordinates(shape, height * per_axis, width * per_axis, **sizes)
    )
    x = x + fraction
    left, top = x.floor(), y.floor()
    taps = (top.int() + 1 << 16) | torch.remainder(left.int(), level_width)
    weights = torch.stack([x - left, y - top], dim=-1).float()
    return GatherPlan(level, taps.int(), weights, per_axis**2, height, width)


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
