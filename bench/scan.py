"""Time and error of the selective scan and of the convolution before it, beside other ways, on one CPU thread.

Projections, the gate and softplus are no part of it: not every peer has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cora.bench.scan_peers import convolve_by_torch, make_scan_peers
from cora.bench.timing import (
    CONDITIONS,
    Timing,
    copy_bandwidth,
    environment,
    product_speed,
    reuse_memory,
    take_turns,
    use_threads,
)
from cora.errors import CoraError
from cora.ops.causal_conv1d import causal_conv1d
from cora.ops.selective_scan import bidirectional_scan, selective_scan

__all__ = ["COLUMNS", "CONVOLUTIONS", "SCANS", "run"]

COLUMNS = (
    "case",
    "pass",
    "ms",
    "p25_ms",
    "p75_ms",
    "vs_slow",
    "vs_loop",
    "vs_pscan",
    "vs_torch",
    "both_over_one",
    "calls_over_one",
    "rel_rms",
    "worst_rel_rms",
    "floor_ms",
    *CONDITIONS,
)

# (batch, positions, channels, states) and (batch, positions, channels, weights of a channel).
SCANS = ((9, 64, 256, 16), (9, 256, 2048, 16), (3, 256, 2048, 64))
CONVOLUTIONS = ((9, 64, 256, 4), (9, 256, 2048, 4))

# Multiply-add slots that a state takes at a position, at the least: five for the polynomial of the exponential, two
# for its range, one for the state and one for the output.
_SLOTS_PER_STATE = 9
# Backward, the states are computed again, and each takes part in five sums.
_SLOTS_PER_STATE_BACKWARD = 2 * _SLOTS_PER_STATE + 5
_LANES = 8
_LARGEST_ERROR = 1e-4
# Elements [B, L, E, K] beyond which the slow way backward, which copies all of them at each position, is left out.
_MOST_FOR_SLOW_BACKWARD = 10_000_000


def run(
    scans: Sequence[tuple[int, int, int, int]] = SCANS,
    convolutions: Sequence[tuple[int, int, int, int]] = CONVOLUTIONS,
    *,
    rounds: int = 7,
) -> list[dict[str, Any]]:
    """Return one row, with the keys of `COLUMNS`, for each case forward and forward + backward.

    `both_over_one` is the time of both directions in one call over that of one direction, `calls_over_one` that of a
    call for each, as BiMamba makes them; these three take turns by themselves. `rel_rms` is the error of the output,
    `worst_rel_rms` the largest one of any input's gradient: the root of the mean square against float64, as a part of
    that of the values.

    Args:
        scans: (batch, positions, channels, states) of each scan.
        convolutions: (batch, positions, channels, weights of a channel) of each convolution.
        rounds: Timed calls of each candidate.

    Raises:
        CoraError: A peer gives other results: then there is no time worth reporting.
    """
    common = {"threads": 1, "rounds": rounds, "reuses_memory": reuse_memory(), **environment()}
    common["instructions"] = os.environ.get("ATEN_CPU_CAPABILITY", "all")
    rows: list[dict[str, Any]] = []
    with use_threads(1):
        floor = partial(_floor, slots_per_ms=product_speed() / (2 * _LANES), bandwidth=copy_bandwidth())
        for sizes in scans:
            rows += [{**common, **row} for row in _scan_rows(sizes, rounds, floor)]
        for sizes in convolutions:
            rows += [{**common, **row} for row in _convolution_rows(sizes, rounds, floor)]
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _floor(slots: float, moved: float, *, slots_per_ms: float, bandwidth: float) -> float:
    """Return the ms that the larger one of arithmetic and memory takes at the speeds measured in this run."""
    return max(slots / _LANES / slots_per_ms, moved / bandwidth)


def _scan_rows(
    sizes: tuple[int, int, int, int], rounds: int, floor: Callable[[float, float], float]
) -> Iterator[dict[str, Any]]:
    batch, length, channels, states = sizes
    inputs = _scan_inputs(*sizes)
    peers = {name: _Call(peer, inputs) for name, peer in make_scan_peers().items()}
    ours = _Call(partial(selective_scan, layout="bld"), inputs)
    both = _Call(bidirectional_scan, _for_both(inputs))
    turned = _Call(partial(selective_scan, layout="bld", reverse=True), tuple(each.clone() for each in inputs))
    elements = batch * length * channels * states
    moved = 4 * sum(each.numel() for each in inputs) + 4 * inputs[0].numel()
    name = f"scan {batch}x{length}x{channels}, {states} states"
    for passes in ("forward", "forward+backward"):
        backward = passes != "forward"
        calls = {key: call.timed(backward) for key, call in {"ours": ours, **peers}.items()}
        if backward and elements > _MOST_FOR_SLOW_BACKWARD:
            del calls["slow"]
        timings = take_turns(calls, rounds)
        one = ours.timed(backward)
        # Without the peers: the allocator gives gigabytes that they freed back within the next call, and a slow one,
        # which no other call goes before, would pay for that.
        ways = take_turns(
            {"one": one, "both": both.timed(backward), "calls": _in_turn(one, turned.timed(backward))}, rounds
        )
        slots = elements * (_SLOTS_PER_STATE + (_SLOTS_PER_STATE_BACKWARD if backward else 0))
        yield {
            **_row(name, passes, timings, ours.errors(inputs, _LARGEST_ERROR, *peers.values())),
            **{f"{way}_over_one": round(ways[way].median / ways["one"].median, 2) for way in ("both", "calls")},
            "floor_ms": round(floor(slots, moved * (3 if backward else 1)), 4),
        }


def _convolution_rows(
    sizes: tuple[int, int, int, int], rounds: int, floor: Callable[[float, float], float]
) -> Iterator[dict[str, Any]]:
    batch, length, channels, width = sizes
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(
        torch.randn(shape, generator=generator) for shape in ((batch, length, channels), (channels, width), (channels,))
    )
    ours = _Call(causal_conv1d, inputs)
    peer = _Call(convolve_by_torch, (inputs[0].transpose(1, 2).contiguous(), *inputs[1:]))
    moved = 2 * 4 * inputs[0].numel()
    for passes in ("forward", "forward+backward"):
        backward = passes != "forward"
        timings = take_turns({"ours": ours.timed(backward), "torch": peer.timed(backward)}, rounds)
        yield {
            **_row(f"conv {batch}x{length}x{channels}, width {width}", passes, timings, ours.errors(inputs, None)),
            "both_over_one": None,
            "calls_over_one": None,
            # Backward reads the input and the gradient, and writes one.
            "floor_ms": round(floor(0, moved * (2.5 if backward else 1)), 4),
        }


def _row(name: str, passes: str, timings: dict[str, Timing], errors: tuple[float, float]) -> dict[str, Any]:
    ours = timings["ours"]
    return {
        "case": name,
        "pass": passes,
        "ms": round(ours.median, 3),
        "p25_ms": round(ours.p25, 3),
        "p75_ms": round(ours.p75, 3),
        **{
            f"vs_{peer}": round(timings[peer].median / ours.median, 2) if peer in timings else None
            for peer in ("slow", "loop", "pscan", "torch")
        },
        "rel_rms": errors[0],
        "worst_rel_rms": errors[1] if passes != "forward" else None,
        "faults": ours.faults,
    }


def _scan_inputs(batch: int, length: int, channels: int, states: int) -> tuple[Tensor, ...]:
    """Return u, delta, A, B, C and D as a freshly initialised Mamba block has them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    steps = torch.exp(torch.rand(batch, length, channels, generator=generator) * 4.6 - 6.9)  # 0.001 .. 0.1
    transition = -torch.arange(1.0, states + 1).repeat(channels, 1)
    return (
        normal(batch, length, channels),
        steps,
        transition,
        normal(batch, length, states),
        normal(batch, length, states),
        normal(channels),
    )


