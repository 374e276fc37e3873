"""Views of a panorama in plain torch: the meaning of `cora.ops.erp_to_views`.

Shapes: H x W panorama pixels, V views, h x w view pixels, s samples per view pixel and axis, C colours. Values stay in
0 .. 255 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from cora.geometry.sampling import bilinear_taps
from cora.ops.view_plan import AxisFilter, SamplingGrid, SeparableFilter, level_of_panorama

__all__ = ["build_pyramid", "filter_separable", "sample_pyramid"]

# Taps of pictures up to this many samples are kept between calls; larger ones would fill the memory.
KEPT_SAMPLES = 2**15


def build_pyramid(panorama_HWC: Tensor, count: int) -> list[Tensor]:
    """Return `count` levels: the panorama as float32[H, W, C], and area averages of half the size each."""
    levels = [panorama_HWC.float()]
    while len(levels) < count:
        levels.append(_halve(_halve(levels[-1], dim=0), dim=1))
    return levels


def _halve(picture: Tensor, dim: int) -> Tensor:
    """Return the exact area average to floor(n / 2) elements along `dim`."""
    n = picture.shape[dim] // 2
    first, second, third = (picture[(slice(None),) * dim + (slice(start, start + 2 * n, 2),)] for start in range(3))
    if picture.shape[dim] % 2 == 0:
        return torch.add(first, second).mul_(0.5)
    # Each of the n outputs covers 2 + 1/n inputs: a third one takes part, with weights that slide along the axis.
    position = torch.arange(n, dtype=picture.dtype, device=picture.device).view(-1, *[1] * (picture.dim() - dim - 1))
    return torch.div(first * (n - position) + second * n + third * (position + 1), 2 * n + 1)


def sample_pyramid(levels: Sequence[Tensor], grid: SamplingGrid, turns: Sequence[float]) -> Tensor:
    """Return pictures of the same shape at several yaws: each pixel the mean of s x s trilinear samples.

    A trilinear sample is bilinear in the two levels nearest to its level of detail, and linear between them.

    Args:
        levels: float32[H_k, W_k, C] each, from `build_pyramid`; a single one gives plain bilinear sampling.
        grid: Sampling positions of a camera at yaw 0.
        turns: The cameras' yaws, in full turns to the right.

    Returns:
        float32[V, C, h, w], one picture for each turn.
    """
    texels = torch.cat([level.flatten(0, 1) for level in levels])
    sizes = tuple((int(level.shape[0]), int(level.shape[1])) for level in levels)
    height, width = (side // grid.samples for side in grid.positions.shape[:2])
    pictures = []
    for turn in turns:
        kept = grid.positions.numel() <= 3 * KEPT_SAMPLES
        indices, weights = (_kept_taps if kept else _taps)(grid, turn, sizes, texels.device)
        pixels = embedding_bag(indices, texels, mode="sum", per_sample_weights=weights)
        pictures.append(pixels.view(height, width, -1).permute(2, 0, 1))
    return torch.stack(pictures)


def _taps(
    grid: SamplingGrid, turn: float, sizes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the texels of each pixel, int32[h * w, 8 * s * s] into the concatenated levels, and their weights."""
    s = grid.samples
    rows, columns, _ = grid.positions.shape
    positions = grid.positions.to(device).view(rows // s, s, columns // s, s, 3).transpose(1, 2).reshape(-1, s * s, 3)
    x, y, level = positions.double().unbind(-1)
    level = (level + level_of_panorama(*sizes[0])).clamp(0, len(sizes) - 1)
    finer = level.floor().long()
    share = level - finer
    size_table = torch.tensor(sizes, device=device)
    first_texel = torch.tensor([0, *(height * width for height, width in sizes)], device=device).cumsum(0)
    indices, weights = [], []
    for number, portion in ((finer, 1 - share), ((finer + 1).clamp(max=len(sizes) - 1), share)):
        heights, widths = size_table[number].unbind(-1)
        taps, tap_weights = bilinear_taps((x + turn) * widths, y * heights, heights, widths)
        indices.append(taps + first_texel[number][..., None])
        weights.append(tap_weights * portion[..., None] / (s * s))
    return torch.cat(indices, dim=-1).flatten(1).int(), torch.cat(weights, dim=-1).flatten(1).float()


_kept_taps = lru_cache(maxsize=32)(_taps)


def filter_separable(levels: Sequence[Tensor], plan: SeparableFilter) -> Tensor:
    """Return an equirectangular picture float32[C, h, w], filtered along rows and columns."""
    level = levels[plan.level]
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
