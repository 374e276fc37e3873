"""Time and quality of cutting a ring of eight views from a panorama, beside what others use.

The source is one made-up scene, area-averaged to each width. Quality is the PSNR against many samples of the full
scene in each pixel, so that it counts aliasing as well as blur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cora.bench.peers import make_peers
from cora.bench.scene import make_source, make_truth
from cora.bench.timing import Timing, copy_bandwidth, environment, reuse_memory, take_turns, use_threads
from cora.errors import CoraError
from cora.geometry.layouts import yaw_ring
from cora.geometry.sampling import panorama_coordinates, sample_bilinear
from cora.ops.dispatch import Implementation
from cora.ops.erp_to_views import available_implementations, erp_to_views
from cora.ops.view_plan import gather_plan

__all__ = ["COLUMNS", "SIZES", "WIDTHS", "psnr", "run"]

COLUMNS = (
    "source_width",
    "size",
    "antialias",
    "threads",
    "impl",
    "ms",
    "p25_ms",
    "p75_ms",
    "vs_cv2",
    "vs_py360",
    "vs_research",
    "vs_grid_sample",
    "vs_one_thread",
    "psnr_db",
    "research_psnr_db",
    "max_lsb",
    "floor_ms",
    "faults",
    "rounds",
    "reuses_memory",
    "device",
    "cores",
    "torch",
)

WIDTHS = (1024, 2048, 4096, 8192)
SIZES = (256, 448)

VIEWS = tuple(yaw_ring(90.0, 0.5))
MEAN = STD = (0.5, 0.5, 0.5)
LARGEST_DIFFERENCE = 1e-4


def run(
    widths: Sequence[int] = WIDTHS,
    sizes: Sequence[int] = SIZES,
    *,
    threads: Sequence[int] = (1,),
    rounds: int = 11,
    scene_width: int | None = None,
) -> list[dict[str, Any]]:
    """Return one row, with the keys of `COLUMNS`, for each case, with and without antialiasing.

    Args:
        widths: Panorama widths in pixels.
        sizes: View sides in pixels.
        threads: Numbers of CPU threads.
        rounds: Timed calls of each candidate.
        scene_width: Width of the scene that the sources are averaged from; the largest of `widths` by default.

    Raises:
        CoraError: Two implementations of the operation disagree: then no time is worth reporting.
    """
    reuses_memory = reuse_memory()
    scene_width = scene_width or max(widths)
    with use_threads(1):
        common = {"rounds": rounds, "reuses_memory": reuses_memory, **environment()}
        bandwidth = copy_bandwidth()
    rows = []
    for size in sizes:
        truth = make_truth(scene_width, VIEWS, size)
        for width in widths:
            source = make_source(scene_width, width)
            for count in threads:
                with use_threads(count):
                    cases = _run_case(source, size, truth, rounds, bandwidth)
                rows += [{"source_width": width, "size": size, "threads": count, **case, **common} for case in cases]
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _run_case(source: Tensor, size: int, truth: Tensor, rounds: int, bandwidth: float) -> list[dict[str, Any]]:
    impl = available_implementations()[0]
    ours = {antialias: partial(_cut, source, size, antialias, impl) for antialias in (True, False)}
    for antialias, cut in ours.items():
        difference = float((cut() - _cut(source, size, antialias, "reference")).abs().max())
        if difference > LARGEST_DIFFERENCE:
            raise CoraError(f"'{impl}' and 'reference' differ by {difference:.2g}: nothing was timed")
    peers = make_peers(source, VIEWS, size)
    candidates: dict[str, Callable[[], Any]] = {"antialias": ours[True], "bilinear": ours[False], **peers}
    timings = take_turns(candidates, rounds)
    research_psnr = psnr(peers["research"](), truth) if "research" in peers else None
    rows = []
    for antialias, cut in ours.items():
        timing = timings["antialias" if antialias else "bilinear"]
        pictures = cut()
        row = {
            "antialias": antialias,
            "impl": impl,
            "ms": round(timing.median, 3),
            "p25_ms": round(timing.p25, 3),
            "p75_ms": round(timing.p75, 3),
            **{f"vs_{name}": _ratio(timings.get(name), timing) for name in ("cv2", "py360", "research", "grid_sample")},
            "vs_one_thread": _speedup(cut, torch.get_num_threads(), rounds),
            "psnr_db": psnr(pictures, truth),
            "research_psnr_db": research_psnr,
            "max_lsb": round(_largest_error(pictures, source, antialias), 3),
            "floor_ms": round(_floor(source, size, antialias, bandwidth), 6),
            "faults": timing.faults,
        }
        rows.append(row)
    return rows


def _speedup(cut: Callable[[], Any], threads: int, rounds: int) -> float | None:
    """Return how many times longer one thread takes; None where there is only one.

    By themselves: the threads of other libraries wait for work a while after a call, in the place of ours.
    """
    if threads == 1:
        return None

    def with_threads(count: int) -> None:
        torch.set_num_threads(count)
        cut()

    timings = take_turns({str(count): partial(with_threads, count) for count in (1, threads)}, rounds)
    return _ratio(timings["1"], timings[str(threads)])


def _cut(source: Tensor, size: int, antialias: bool, impl: Implementation) -> Tensor:
    return erp_to_views(source, VIEWS, size=(size, size), mean=MEAN, std=STD, antialias=antialias, impl=impl)


def _ratio(peer: Timing | None, ours: Timing) -> float | None:
    """Return how many times longer a peer takes; None where it is not installed."""
    return None if peer is None else round(peer.median / ours.median, 2)


def psnr(pictures: Tensor, truth: Tensor) -> float:
    """Return the PSNR in dB of views in -1 .. 1 against a truth in 0 .. 1."""
    return round(-10 * math.log10(max(1e-12, float(((pictures * 0.5 + 0.5 - truth) ** 2).mean()))), 2)


def _largest_error(pictures: Tensor, source: Tensor, antialias: bool) -> float:
    """Return the largest error in steps of 1 / 255: against float64 bilinear samples, or unrounded float64 levels."""
    if antialias:
        exact = erp_to_views(
            source.double(), VIEWS, size=_size(pictures), mean=MEAN, std=STD, dtype=torch.float64, antialias=True
        )
        return float((pictures - exact).abs().max()) * 127.5
    height, width, _ = source.shape
    texels, errors = source.double(), []
    for view, picture in zip(VIEWS, pictures, strict=True):
        x, y = panorama_coordinates(view, *_size(pictures), panorama_height=height, panorama_width=width)
        exact = sample_bilinear(texels, x, y)
        errors.append(float((picture * 127.5 + 127.5 - exact.permute(2, 0, 1)).abs().max()))
    return max(errors)


def _size(pictures: Tensor) -> tuple[int, int]:
    return pictures.shape[-2], pictures.shape[-1]


def _floor(source: Tensor, size: int, antialias: bool, bandwidth: float) -> float:
    """Return the milliseconds that memory alone takes: the result written, and each 64-byte line read that is used."""
    height, width, _ = source.shape
    plans = [
        gather_plan(view, size, size, panorama_height=height, panorama_width=width, antialias=antialias)
        for view in VIEWS
    ]
    level = plans[0][0].level
    moved = 4 * 3 * len(VIEWS) * size * size
    if level:
        # The rows that are halved, read once; what is written of them and read again is a fraction of that.
        first, last = plans[0][0].rows
        moved += (last - first << level) * width * 3
    else:
        lines = torch.zeros(height * width * 3 // 64 + 2, dtype=torch.bool)
        for plan, shift in plans:
            row = ((plan.taps >> 16) - 1).clamp(0, height - 2).long()
            column = ((plan.taps & 0xFFFF) + shift) % width
            for below in (0, 1):
                lines[((row + below) * width + column) * 3 // 64] = True
        moved += 64 * int(lines.sum())
    return moved / bandwidth
