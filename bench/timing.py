"""Timing that can be trusted: candidates take turns, medians and quartiles, memory kept by the allocator."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = [
    "CONDITIONS",
    "PERCENTILES",
    "Timing",
    "copy_bandwidth",
    "device_name",
    "environment",
    "product_speed",
    "reuse_memory",
    "take_turns",
    "use_threads",
]

# The last columns of a benchmark on one thread: page faults in the median call, and what the figures depend on.
CONDITIONS = ("faults", "threads", "instructions", "rounds", "reuses_memory", "device", "cores", "torch")
PERCENTILES = (50, 90, 99)
"""Of waits, the ones that are told."""

_SLOW_MS = 300.0


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a candidate: the median and quartiles of its calls, and page faults in the median call."""

    median: float
    p25: float
    p75: float
    faults: float


def reuse_memory() -> bool:
    """Let the C allocator keep freed memory; return whether it does.

    Otherwise every call pays for the pages of its result anew, and a comparison of code becomes one of page faults.
    An aligned request, as torch makes, may still pass over a freed piece of its own size: the faults of a
    :class:`Timing` tell.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, most_mappings = -1, -2, -4
    # All of them return 1 on success.
    return bool(
        set_option(most_mappings, 0) and set_option(trim_threshold, 2**31 - 1) and set_option(top_pad, 256 << 20)
    )


def take_turns(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Return the timing of each candidate; they take turns, so that a busy machine slows all of them alike.

    In its turn a candidate is called once to warm the caches that the others have filled, and then timed once. A slow
    one, of more than 0.3 s once it has been called before, is timed at once: it has cooled them itself by its end.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    faults: dict[str, list[int]] = {name: [] for name in candidates}
    slow = {name for name, candidate in candidates.items() if min(_call(candidate)[0] for _ in range(2)) > _SLOW_MS}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            if name not in slow:
                candidate()
            milliseconds, new_faults = _call(candidate)
            times[name].append(milliseconds)
            faults[name].append(new_faults)
    timings = {}
    for name in candidates:
        median, p25, p75 = (float(value) for value in np.percentile(times[name], [50, 25, 75]))
        timings[name] = Timing(median, p25, p75, float(np.median(faults[name])))
    return timings


def _call(candidate: Callable[[], Any]) -> tuple[float, int]:
    """Return the milliseconds and the page faults of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start = time.perf_counter()
    candidate()
    milliseconds = (time.perf_counter() - start) * 1e3
    return milliseconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let torch, and OpenCV where it is installed, use this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    set_opencv: Callable[[int], None] = (
        importlib.import_module("cv2").setNumThreads if find_spec("cv2") else lambda _: None
    )
    set_opencv(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        set_opencv(-1)


def copy_bandwidth() -> float:
    """Return bytes read and written per millisecond by copying 128 MiB, the best of five."""
    source = torch.ones(1 << 27, dtype=torch.uint8)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        best = max(best, 2 * source.numel() / ((time.perf_counter() - start) * 1e3))
    return best


def product_speed() -> float:
    """Return the floating-point operations per millisecond of a large matrix product, the best of five.

    On one thread half of it, by the numbers in a vector, is how often a vector is multiplied and added to another.
    """
    size = 1024
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * size**3 / ((time.perf_counter() - start) * 1e3))
    return best


def device_name() -> str:
    """Return what the processor calls itself."""
    information = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", information.read_text(), re.MULTILINE) if information.exists() else []
    return names[0] if names else platform.machine()


def environment() -> dict[str, Any]:
    """Return what a figure depends on besides the code: processor, cores that may be used, and torch."""
    return {"device": device_name(), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}
