"""The selective scan and the convolution on a GPU: every implementation against float64, and its times beside peers'.

The peers are torch's own operations, and the kernels of mamba_ssm and causal_conv1d where these are installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.bench.gpu.events import time_candidates
from cora.bench.gpu.sequences import ConvCase, ScanCase, excess, random_conv, random_scan, relative_errors
from cora.ops.dispatch import Implementation
from cora.ops.selective_scan import bidirectional_scan

__all__ = ["OPERATIONS", "TIMED", "check", "name_of", "operation_of", "time_case"]

OPERATIONS: dict[str, Callable[[torch.Generator], ScanCase | ConvCase]] = {
    "selective_scan": random_scan,
    "causal_conv1d": random_conv,
}

# 16 panoramas of 9 views, then one; both directions, which share their gate.
TIMED: tuple[ScanCase | ConvCase, ...] = (
    ScanCase(144, 256, 2048, 16, torch.bfloat16, directions=2, shared=frozenset({"z"})),
    ScanCase(144, 256, 2048, 64, torch.bfloat16, directions=2, shared=frozenset({"z"})),
    ScanCase(9, 256, 2048, 16, torch.bfloat16, directions=2, shared=frozenset({"z"})),
    ConvCase(144, 256, 2048, 4, torch.bfloat16, directions=2),
)
EXPONENTIALS_PER_CYCLE = 16  # of a multiprocessor's special function units


def check(operation: str, impl: Implementation, device: str, cases: int, seed: int) -> dict[str, Any]:
    """Return the worst errors of the result and of each gradient over random cases; 1 is what is tolerated."""
    generator = torch.Generator().manual_seed(seed)
    worst: dict[str, float] = {}
    largest, hardest = 0.0, ""
    for number in range(cases):
        case = OPERATIONS[operation](generator)
        errors = relative_errors(case, impl, device=device, seed=seed + number)
        if case.dtype == torch.float32:
            worst |= {name: max(error, worst.get(name, 0.0)) for name, error in errors.items()}
        if (this := excess(case, errors)) >= largest:
            largest, hardest = this, str(case)
    return {
        "op": operation,
        "impl": impl,
        "device": device,
        "cases": cases,
        "of_tolerance": round(largest, 3),
        "hardest": hardest,
        "float32_errors": worst,
        "passed": largest <= 1,
    }


def operation_of(case: ScanCase | ConvCase) -> str:
    """Return the operation that a case is of."""
    return "selective_scan" if isinstance(case, ScanCase) else "causal_conv1d"


def name_of(case: ScanCase | ConvCase) -> str:
    """Return the operation and sizes of a case."""
    inner = f"N {case.states}" if isinstance(case, ScanCase) else f"width {case.width}"
    kind = str(case.dtype).removeprefix("torch.")
    sizes = f"{case.batch} x {case.length} x {case.channels}, {inner}, {case.directions} directions"
    return f"{operation_of(case)} {sizes}, {kind}"


def time_case(
    implementations: Sequence[Implementation], case: ScanCase | ConvCase, *, rounds: int, bandwidth: float
) -> list[dict[str, Any]]:
    """Return the times of the implementations and the peers, forward and with all gradients."""
    generator = torch.Generator().manual_seed(0)
    buffers = [{name: each.cuda().requires_grad_() for name, each in case.inputs(generator).items()} for _ in range(2)]
    calls: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
        f"cora {impl}": lambda inputs, impl=impl: case.call(inputs, impl)  # type: ignore[misc]
        for impl in implementations
        if impl != "reference"
    }
    peers = _scan_peers() if isinstance(case, ScanCase) else _conv_peers()
    calls |= peers
    candidates: dict[str, Callable[[dict[str, Tensor]], Any]] = {}
    for name, call in calls.items():
        candidates[name] = torch.no_grad()(call)
        # The loop's graph holds states at all positions: tens of gigabytes.
        if name != "torch loop":
            candidates[f"{name}, with gradients"] = _with_gradients(call)
    rows = time_candidates(candidates, buffers, rounds)
    floors = _floors(case, buffers[0], bandwidth)
    return [{"op": operation_of(case), "case": name_of(case), **row, **floors} for row in rows]


def _with_gradients(call: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[dict[str, Tensor]], Any]:
    def run(inputs: dict[str, Tensor]) -> Any:
        y = call(inputs)
        return torch.autograd.grad(y, list(inputs.values()), y.detach())

    return run


def _floors(case: ScanCase | ConvCase, inputs: dict[str, Tensor], bandwidth: float) -> dict[str, Any]:
    """Return what the forward takes at least: to move its bytes, and to compute its exponentials."""
    size = inputs["delta" if isinstance(case, ScanCase) else "x"]
    moved = sum(each.numel() * each.element_size() for each in inputs.values()) + size.numel() * size.element_size()
    floors: dict[str, Any] = {"forward_bytes_ms": round(moved / bandwidth * 1e3, 4)}
    if isinstance(case, ScanCase):
        device = torch.cuda.get_device_properties(0)
        # In kilohertz: exponentials a millisecond.
        speed = EXPONENTIALS_PER_CYCLE * device.multi_processor_count * device.clock_rate
        floors["forward_exponentials_ms"] = round(size.numel() * case.states / speed, 4)
    return floors


def _scan_peers() -> dict[str, Callable[[dict[str, Tensor]], Tensor]]:
    def loop(inputs: dict[str, Tensor]) -> Tensor:
        return bidirectional_scan(**inputs, delta_softplus=True, impl="reference")

    peers: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {"torch loop": loop}
    if find_spec("mamba_ssm") is None:
        return peers
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

    def two_scans(inputs: dict[str, Tensor]) -> Tensor:
        results = []
        for way in (0, 1):
            own = {name: each[:, :, way] if each.ndim == 4 else each for name, each in inputs.items()}
            u, delta, z, B, C = ((own[name].flip(1) if way else own[name]).mT for name in ("u", "delta", "z", "B", "C"))
            A, D, bias = (inputs[name][way] for name in ("A", "D", "delta_bias"))
            y = scan(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True).mT
            results.append(y.flip(1) if way else y)
        return torch.stack(results, dim=2)

    return {**peers, "mamba_ssm, twice with flips": two_scans}


def _conv_peers() -> dict[str, Callable[[dict[str, Tensor]], Tensor]]:
    def both(convolve: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
        def run(inputs: dict[str, Tensor]) -> Tensor:
            results = []
            for way in (0, 1):
                x = inputs["x"][:, :, way]
                weight, bias = (inputs[name][way].to(x.dtype) for name in ("weight", "bias"))
                y = convolve((x.flip(1) if way else x).mT, weight, bias).mT
                results.append(y.flip(1) if way else y)
            return torch.stack(results, dim=2)

        return run

    def by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        width = weight.shape[-1]
        y = F.conv1d(x, weight[:, None], bias, padding=width - 1, groups=len(weight))
        return F.silu(y[..., : x.shape[-1]])

    peers = {"torch conv1d and silu, twice with flips": both(by_torch)}
    if find_spec("causal_conv1d") is not None:
        convolve = importlib.import_module("causal_conv1d").causal_conv1d_fn
        peers["causal_conv1d, twice with flips"] = both(lambda x, w, b: convolve(x, w, b, activation="silu"))
    return peers
