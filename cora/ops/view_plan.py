"""What every implementation of `erp_to_views` shares: where each view samples its panorama, made once and kept.

A plan is a list of bilinear taps into one level of the panorama (the panorama halved some number of times). The views
of a ring share a plan, because they differ by a turn only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from cora.errors import GeometryError
from cora.geometry.sampling import panorama_coordinates, pixel_angles
from cora.types import ViewSpec

__all__ = ["ONE", "GatherPlan", "finest_level", "gather_plan"]

ONE = 1 << 14
"""The weights of a tap are whole numbers that sum to this; an error of 0.03 of 255 steps at most."""

# What fits into a tap, and leaves room for a shift in 32 bits.
LARGEST_HEIGHT, LARGEST_WIDTH = 32_765, 65_535
# Yaws that are this part of a column apart are the same.
_SAME_COLUMN = 1e-6
# Texels between two samples of a pixel: up to here their triangles leave no gap that shows.
_LARGEST_STEP = 1.5
# Along one axis of a pixel.
_MOST_SAMPLES = 16


@dataclass(frozen=True, eq=False)
class GatherPlan:
    """Where a picture of h x w pixels samples a level of the panorama; a value to share, equal only to itself.

    Attributes:
        level: How many times the panorama is halved first.
        taps: int32[h * w * samples], the upper left texel of each bilinear sample for a camera at yaw 0, as
            (row + 1) << 16 | column; row -1 lies beyond the north pole.
        weights: int16[h * w * samples, 4], of that texel, the one to its right, the one below it and the one to the
            right of that; they sum to `ONE`.
        samples: Samples per pixel; a pixel is their mean.
        height: h.
        width: w.
        rows: (first, last + 1) of the level's rows that are read.
    """

    level: int
    taps: Tensor
    weights: Tensor
    samples: int
    height: int
    width: int
    rows: tuple[int, int]


def gather_plan(
    view: ViewSpec, height: int, width: int, *, panorama_height: int, panorama_width: int, antialias: bool
) -> tuple[GatherPlan, int]:
    """Return the plan of a view's picture of height x width pixels (a letterboxed view's content), and its yaw.

    The yaw is a number of columns that the plan's taps move to the right, so that views which differ by a turn of whole
    columns share a plan.

    With `antialias` a pixel is the mean of samples all over it, at most 1.5 texels apart, of the coarsest level of
    which the pixel spans at least two texels along either axis. Without, it is one sample of the panorama.

    Raises:
        GeometryError: The panorama has too many rows or columns to be addressed.
    """
    if panorama_height > LARGEST_HEIGHT or panorama_width > LARGEST_WIDTH:
        raise GeometryError(
            f"a panorama has at most {LARGEST_WIDTH} x {LARGEST_HEIGHT} pixels, "
            f"got {panorama_width} x {panorama_height}"
        )
    shape = replace(view, index=0, yaw_deg=0.0, ring=None, letterbox=False, is_global=False)
    level, per_pixel = 0, (1, 1)
    if antialias:
        level, per_pixel = _level_and_samples(shape, height, width, panorama_height, panorama_width)
    level_height, level_width = panorama_height >> level, panorama_width >> level
    columns = view.yaw_deg / 360 * level_width
    shift = math.floor(columns + _SAME_COLUMN)
    fraction = max(0.0, columns - shift)
    if fraction < 2 * _SAME_COLUMN:
        fraction = 0.0
    plan = _make_gather_plan(shape, height, width, per_pixel, level, level_height, level_width, fraction)
    return plan, shift % level_width


def finest_level(view: ViewSpec, height: int, width: int, *, panorama_height: int, panorama_width: int) -> int:
    """Return the level that an antialiased view of height x width pixels samples: it needs nothing finer."""
    shape = replace(view, index=0, yaw_deg=0.0, ring=None, letterbox=False, is_global=False)
    return _level_and_samples(shape, height, width, panorama_height, panorama_width)[0]


def _level_and_samples(
    shape: ViewSpec, height: int, width: int, panorama_height: int, panorama_width: int
) -> tuple[int, tuple[int, int]]:
    """Return the level and how many samples a pixel takes of it along y and x."""
    angles_rad = _largest_angles(shape, height, width)
    spans = angles_rad[0] / math.pi * panorama_height, angles_rad[1] / (2 * math.pi) * panorama_width
    coarsest = math.floor(math.log2(min(panorama_height, panorama_width))) - 1
    # Long thin pixels need a coarser level, or they would take any number of samples.
    wanted = max(
        math.floor(math.log2(min(spans))) - 1, math.ceil(math.log2(max(spans) / (_MOST_SAMPLES * _LARGEST_STEP)))
    )
    level = max(0, min(coarsest, wanted))
    return level, (_num_samples(spans[0] / 2**level), _num_samples(spans[1] / 2**level))


def _num_samples(span: float) -> int:
    # Magnified twice or more, a picture is smooth already: one sample is the mean.
    return 1 if span <= 0.5 else min(_MOST_SAMPLES, math.ceil(span / _LARGEST_STEP))


@lru_cache(maxsize=256)
def _largest_angles(shape: ViewSpec, height: int, width: int) -> tuple[float, float]:
    """Return the largest angles (radians) that a pixel of a view sees along y and x."""
    along_y, along_x = pixel_angles(shape, height, width)
    return float(along_y.max()), float(along_x.max())


# A plan of 448 x 448 pixels with four samples each takes 10 MB.
@lru_cache(maxsize=12)
def _make_gather_plan(
    shape: ViewSpec,
    height: int,
    width: int,
    per_pixel: tuple[int, int],
    level: int,
    level_height: int,
    level_width: int,
    fraction: float,
) -> GatherPlan:
    sizes = {"panorama_height": level_height, "panorama_width": level_width}
    down, across = per_pixel
    x, y = (
        coordinate.view(height, down, width, across).transpose(1, 2).flatten() - 0.5
        for coordinate in panorama_coordinates(shape, height * down, width * across, **sizes)
    )
    x = x + fraction
    left, top = x.floor(), y.floor()
    taps = (top.int() + 1 << 16) | torch.remainder(left.int(), level_width)
    rows = max(0, int(top.min())), min(level_height, int(top.max()) + 2)
    return GatherPlan(level, taps.int(), _weights(x - left, y - top), down * across, height, width, rows)


def _weights(right: Tensor, down: Tensor) -> Tensor:
    """Return the bilinear weights int16[n, 4] of fractions in [0, 1], none negative, each row with sum `ONE`."""
    right, down = (right * ONE).round().int(), (down * ONE).round().int()
    both = (right * down + ONE // 2) >> 14
    return torch.stack([ONE - right - down + both, right - both, down - both, both], dim=-1).short()
