"""Views of a panorama in plain torch: the meaning of `cora.ops.erp_to_views`.

Shapes: B panoramas, H x W panorama pixels, V views, h x w view pixels, C colours. Values stay in 0 .. 255 here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cora.geometry.sampling import bilinear_taps
from cora.ops.view_plan import AxisFilter, SeparableFilter

__all__ = ["build_pyramid", "filter_separable", "sample_pyramid"]


def build_pyramid(panorama_HWC: Tensor, count: int) -> list[Tensor]:
    """Return `count` levels: the panorama as float32[H, W, C], and area averages of half the size each."""
    levels = [panorama_HWC.float()]
    while len(levels) < count:
        levels.append(_halve(_halve(levels[-1], dim=0), dim=1))
    return levels


def _halve(picture: Tensor, dim: int) -> Tensor:
    """Return the exact area average to floor(n / 2) elements along `dim`."""
    n = picture.shape[dim] // 2
    even, odd = picture.narrow(dim, 0, 2 * n).unflatten(dim, (n, 2)).unbind(dim + 1)
    if picture.shape[dim] % 2 == 0:
        return (even + odd) * 0.5
    # Each of the n outputs covers 2 + 1/n inputs: a third one takes part, with weights that slide along the axis.
    next_even = picture.narrow(dim, 1, 2 * n).unflatten(dim, (n, 2)).select(dim + 1, 1)
    position = torch.arange(n, dtype=picture.dtype, device=picture.device).view(-1, *[1] * (picture.dim() - dim - 1))
    return (even * (n - position) + odd * n + next_even * (position + 1)) / (2 * n + 1)


def sample_pyramid(levels: Sequence[Tensor], grid_Vhw3: Tensor) -> Tensor:
    """Return the pyramid sampled at a grid, trilinearly: bilinear in the two nearest levels, linear between them.

    Args:
        levels: float32[H_k, W_k, C] each, from `build_pyramid`; a single one gives plain bilinear sampling.
        grid_Vhw3: float32[V, h, w, 3] from `gather_grid`.

    Returns:
        float32[V, C, h, w].
    """
    height, width, channels = levels[0].shape
    x, y, level = grid_Vhw3.reshape(-1, 3).unbind(-1)
    level = (level + 0.5 * math.log2(height * width)).clamp(0, len(levels) - 1)
    sampled = levels[0].new_zeros(len(level), channels)
    for number, texels in enumerate(levels):
        share = 1 - (level - number).abs()
        used = torch.nonzero(share > 0).squeeze(1)
        rows, columns, _ = texels.shape
        indices, weights = bilinear_taps(x[used] * columns, y[used] * rows, rows, columns)
        weights = weights * share[used, None]
        flat = texels.reshape(-1, channels)
        sampled[used] += torch.nn.functional.embedding_bag(indices, flat, mode="sum", per_sample_weights=weights)
    views, view_height, view_width, _ = grid_Vhw3.shape
    return sampled.view(views, view_height, view_width, channels).permute(0, 3, 1, 2).contiguous()


def filter_separable(levels: Sequence[Tensor], plan: SeparableFilter) -> Tensor:
    """Return an equirectangular picture float32[C, h, w], filtered along rows and columns."""
    level = levels[plan.level]
    rows = _continued_rows(level, plan.rows)
    by_rows = (plan.rows.weights.to(level.device) @ rows.flatten(1)).unflatten(1, rows.shape[1:])
    columns = torch.remainder(plan.columns.indices, level.shape[1]).to(level.device)
    by_columns = by_rows.index_select(1, columns).permute(2, 0, 1)
    return by_columns @ plan.columns.weights.to(level.device).T


def _continued_rows(level: Tensor, rows: AxisFilter) -> Tensor:
    """Return the filter's source rows float32[K, W, C]; beyond a pole they are mirrored and half a turn away."""
    height, width, _ = level.shape
    indices = torch.remainder(rows.indices, 2 * height).to(level.device)
    turned = indices >= height
    source = level.index_select(0, torch.where(turned, 2 * height - 1 - indices, indices))
    # Sampling column c + W // 2, as `bilinear_taps` does.
    return torch.where(turned[:, None, None], source.roll(-(width // 2), dims=1), source)
