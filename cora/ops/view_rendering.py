"""The order of work that all implementations of `erp_to_views` share: levels, runs of views, and what is read of each.

Shapes: B panoramas of H x W pixels, V views of h x w pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from cora.geometry.camera import content_box
from cora.ops.dispatch import Face
from cora.ops.reference import erp_to_views as reference
from cora.ops.view_plan import GatherPlan, gather_plan
from cora.types import ViewSpec

__all__ = ["Normalisation", "halve_whole", "render", "render_adjoint", "rows_read"]


@dataclass(frozen=True)
class Normalisation:
    """value * scale + offset, per channel, for values in 0 .. 255."""

    scale: list[float]
    offset: list[float]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
        """Return what (value / 255 - mean) / std is."""
        return cls([1 / (255 * each) for each in std], [-m / s for m, s in zip(mean, std, strict=True)])


@dataclass(frozen=True)
class _Run:
    """Neighbours in the list of views that share a plan, as the views of a ring do."""

    plan: GatherPlan
    shifts: list[int]
    first_view: int
    box: tuple[int, int, int, int]

    def of(self, pictures: Tensor) -> Tensor:
        """Return the run's part of pictures [B, V, 3, h, w], without letterbox bars."""
        top, left, height, width = self.box
        views = slice(self.first_view, self.first_view + len(self.shifts))
        return pictures[:, views, :, top : top + height, left : left + width]


def render(
    panoramas: Tensor,
    views: tuple[ViewSpec, ...],
    antialias: bool,
    normalisation: Normalisation,
    face: Face,
    out: Tensor,
) -> None:
    """Write the views of panoramas [B, H, W, 3] to [B, V, 3, h, w]."""
    if not len(panoramas):
        return
    runs = _runs(views, antialias, *out.shape[-2:], *panoramas.shape[1:3])
    levels = _make_levels(panoramas, runs, face)
    for run in runs:
        target, (height, width) = run.of(out), out.shape[-2:]
        if run.box[2:] != (height, width):
            black = torch.tensor(normalisation.offset, device=out.device).view(3, 1, 1)
            out[:, run.first_view : run.first_view + len(run.shifts)] = black
        # The kernels want the pixels of a channel side by side, which bars to the left and right rule out.
        place = target if run.box[3] == width else torch.empty_like(target, memory_format=torch.contiguous_format)
        _sample(levels[run.plan.level], run, normalisation, face, place)
        if place is not target:
            target.copy_(place)


def render_adjoint(
    gradient: Tensor, views: tuple[ViewSpec, ...], antialias: bool, scale: Sequence[float], height: int, width: int
) -> Tensor:
    """Return the gradient [B, H, W, 3] of floating panoramas, given that of their views, [B, V, 3, h, w]."""
    panoramas = gradient.new_zeros(len(gradient), height, width, 3)
    runs = _runs(views, antialias, *gradient.shape[-2:], height, width)
    levels = [panoramas]
    for _ in range(max(run.plan.level for run in runs)):
        levels.append(gradient.new_zeros(len(gradient), levels[-1].shape[1] // 2, levels[-1].shape[2] // 2, 3))
    for run in runs:
        reference.sample_views_adjoint(run.of(gradient), run.plan, run.shifts, scale, levels[run.plan.level])
    while len(levels) > 1:
        half, whole = levels.pop(), levels[-1]
        whole += reference.halve_adjoint(half, whole.shape[1], whole.shape[2])
    return panoramas


def rows_read(
    views: tuple[ViewSpec, ...],
    antialias: bool,
    height: int,
    width: int,
    *,
    panorama_height: int,
    panorama_width: int,
) -> tuple[int, int]:
    """Return the rows (first, last + 1) of a panorama that views of height x width pixels are made of."""
    return _needed_rows(_runs(views, antialias, height, width, panorama_height, panorama_width), panorama_height)[0]


def halve_whole(panoramas: Tensor, face: Face) -> Tensor:
    """Return panoramas uint8[B, H, W, 3] of even sides at half their size."""
    return _halve(panoramas, 0, panoramas.shape[1] // 2, face)


# The views of one processor and panoramas of one size are one entry; it keeps its plans, of 1 to 10 MB each.
@lru_cache(maxsize=12)
def _runs(
    views: tuple[ViewSpec, ...], antialias: bool, height: int, width: int, panorama_height: int, panorama_width: int
) -> tuple[_Run, ...]:
    """Return the views of height x width pixels in order, those that share a plan together."""
    planned = []
    for number, view in enumerate(views):
        box = content_box(view, height, width)
        plan, shift = gather_plan(
            view, *box[2:], panorama_height=panorama_height, panorama_width=panorama_width, antialias=antialias
        )
        planned.append((plan, shift, number, box))
    runs = []
    for (plan, box), group in groupby(planned, key=itemgetter(0, 3)):
        _, shifts, numbers, _ = zip(*group, strict=True)
        runs.append(_Run(plan, list(shifts), numbers[0], box))
    return tuple(runs)


def _make_levels(panoramas: Tensor, runs: Sequence[_Run], face: Face) -> list[Tensor]:
    """Return the panoramas and their halves as far as they are needed, each with at least the rows that are read."""
    levels = [panoramas]
    for first, last in _needed_rows(runs, panoramas.shape[1])[1:]:
        levels.append(_halve(levels[-1], first, last, face))
    return levels


def _needed_rows(runs: Sequence[_Run], panorama_height: int) -> list[tuple[int, int]]:
    """Return the rows (first, last + 1) of each level that are sampled, or halved to rows that are needed."""
    coarsest = max(run.plan.level for run in runs)
    needed = [[run.plan.rows for run in runs if run.plan.level == level] for level in range(coarsest + 1)]
    for level in range(coarsest, 0, -1):
        first, last = _span(needed[level])
        # Of an odd number of rows, each mean reaches into a third.
        odd = (panorama_height >> level - 1) % 2
        needed[level - 1].append((2 * first, 2 * last + odd))
    return [_span(rows) for rows in needed]


def _span(rows: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(first for first, _ in rows), max(last for _, last in rows)


def _halve(panoramas: Tensor, first_row: int, last_row: int, face: Face) -> Tensor:
    # The kernels know even sides; odd ones slide their weights along the axis, and are rare.
    if face == "reference" or panoramas.shape[1] % 2 or panoramas.shape[2] % 2:
        return reference.halve(panoramas)
    half: Tensor = _kernels(face)[0](panoramas, first_row, last_row)
    return half


def _sample(level: Tensor, run: _Run, normalisation: Normalisation, face: Face, out: Tensor) -> None:
    scale, offset = normalisation.scale, normalisation.offset
    if face == "reference":
        reference.sample_views(level, run.plan, run.shifts, scale, offset, out)
        return
    taps, weights = run.plan.taps.to(level.device), run.plan.weights.to(level.device)
    _kernels(face)[1](level, taps, weights, run.shifts, scale, offset, out)


def _kernels(face: Face) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions `halve` and `sample_views` of a compiled implementation."""
    if face == "triton":
        module = importlib.import_module("cora.triton_kernels.sample_views")
        return module.halve, module.sample_views
    return torch.ops.cora.halve, torch.ops.cora.sample_views
