"""Which vision tokens of a panorama the language model sees, in which order, and where each of them looks.

This is the one place the number T of vision tokens comes from: the processor, the model and the vLLM plug-in all ask
a TokenLayout. Shapes: V views, S' latent tokens per view, T vision tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from cora.errors import ConfigError, did_you_mean
from cora.geometry.camera import content_mask, rays_at
from cora.geometry.sphere import direction_to_lonlat
from cora.types import ViewSpec

__all__ = ["STITCHINGS", "TokenLayout", "build_token_layout", "kept_columns"]

GridHW = tuple[int, int]
STITCHINGS = ("stride_views", "concat")
# A column whose edge lies on the border of the sector does not overlap it, whatever the rounding says.
EDGE_RAD = 1e-9


@dataclass(frozen=True)
class TokenLayout:
    """The vision tokens of one panorama.

    Attributes:
        views: The views, in the order of the processor.
        grid_hw: Latent token grid of every view, or None when the resampler keeps no grid.
        tokens_per_view: S'.
        view_size: (height, width) in pixels of the part of a view that the vision grid covers.
        gather: For each vision token its index among the V * S' latent tokens, view-major.
    """

    views: tuple[ViewSpec, ...]
    grid_hw: GridHW | None
    tokens_per_view: int
    view_size: GridHW
    gather: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """T, the vision tokens of one panorama."""
        return len(self.gather)

    def directions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return longitude and latitude in radians, float64[T], and bool[T]: whether the token has a direction.

        A grid token looks where its centre looks. Latent tokens look where the centre of their view looks. Tokens on
        letterbox bars, and latent tokens of a view of the whole sphere, look nowhere.
        """
        per_view = [self._view_directions(view) for view in self.views]
        gather = torch.tensor(self.gather)
        lon, lat, valid = (torch.stack(parts).flatten()[gather] for parts in zip(*per_view, strict=True))
        return lon, lat, valid

    def _view_directions(self, view: ViewSpec) -> tuple[Tensor, Tensor, Tensor]:
        if self.grid_hw is None:
            shape = (self.tokens_per_view,)
            lon = torch.full(shape, math.radians(view.yaw_deg), dtype=torch.float64)
            lat = torch.full(shape, math.radians(view.pitch_deg), dtype=torch.float64)
            return lon, lat, torch.full(shape, not view.is_global)
        height, width = self.view_size
        rows = (torch.arange(self.grid_hw[0], dtype=torch.float64) + 0.5) * height / self.grid_hw[0]
        columns = (torch.arange(self.grid_hw[1], dtype=torch.float64) + 0.5) * width / self.grid_hw[1]
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        lon, lat = direction_to_lonlat(rays_at(view, x, y, height, width))
        valid = content_mask(view, height, width)[y.long(), x.long()]
        return lon.flatten(), lat.flatten(), valid.flatten()


def build_token_layout(
    views: Sequence[ViewSpec],
    *,
    grid_hw: GridHW | None,
    tokens_per_view: int,
    view_size: GridHW,
    stitching: str,
    resampler_type: str = "resampler",
) -> TokenLayout:
    """Return the layout of the vision tokens.

    Order: global views in full, then ring by ring row-major around the ring (row, then view by longitude, then
    column), then the remaining views one after the other. Without a grid: view by view, global views first.

    Args:
        views: Views of one panorama.
        grid_hw: Latent token grid of a view, or None.
        tokens_per_view: S'.
        view_size: Pixels of a view that the vision grid covers, (height, width).
        stitching: ``concat`` keeps every token; ``stride_views`` keeps of each view of an overlapping ring only the
            columns that reach into its own sector, so that every direction is told about once, the seam included.
        resampler_type: For the error message.

    Raises:
        ConfigError: Unknown stitching, or ``stride_views`` where nothing overlaps or there is no grid.
    """
    if stitching not in STITCHINGS:
        raise ConfigError(
            f"unknown projector.stitching '{stitching}'{did_you_mean(stitching, STITCHINGS)}; "
            f"known: {', '.join(STITCHINGS)}"
        )
    _check_stitching(views, stitching, has_grid=grid_hw is not None, resampler_type=resampler_type)
    gather: list[int] = []
    global_views = [view for view in views if view.is_global]
    loose_views = [view for view in views if not view.is_global and (view.ring is None or grid_hw is None)]
    for view in global_views:
        gather += _whole_view(view, tokens_per_view)
    if grid_hw is not None:
        for ring in _rings(views):
            gather += _ring_tokens(ring, grid_hw, drops_columns=stitching == "stride_views")
    for view in loose_views:
        gather += _whole_view(view, tokens_per_view)
    return TokenLayout(tuple(views), grid_hw, tokens_per_view, view_size, tuple(gather))