def _for_both(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the arguments of a scan in both directions with the same sizes: u is shared, all else is its own."""
    u, delta, A, B, C, D = inputs
    own = (torch.stack([each, each.flip(1)], dim=2) for each in (delta, B, C))
    delta, B, C = own
    return u, delta, A.repeat(2, 1, 1), B, C, D.repeat(2, 1)


def _in_turn(*calls: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        # No result outlives its call, as none does where a single call is timed.
        for call in calls:
            call()

    return run


class _Call:
    """A function with its arguments, run forward, or forward and backward by all of them."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self.function = function
        self.inputs = inputs

    def timed(self, backward: bool) -> Callable[[], Any]:
        """Return what `take_turns` calls."""
        if not backward:
            return self._forward
        leaves = [each.clone().requires_grad_() for each in self.inputs]
        with torch.no_grad():
            change = torch.randn_like(self.function(*self.inputs))
        return lambda: torch.autograd.grad(self.function(*leaves), leaves, change)

    def _forward(self) -> Tensor:
        with torch.no_grad():
            return self.function(*self.inputs)

    def errors(self, inputs: tuple[Tensor, ...], limit: float | None, *peers: _Call) -> tuple[float, float]:
        """Return the relative error of the output and the largest of a gradient, for the first sequence of the batch.

        Raises:
            CoraError: A peer is further from the truth than `limit`.
        """
        batch = inputs[0].shape[0]
        first = tuple(each[:1] if each.shape[0] == batch and each.ndim == 3 else each for each in inputs)
        truth, change = self._values(first, torch.float64, None)
        values, _ = self._values(first, torch.float32, change)
        errors = [_relative(value, true) for value, true in zip(values, truth, strict=True)]
        for peer in peers:
            with torch.no_grad():
                error = _relative(peer.function(*first), truth[0])
            if limit is not None and error > limit:
                raise CoraError(
                    f"a peer of the benchmark has a relative error of {error:.1e}: it computes another thing"
                )
        return float(f"{errors[0]:.1e}"), float(f"{max(errors[1:]):.1e}")

    def _values(
        self, inputs: tuple[Tensor, ...], dtype: torch.dtype, change: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        leaves = [each.to(dtype).clone().requires_grad_() for each in inputs]
        output = self.function(*leaves)
        if change is None:
            change = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        gradients = torch.autograd.grad(output, leaves, change.to(dtype))
        return (output.detach(), *gradients), change


def _relative(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm())
