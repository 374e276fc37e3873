"""Time and quality of cutting a ring of views from a panorama, beside py360convert and torch's grid_sample.

Every candidate turns the same uint8 panorama into the same normalised float views. Candidates take turns, so that a
busy machine slows all of them alike; the figures are medians and quartiles. Plans, grids and caches are warm.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from cora.errors import CoraError
from cora.geometry.layouts import yaw_ring
from cora.geometry.sampling import panorama_coordinates
from cora.ops.erp_to_views import Implementation, available_implementations, erp_to_views
from cora.types import ViewSpec

__all__ = ["COLUMNS", "DEFAULT_CASES", "run"]

Candidate = Callable[[], Tensor]

COLUMNS = (
    "candidate",
    "antialias",
    "panorama",
    "views",
    "median_ms",
    "p25_ms",
    "p75_ms",
    "times_fastest",
    "psnr_db",
    "rounds",
    "threads",
    "device",
    "torch",
    "note",
)

DEFAULT_CASES = ((512, 48), (2048, 224))
"""(panorama width, view side) in pixels: the tiny preset, and a photograph for a usual vision tower."""

MEAN = STD = (0.5, 0.5, 0.5)
FOV_DEG, OVERLAP_RATIO = 90.0, 0.5
TRUTH_SAMPLES = 8
LARGEST_DIFFERENCE = 1e-4


def run(
    cases: Sequence[tuple[int, int]] = DEFAULT_CASES, *, rounds: int = 11, threads: int = 1, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Return one row, with the keys of `COLUMNS`, for each case and candidate.

    Args:
        cases: (panorama width, view side) in pixels.
        rounds: Timed calls of each candidate.
        threads: CPU threads torch may use.
        device: ``cpu`` or ``cuda``; the candidates on the CPU alone are left out on ``cuda``.

    Raises:
        CoraError: Two implementations of the operation disagree: then no time is worth reporting.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [row for width, side in cases for row in _run_case(width, side, rounds, threads, torch.device(device))]
    finally:
        torch.set_num_threads(before)


def _run_case(width: int, side: int, rounds: int, threads: int, device: torch.device) -> list[dict[str, Any]]:
    panorama = made_up_panorama(width // 2, width).to(device)
    views = yaw_ring(FOV_DEG, OVERLAP_RATIO)
    candidates = _candidates(panorama, views, side)
    pictures = {name: candidate().cpu() for name, candidate in candidates.items()}
    _check_agreement(pictures)
    truth = _truth(panorama.cpu(), views, side)
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    misses = _py360_misses()
    for _ in range(rounds):
        for name, candidate in candidates.items():
            samples[name].append(_milliseconds(candidate, device))
    cold = _py360_misses() != misses
    fastest = min(float(np.median(times)) for times in samples.values())
    rows = []
    for name, times in samples.items():
        p25, median, p75 = (float(value) for value in np.percentile(times, [25, 50, 75]))
        row = {
            "candidate": name,
            "antialias": "antialias" in name,
            "panorama": f"{width}x{width // 2}",
            "views": f"{len(views)} x {side}x{side}",
            "median_ms": round(median, 3),
            "p25_ms": round(p25, 3),
            "p75_ms": round(p75, 3),
            "times_fastest": round(median / fastest, 2),
            "psnr_db": round(_psnr(pictures[name], truth), 2),
            "rounds": rounds,
            "threads": threads,
            "device": _device_name(device),
            "torch": torch.__version__,
            "note": "its cache missed: not warm" if name == "py360convert" and cold else "",
        }
        rows.append(row)
    return rows


def made_up_panorama(height: int, width: int) -> Tensor:
    """Return uint8[H, W, 3]: patches with edges on several scales, gratings and a little noise; always the same."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.full((1, 3, height, width), 0.5)
    for cells in (4, 16, 64):
        patches = torch.rand(1, 3, cells, 2 * cells, generator=generator) - 0.5
        picture += torch.nn.functional.interpolate(patches, size=(height, width), mode="nearest") * 0.5
    columns = torch.arange(width)
    picture[:, :, height // 3 : height // 2] += 0.2 * torch.sin(columns * (0.1 + columns / width))
    picture += 0.02 * torch.randn(picture.shape, generator=generator)
    return (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()


def _candidates(panorama: Tensor, views: Sequence[ViewSpec], side: int) -> dict[str, Candidate]:
    """Return what is timed, by name; the names beginning with "cora" come first."""
    candidates: dict[str, Candidate] = {}
    for impl in available_implementations(panorama.device.type):
        for antialias, kind in ((True, "antialias"), (False, "bilinear")):
            candidates[f"cora {impl} {kind}"] = partial(_cora, panorama, views, side, antialias, impl)
    grids = _grids(panorama, views, side)
    candidates["torch grid_sample bilinear"] = partial(_grid_sample, panorama, grids)
    if panorama.device.type == "cpu" and find_spec("py360convert") is not None:
        candidates["py360convert"] = partial(_py360, panorama.numpy(), views, side)
    return candidates


def _cora(panorama: Tensor, views: Sequence[ViewSpec], side: int, antialias: bool, impl: Implementation) -> Tensor:
    return erp_to_views(panorama, views, size=(side, side), mean=MEAN, std=STD, antialias=antialias, impl=impl)


def _grids(panorama: Tensor, views: Sequence[ViewSpec], side: int) -> Tensor:
    """Return grid_sample's positions float32[V, h, w, 2] in the panorama padded by one pixel on every side."""
    height, width, _ = panorama.shape
    positions = []
    for view in views:
        x, y = panorama_coordinates(view, side, side, panorama_height=height, panorama_width=width)
        positions.append(torch.stack([2 * (x + 1) / (width + 2) - 1, 2 * (y + 1) / (height + 2) - 1], dim=-1))
    return torch.stack(positions).float().to(panorama.device)


def _grid_sample(panorama: Tensor, grids: Tensor) -> Tensor:
    half = panorama.shape[1] // 2
    rows = torch.cat([panorama[:1].roll(half, dims=1), panorama, panorama[-1:].roll(half, dims=1)])
    padded = torch.cat([rows[:, -1:], rows, rows[:, :1]], dim=1).permute(2, 0, 1)[None].float()
    pictures = grid_sample(padded.expand(len(grids), -1, -1, -1), grids, align_corners=False)
    return pictures.mul_(1 / 127.5).sub_(1)


def _py360(panorama: np.ndarray[Any, Any], views: Sequence[ViewSpec], side: int) -> Tensor:
    import py360convert

    # Its outermost pixel centres lie on the edge of the field of view, so the same rays need a narrower one.
    fov_deg = math.degrees(2 * math.atan(math.tan(math.radians(FOV_DEG) / 2) * (side - 1) / side))
    pictures = [
        py360convert.e2p(panorama, fov_deg, view.yaw_deg, view.pitch_deg, (side, side), mode="bilinear")
        for view in views
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1)


def _py360_misses() -> int:
    """Return how often py360convert had to make a sampler anew; its cache holds as many as the ring has views."""
    if find_spec("py360convert") is None:
        return 0
    from py360convert.utils import EquirecSampler

    return int(EquirecSampler.from_perspective.cache_info().misses)


def _truth(panorama: Tensor, views: Sequence[ViewSpec], side: int) -> Tensor:
    """Return the mean over each view pixel of a panorama interpolated bilinearly."""
    fine = [_cora(panorama, [view], side * TRUTH_SAMPLES, False, "auto") for view in views]
    return torch.cat([avg_pool2d(picture, TRUTH_SAMPLES) for picture in fine])


def _check_agreement(pictures: dict[str, Tensor]) -> None:
    for kind in ("antialias", "bilinear"):
        names = [name for name in pictures if name.startswith("cora") and name.endswith(kind)]
        for name in names[1:]:
            difference = float((pictures[name] - pictures[names[0]]).abs().max())
            if difference > LARGEST_DIFFERENCE:
                raise CoraError(f"'{name}' and '{names[0]}' differ by {difference:.2g}: nothing was timed")


def _psnr(pictures: Tensor, truth: Tensor) -> float:
    # The values span -1 .. 1.
    return 10 * math.log10(4 / max(1e-12, float(((pictures - truth) ** 2).mean())))


def _milliseconds(candidate: Candidate, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    candidate()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", information.read_text(), re.MULTILINE) if information.exists() else []
    return names[0] if names else platform.machine()


@click.command()
@click.option("--rounds", default=11, show_default=True, help="Timed calls of each candidate.")
@click.option("--threads", default=1, show_default=True, help="CPU threads torch may use.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def main(rounds: int, threads: int, device: str) -> None:
    """Time cutting views from panoramas; one JSON row a line."""
    for row in run(rounds=rounds, threads=threads, device=device):
        click.echo(json.dumps(row))


if __name__ == "__main__":
    main()