def kept_columns(view: ViewSpec, num_views: int, num_columns: int) -> list[int]:
    """Return the token columns of a ring view that reach into its sector of 360 / `num_views` degrees.

    A column reaches into the sector when any of its points has a longitude less than half a sector away from the
    view's centre; in a tilted view that is decided by the row nearest to the horizontal axis of the sphere's pole.

    Convention: 8 views of 90 degrees with 16 columns keep columns 4 to 11.
    """
    half_sector = math.pi / num_views
    pitch_rad = math.radians(view.pitch_deg)
    half_width = math.radians(view.hfov_deg) / 2
    kept = []
    for column in range(num_columns):
        left, right = 2 * column / num_columns - 1, 2 * (column + 1) / num_columns - 1
        inner = 0.0 if left < 0 < right else min(abs(left), abs(right))
        if view.projection == "equirectangular":
            nearest = inner * half_width
        else:
            # Longitude is atan2(x, depth along the horizon); it is smallest where that depth is largest.
            depth = math.cos(pitch_rad) + abs(math.sin(pitch_rad)) * math.tan(math.radians(view.vfov_deg) / 2)
            nearest = math.atan2(inner * math.tan(half_width), depth)
        if nearest < half_sector - EDGE_RAD:
            kept.append(column)
    return kept


def _rings(views: Sequence[ViewSpec]) -> list[list[ViewSpec]]:
    """Return the views of each ring, rings by number, views of a ring by longitude."""
    members = sorted((v for v in views if v.ring is not None and not v.is_global), key=lambda v: (v.ring, v.yaw_deg))
    return [list(group) for _, group in groupby(members, key=lambda view: view.ring)]


def _check_stitching(views: Sequence[ViewSpec], stitching: str, *, has_grid: bool, resampler_type: str) -> None:
    if stitching != "stride_views":
        return
    if not has_grid:
        raise ConfigError(
            f"projector.stitching 'stride_views' drops token columns, but resampler '{resampler_type}' keeps no grid; "
            "use stitching 'concat', or resampler 'mlp' or 'bimamba'"
        )
    if not any(len(ring) > 1 and 360 / len(ring) < ring[0].hfov_deg - 1e-6 for ring in _rings(views)):
        raise ConfigError(
            "projector.stitching 'stride_views' needs a closed ring of views that overlap, and these views do not; "
            "use stitching 'concat', or a crop strategy with overlap_ratio above 0"
        )


def _whole_view(view: ViewSpec, tokens_per_view: int) -> list[int]:
    return list(range(view.index * tokens_per_view, (view.index + 1) * tokens_per_view))


def _ring_tokens(ring: list[ViewSpec], grid_hw: GridHW, *, drops_columns: bool) -> list[int]:
    height, width = grid_hw
    columns = {
        view.index: kept_columns(view, len(ring), width) if drops_columns else list(range(width)) for view in ring
    }
    return [
        (view.index * height + row) * width + column
        for row in range(height)
        for view in ring
        for column in columns[view.index]
    ]
