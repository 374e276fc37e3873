"""Which token of one view shows what a token of another view shows, from the rotation between the two views.

The same point of a scene is not at a linearly shifted column of a neighbouring perspective view, and its row changes
too; positions of `overlap_pairs` are exact. `column_pairs` is the linear shift of older code. A view's tokens are the
cells of a grid over it, numbered row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.errors import GeometryError
from cora.geometry.camera import content_mask, project_to_view, view_rays
from cora.geometry.layouts import rings
from cora.types import ViewSpec

__all__ = ["OverlapPair", "column_pairs", "overlap_pairs", "physical_overlap", "ring_neighbours", "sample_tokens"]


@dataclass(frozen=True, eq=False)
class OverlapPair:
    """Tokens of one view that another view sees.

    Attributes:
        first: Position, in the list of views, of the view whose tokens are looked up.
        second: Position of the view they are looked up in.
        source_index: int64[N], tokens of the first view whose centre the second view sees.
        target_xy: float32[N, 2], where in the second view's token grid, in tokens.

    Convention: token (column 0, row 0) covers [0, 1] x [0, 1] and its centre is at (0.5, 0.5).
    """

    first: int
    second: int
    source_index: Tensor
    target_xy: Tensor


def ring_neighbours(views: Sequence[ViewSpec]) -> list[tuple[int, int]]:
    """Return the pairs of neighbours in each closed ring, (last, first) included.

    A ring of two views gives both (0, 1) and (1, 0): they may overlap on both sides.
    """
    return [pair for members in rings(views) for pair in zip(members, [*members[1:], members[0]], strict=True)]


def overlap_pairs(
    views: Sequence[ViewSpec],
    grid_hw: tuple[int, int],
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> list[OverlapPair]:
    """Return the corresponding tokens of pairs of views; pairs that share nothing are left out.

    Args:
        views: The views of a layout.
        grid_hw: Rows and columns of every view's token grid.
        pairs: Positions of the (first, second) views to match; `ring_neighbours` when None.

    Returns:
        One OverlapPair for each pair with a token of the first view whose centre the second one sees.

    Raises:
        GeometryError: The grid is empty.
    """
    height, width = _checked_grid(grid_hw)
    found = []
    for first, second in ring_neighbours(views) if pairs is None else pairs:
        rays = view_rays(views[first], height, width)
        x, y, visible = project_to_view(rays, views[second], height, width)
        visible &= content_mask(views[first], height, width)
        source_index = torch.nonzero(visible.flatten()).squeeze(1)
        if len(source_index) > 0:
            target_xy = torch.stack([x[visible], y[visible]], dim=-1).float()
            found.append(OverlapPair(first, second, source_index, target_xy))
    return found


def physical_overlap(views: Sequence[ViewSpec], ring: Sequence[int]) -> float:
    """Return how much of a view's width its neighbour in a closed ring shows too, on the horizon of an upright ring.

    Args:
        views: The views of a layout.
        ring: Positions of the ring's members, as from `rings`.

    Convention: 8 views of 90 degrees give 0.5, 4 of them 0.
    """
    return max(0.0, 1.0 - 360.0 / (len(ring) * views[ring[0]].hfov_deg))


def column_pairs(
    views: Sequence[ViewSpec], grid_hw: tuple[int, int], *, overlap_ratio: float | None = None
) -> list[OverlapPair]:
    """Return the linear match: the last columns of each view of a ring with the first columns of the next, row by row.

    Right for upright equirectangular views whose overlap is whole columns; for perspective views off by a column and
    by some rows near the corners. Rings that do not overlap are left out.

    Args:
        views: The views of a layout.
        grid_hw: Rows and columns of every view's token grid.
        overlap_ratio: Fraction of the columns to match, at least one column; `physical_overlap` when None.

    Convention: 16 columns at ratio 0.25 match columns 12 to 15 with 0 to 3.
    """
    height, width = _checked_grid(grid_hw)
    token = torch.arange(height * width).view(height, width)
    x, y = token % width + 0.5, token // width + 0.5
    found = []
    for ring in rings(views):
        shared = physical_overlap(views, ring)
        if shared < 1e-6:
            continue
        count = max(1, int(width * (shared if overlap_ratio is None else overlap_ratio) + 1e-6))
        source_index = token[:, width - count :].flatten()
        target_xy = torch.stack([x, y], dim=-1)[:, :count].flatten(0, 1)
        for first, second in zip(ring, [*ring[1:], ring[0]], strict=True):
            found.append(OverlapPair(first, second, source_index, target_xy))
    return found


def _checked_grid(grid_hw: tuple[int, int]) -> tuple[int, int]:
    height, width = grid_hw
    if height < 1 or width < 1:
        raise GeometryError(f"a token grid has at least one row and one column, got {height} x {width}")
    return height, width


def sample_tokens(tokens: Tensor, xy: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Return tokens at continuous grid positions, interpolated bilinearly; differentiable in `tokens`.

    Args:
        tokens: float[..., S, D] with S = height * width, row by row.
        xy: float[N, 2] in tokens, as in `OverlapPair`. Nearer to the border than half a token, the border token counts.
        grid_hw: Rows and columns of the grid.

    Returns:
        float[..., N, D].
    """
    height, width = grid_hw
    if tokens.shape[-2] != height * width:
        raise GeometryError(f"{tokens.shape[-2]} tokens are no grid of {height} x {width}")
    x = (xy[:, 0].to(tokens.device) - 0.5).clamp(0, width - 1)
    y = (xy[:, 1].to(tokens.device) - 0.5).clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    fraction_x, fraction_y = (x - left).to(tokens.dtype)[:, None], (y - top).to(tokens.dtype)[:, None]

    def row(rows: Tensor) -> Tensor:
        lefts, rights = (tokens.index_select(-2, rows * width + columns) for columns in (left, right))
        return lefts + (rights - lefts) * fraction_x

    upper = row(top)
    return upper + (row(bottom) - upper) * fraction_y
