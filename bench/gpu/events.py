"""Times on a GPU by CUDA events, on buffers that take turns so that nothing is left in the cache by the call before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["copy_bandwidth", "event_times", "time_candidates"]


def time_candidates(
    candidates: Mapping[str, Callable[[Any], Any]], buffers: Sequence[Any], rounds: int
) -> list[dict[str, Any]]:
    """Return a row for each candidate: median and spread in milliseconds, and the memory it takes."""
    rows = []
    for name, candidate in candidates.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        times = event_times(candidate, buffers, rounds)
        p20, median, p80 = (float(value) for value in np.percentile(times, [20, 50, 80]))
        rows.append(
            {
                "candidate": name,
                "ms": round(median, 4),
                "p20_ms": round(p20, 4),
                "p80_ms": round(p80, 4),
                "peak_mib": round((torch.cuda.max_memory_allocated() - before) / 2**20),
                "rounds": rounds,
            }
        )
    return rows


def event_times(call: Callable[[Any], Any], buffers: Sequence[Any], rounds: int) -> list[float]:
    """Return milliseconds of each of so many calls, after one with each buffer."""
    for buffer in buffers:
        call(buffer)
    event: Any = torch.cuda.Event
    marks = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(rounds)]
    for number, (start, end) in enumerate(marks):
        start.record()
        call(buffers[number % len(buffers)])
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]


def copy_bandwidth() -> float:
    """Return bytes read and written a second by copying 1 GiB within the device."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = event_times(target.copy_, [source, source], 20)
    return 2 * source.numel() / (float(np.median(times)) / 1e3)
