"""One script for a machine with a GPU: build the extension, check every implementation, time it, write JSON.

    PYTHONPATH=. python bench/gpu/run.py --build --out bench/results/<device>.json

Every implementation that is there is checked against float64 on random sizes and views; only what is right is timed,
with CUDA events, on buffers that take turns so that nothing is found in the cache from the call before. Without a GPU
the checks run on the CPU, and what needs a GPU is listed and counted.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from cora.geometry.layouts import yaw_ring
from cora.geometry.sampling import panorama_coordinates, sample_bilinear
from cora.ops.dispatch import Implementation
from cora.ops.erp_to_views import available_implementations, erp_to_views
from cora.types import ViewSpec

__all__ = ["run"]

ROOT = Path(__file__).resolve().parents[2]

LARGEST_LSB = 1.0
# (panoramas, width, view side, dtype); the first is a training batch.
TIMED = ((64, 2048, 256, torch.bfloat16), (8, 4096, 448, torch.bfloat16), (1, 8192, 256, torch.float32))
GLOBAL = ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True, letterbox=True)
VIEWS = (GLOBAL, *yaw_ring(90.0, 0.5))
NORMALISATION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def run(*, rounds: int = 50, cases: int = 40, seed: int = 0) -> dict[str, Any]:
    """Return the report: environment, checks, timings, and what was skipped for want of a GPU."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    implementations: list[Implementation] = [*available_implementations(device.type)]
    checks = [_check(impl, device, cases, seed) for impl in implementations]
    right = [check["impl"] for check in checks if check["passed"]]
    report: dict[str, Any] = {"environment": _environment(has_gpu), "checks": checks, "timings": [], "skipped": []}
    if has_gpu:
        bandwidth = _copy_bandwidth()
        report["copy_gb_per_s"] = round(bandwidth / 1e9, 1)
        for case in TIMED:
            report["timings"] += _time_case(right, *case, rounds=rounds, bandwidth=bandwidth)
    else:
        report["skipped"] += [f"check of '{impl}': needs a GPU" for impl in ("cuda", "triton")]
        report["skipped"] += [f"timing of {_name(*case)}: needs a GPU" for case in TIMED]
    report["num_skipped"] = len(report["skipped"])
    report["passed"] = all(check["passed"] for check in checks)
    return report


def _check(impl: Implementation, device: torch.device, cases: int, seed: int) -> dict[str, Any]:
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


def _time_case(
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
    rows: list[dict[str, Any]] = []
    for name, cut in candidates.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        times = _event_times(cut, buffers, rounds)
        p20, median, p80 = (float(value) for value in np.percentile(times, [20, 50, 80]))
        rows.append(
            {
                "op": "erp_to_views",
                "case": _name(batch, width, side, dtype),
                "candidate": name,
                "ms": round(median, 4),
                "p20_ms": round(p20, 4),
                "p80_ms": round(p80, 4),
                "floor_ms": round(moved / bandwidth * 1e3, 4),
                "fraction_of_copy": round(moved / bandwidth * 1e3 / median, 3),
                "peak_mib": round((torch.cuda.max_memory_allocated() - before) / 2**20),
                "rounds": rounds,
            }
        )
    slowest = rows[-1]["ms"]
    return [{**row, "vs_grid_sample": round(slowest / row["ms"], 2)} for row in rows]


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


def _event_times(cut: Callable[[Tensor], Any], buffers: Sequence[Tensor], rounds: int) -> list[float]:
    for buffer in buffers:
        cut(buffer)
    event: Any = torch.cuda.Event
    marks = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(rounds)]
    for number, (start, end) in enumerate(marks):
        start.record()
        cut(buffers[number % len(buffers)])
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]


def _copy_bandwidth() -> float:
    """Return bytes read and written a second by copying 1 GiB within the device."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = _event_times(target.copy_, [source, source], 20)
    return 2 * source.numel() / (float(np.median(times)) / 1e3)


def _name(batch: int, width: int, side: int, dtype: torch.dtype) -> str:
    return f"{batch} x {width}x{width // 2} -> {len(VIEWS)} x {side}x{side} {str(dtype).removeprefix('torch.')}"


def _environment(has_gpu: bool) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "device": torch.cuda.get_device_name() if has_gpu else platform.processor() or platform.machine(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if has_gpu else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """Return what a program prints; None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The JSON file to write.")
@click.option("--build", is_flag=True, help="Build the extension and install this checkout first.")
@click.option("--rounds", default=50, show_default=True, help="Timed calls of each candidate.")
@click.option("--cases", default=40, show_default=True, help="Random cases of each check.")
def main(out: Path, build: bool, rounds: int, cases: int) -> None:
    """Check and time the kernels on this machine."""
    if build:
        # Without dependencies: what is timed is the torch that is there. The new extension needs a new process.
        install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", str(ROOT)]
        subprocess.run([sys.executable, *install], check=True)
        os.execv(sys.executable, [sys.executable, *(each for each in sys.argv if each != "--build")])
    report = run(rounds=rounds, cases=cases)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    for row in (*report["checks"], *report["timings"]):
        click.echo(json.dumps(row))
    click.echo(f"skipped for want of a GPU: {report['num_skipped']}; wrote {out}")
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    main()
