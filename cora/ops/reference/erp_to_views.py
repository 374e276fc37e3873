"""Views of a panorama in plain torch: the meaning of `cora.ops.erp_to_views`.

Shapes: H x W panorama pixels, V views, h x w view pixels, C colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from cora.geometry.sampling import bilinear_texels
from cora.ops.view_plan import AxisFilter, GatherPlan, SeparableFilter

__all__ = ["filter_separable", "halve", "sample_views"]


def halve(panorama: Tensor) -> Tensor:
    """Return a panorama uint8[H, W, C] at half its size, floor(H / 2) x floor(W / 2): area means, rounded half up."""
    return _halve(_halve(panorama.float(), dim=0), dim=1).add_(0.5).floor_().to(torch.uint8)


def _halve(picture: Tensor, dim: int) -> Tensor:
    """Return the exact area average to floor(n / 2) elements along `dim`."""
    n = picture.shape[dim] // 2
    first, second, third = (picture[(slice(None),) * dim + (slice(start, start + 2 * n, 2),)] for start in range(3))
    if picture.shape[dim] % 2 == 0:
        return torch.add(first, second).mul_(0.5)
    # Each of the n outputs covers 2 + 1/n inputs: a third one takes part, with weights that slide along the axis.
    position = torch.arange(n, dtype=picture.dtype, device=picture.device).view(-1, *[1] * (picture.dim() - dim - 1))
    return torch.div(first * (n - position) + second * n + third * (position + 1), 2 * n + 1)


def sample_views(
    panorama: Tensor,
    plan: GatherPlan,
    shifts: Sequence[int],
    scale: Sequence[float],
    offset: Sequence[float],
    out: Tensor,
) -> None:
    """Fill pictures of the same shape at several yaws: each pixel the mean of its bilinear samples, normalised.

    Args:
        panorama: uint8[H, W, 3], the level of the panorama that the plan is for.
        plan: Taps of a camera at yaw 0.
        shifts: The cameras' yaws, in columns to the right.
        scale: Per channel, what a mean in 0 .. 255 is multiplied by.
        offset: Per channel, what is added then.
        out: float32[V, 3, h, w], written to: one picture for each shift.
    """
    height, width, _ = panorama.shape
    texels = panorama.reshape(-1, 3).float()
    factor, addend = torch.tensor([scale, offset], dtype=torch.float32, device=panorama.device).view(2, 3, 1, 1)
    for picture, shift in zip(out, shifts, strict=True):
        indices, weights = _texels_of(plan, shift, height, width)
        pixels = embedding_bag(
            indices.to(texels.device), texels, mode="sum", per_sample_weights=weights.to(texels.device)
        )
        torch.addcmul(addend, pixels.T.reshape(3, plan.height, plan.width), factor, out=picture)


def _texels_of(plan: GatherPlan, shift: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the texels of each pixel, int64[h * w, 4 * samples] into the panorama's pixels, and their weights."""
    row, left = (plan.taps >> 16) - 1, (plan.taps & 0xFFFF) + shift
    right, down = plan.weights.unbind(-1)
    indices, weights = bilinear_texels(left, row, right, down, height, width)
    return indices.view(-1, 4 * plan.samples), (weights / plan.samples).view(-1, 4 * plan.samples)


def filter_separable(level: Tensor, plan: SeparableFilter) -> Tensor:
    """Return an equirectangular picture float32[C, h, w], a level uint8[H, W, C] filtered along rows and columns."""
    level = level.float()
    rows = _continued_rows(level, plan.rows)
    columns = torch.remainder(plan.columns.indices, level.shape[1]).to(level.device)
    by_rows = torch.matmul(plan.rows.weights.to(level.device), rows.flatten(1)).view(-1, *rows.shape[1:])
    by_columns = by_rows.index_select(1, columns).permute(2, 0, 1)
    return torch.matmul(by_columns, plan.columns.weights.to(level.device).T)


def _continued_rows(level: Tensor, rows: AxisFilter) -> Tensor:
    """Return the filter's source rows float32[K, W, C]; beyond a pole they are mirrored and half a turn away."""
    height, width, _ = level.shape
    indices = torch.remainder(rows.indices, 2 * height).to(level.device)
    turned = indices >= height
    source = level.index_select(0, torch.where(turned, 2 * height - 1 - indices, indices))
    # The same column c + W // 2 as in `bilinear_taps`.
    source[turned] = source[turned].roll(-(width // 2), dims=1)
    return source
