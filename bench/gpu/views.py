"""Cutting views on a GPU: every implementation against float64, and its times beside grid_sample's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from cora.bench.gpu.events import time_candidates
from cora.geometry.layouts import yaw_ring
from cora.geometry.sampling import panorama_coordinates, sample_bilinear
from cora.ops.dispatch import Implementation
from cora.ops.erp_to_views import erp_to_views
from cora.types import ViewSpec

__all__ = ["TIMED", "check", "name_of", "time_case"]

LARGEST_LSB = 1.0
# (panoramas, width, view side, dtype); the first is a training batch.
TIMED = ((64, 2048, 256, torch.bfloat16), (8, 4096, 448, torch.bfloat16), (1, 8192, 256, torch.float32))
GLOBAL = ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True, letterbox=True)
VIEWS = (GLOBAL, *yaw_ring(90.0, 0.5))
NORMALISATION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def check(impl: Implementation, device: torch.device, cases: int, seed: int) -> dict[str, Any]:
    """Compare an implementation with float64 bilinear samples, and antialiased with unrounded float64 levels."""
    generator = torch.Generator().manual_seed(seed)
    worst = {"bilinear_lsb": 0.0, "antialias_lsb": 0.0}
    for _ in range(cases):
        height, width, h, w = (int(torch.randint(low, high, (), generator=generator)) for low, high in _RANGES)
        yaw, pitch, roll, fov = (float(x) for x in torch.rand(4, generator=generator))
        view = ViewSpec(0, "perspective", 360 * yaw - 180, 180 * pitch - 90, 10 + 110 * fov, 80, roll_deg=360 * roll)
        panorama = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        options: dict[str, Any] = {"size": (h, w), "mean": (0, 0, 0), "std": (1, 1, 1)}
        plain, smooth = (
            erp_to_views(panorama.to(device), [view], antialias=antialias, impl=impl, **options)[0].cpu().double()
            for antialias in (False, True)
        )
        x, y = panorama_coordinates(view, h, w, panorama_height=height, panorama_width=width)
        exact = sample_bilinear(panorama.double(), x, y).permute(2, 0, 1)
        levels = erp_to_views(panorama.double(), [view], dtype=torch.float64, **options)[0]
        worst["bilinear_lsb"] = max(worst["bilinear_lsb"], float((plain * 255 - exact).abs().max()))
        worst["antialias_lsb"] = max(worst["antialias_lsb"], float((smooth - levels).abs().max()) * 255)
    # Each level is rounded to 8 bits, half a step at a time.
    passed = worst["bilinear_lsb"] < LARGEST_LSB and worst["antialias_lsb"] < 2 * LARGEST_LSB
    return {"op": "erp_to_views", "impl": impl, "device": device.type, "cases": cases, **worst, "passed": passed}


_RANGES = ((2, 300), (2, 600), (1, 70), (1, 70))


def time_case(
    implementations: Sequence[Implementation], batch: int, width: int, side: int, dtype: torch.dtype, *,
    rounds: int, bandwidth: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Time the implementations, and grid_sample on the same work but for antialiasing and the global view's bars."""
    height = width // 2
    buffers = [torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, device="cuda") for _ in range(2)]
    candidates: dict[str, Callable[[Tensor], Any]] = {
        f"cora {impl}{'' if antialias else ' bilinear'}": _cutter(impl, side, dtype, antialias)
        for impl in implementations
        if impl != "reference"
        for antialias in (True, False)
    }
    candidates["torch grid_sample bilinear"] = _grid_sampler(height, width, side, dtype)
    moved = batch * (height * width * 3 + len(VIEWS) * 3 * side * side * torch.empty((), dtype=dtype).element_size())
    rows = time_candidates(candidates, buffers, rounds)
    floor = moved / bandwidth * 1e3
    slowest = rows[-1]["ms"]
    return [
        {
            "op": "erp_to_views",
            "case": name_of(batch, width, side, dtype),
            **row,
            "floor_ms": round(floor, 4),
            "fraction_of_copy": round(floor / row["ms"], 3),
            "vs_grid_sample": round(slowest / row["ms"], 2),
        }
        for row in rows
    ]


def _cutter(impl: Implementation, side: int, dtype: torch.dtype, antialias: bool) -> Callable[[Tensor], Tensor]:
    def cut(panoramas: Tensor) -> Tensor:
        size = (side, side)
        return erp_to_views(
            panoramas, VIEWS, size=size, dtype=dtype, antialias=antialias, impl=impl, **NORMALISATION
        )  # fmt: skip

    return cut


def _grid_sampler(height: int, width: int, side: int, dtype: torch.dtype) -> Callable[[Tensor], list[Tensor]]:
    positions = []
    for view in VIEWS:
        x, y = panorama_coordinates(view, side, side, panorama_height=height, panorama_width=width)
        positions.append(torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1))
    grids = torch.stack(positions).float().cuda()

    def cut(panoramas: Tensor) -> list[Tensor]:
        # One panorama at a time: the whole batch as float32 would take gigabytes.
        views = []
        for panorama in panoramas:
            source = panorama.permute(2, 0, 1)[None].float().expand(len(grids), -1, -1, -1)
            views.append(grid_sample(source, grids, align_corners=False).mul_(1 / 127.5).sub_(1).to(dtype))
        return views

    return cut


def name_of(batch: int, width: int, side: int, dtype: torch.dtype) -> str:
    """Return the sizes of a case."""
    return f"{batch} x {width}x{width // 2} -> {len(VIEWS)} x {side}x{side} {str(dtype).removeprefix('torch.')}"
