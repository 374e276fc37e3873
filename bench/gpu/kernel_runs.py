"""The kernels of resamplers on a GPU: every implementation against float64, and its times beside peers'.

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

from cora.bench.gpu.errors import Case, excess, relative_errors
from cora.bench.gpu.events import time_candidates
from cora.bench.gpu.grids import NormCase, random_norm
from cora.bench.gpu.sequences import ConvCase, ScanCase, random_conv, random_scan
from cora.ops.dispatch import Implementation
from cora.ops.selective_scan import bidirectional_scan

__all__ = ["OPERATIONS", "TIMED", "check", "peers_of", "time_case"]

Call = Callable[[dict[str, Tensor]], Tensor]

OPERATIONS: dict[str, Callable[[torch.Generator], Case]] = {
    "selective_scan": random_scan,
    "causal_conv1d": random_conv,
    "depthwise_norm": random_norm,
}

# 16 panoramas of 9 views, then one; both directions, which share their gate.
TIMED: tuple[Case, ...] = (
    ScanCase(144, 256, 2048, 16, torch.bfloat16, directions=2, shared=frozenset({"z"})),
    ScanCase(144, 256, 2048, 64, torch.bfloat16, directions=2, shared=frozenset({"z"})),
    ScanCase(9, 256, 2048, 16, torch.bfloat16, directions=2, shared=frozenset({"z"})),
    ConvCase(144, 256, 2048, 4, torch.bfloat16, directions=2),
    NormCase(144, 16, 16, 1024, 7, torch.bfloat16),
    NormCase(9, 16, 16, 1024, 7, torch.bfloat16),
)
# Of a multiprocessor: by its special function units, and by those that multiply and add.
EXPONENTIALS_PER_CYCLE = 16
PRODUCTS_PER_CYCLE = 128


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


def time_case(
    implementations: Sequence[Implementation], case: Case, *, rounds: int, bandwidth: float
) -> list[dict[str, Any]]:
    """Return the times of the implementations and the peers, forward and with all gradients."""
    generator = torch.Generator().manual_seed(0)
    buffers = [{name: each.cuda().requires_grad_() for name, each in case.inputs(generator).items()} for _ in range(2)]
    calls: dict[str, Call] = {
        f"cora {impl}": lambda inputs, impl=impl: case.call(inputs, impl)  # type: ignore[misc]
        for impl in implementations
        if impl != "reference"
    }
    calls |= peers_of(case.operation)
    candidates: dict[str, Callable[[dict[str, Tensor]], Any]] = {}
    for name, call in calls.items():
        candidates[name] = torch.no_grad()(call)
        # The loop's graph holds states at all positions: tens of gigabytes.
        if name != "torch loop":
            candidates[f"{name}, with gradients"] = _with_gradients(call)
    rows = time_candidates(candidates, buffers, rounds)
    floors = _floors(case, buffers[0], bandwidth)
    return [{"op": case.operation, "case": case.name, **row, **floors} for row in rows]


def _with_gradients(call: Call) -> Callable[[dict[str, Tensor]], Any]:
    def run(inputs: dict[str, Tensor]) -> Any:
        y = call(inputs)
        return torch.autograd.grad(y, list(inputs.values()), y.detach())

    return run


def _floors(case: Case, inputs: dict[str, Tensor], bandwidth: float) -> dict[str, Any]:
    """Return what the forward takes at least: to move its bytes, and for its exponentials or its products."""
    size = inputs["delta" if isinstance(case, ScanCase) else "x"]
    moved = sum(each.numel() * each.element_size() for each in inputs.values()) + size.numel() * size.element_size()
    floors: dict[str, Any] = {"forward_bytes_ms": round(moved / bandwidth * 1e3, 4)}
    device = torch.cuda.get_device_properties(0)
    # In kilohertz: cycles of all multiprocessors in a millisecond.
    cycles = device.multi_processor_count * device.clock_rate
    if isinstance(case, ScanCase):
        exponentials = size.numel() * case.states
        floors["forward_exponentials_ms"] = round(exponentials / (EXPONENTIALS_PER_CYCLE * cycles), 4)
    if isinstance(case, NormCase):
        floors["forward_products_ms"] = round(size.numel() * case.size**2 / (PRODUCTS_PER_CYCLE * cycles), 4)
    return floors


def peers_of(operation: str) -> dict[str, Call]:
    """Return what else does the work of an operation, by name."""
    return {"selective_scan": _scan_peers, "causal_conv1d": _conv_peers, "depthwise_norm": _norm_peers}[operation]()


def _scan_peers() -> dict[str, Call]:
    def loop(inputs: dict[str, Tensor]) -> Tensor:
        return bidirectional_scan(**inputs, delta_softplus=True, impl="reference")

    peers: dict[str, Call] = {"torch loop": loop}
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


def _conv_peers() -> dict[str, Call]:
    def both(convolve: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Call:
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


def _norm_peers() -> dict[str, Call]:
    def by_torch(inputs: dict[str, Tensor]) -> Tensor:
        x = inputs["x"]
        weight, bias, norm_weight, norm_bias = (
            inputs[name].to(x.dtype) for name in ("weight", "bias", "norm_weight", "norm_bias")
        )
        # The axes are turned, not the memory: the convolution has its channels last.
        values = F.conv2d(x.permute(0, 3, 1, 2), weight[:, None], bias, padding=weight.shape[-1] // 2, groups=len(bias))
        return F.layer_norm(values.permute(0, 2, 3, 1), norm_weight.shape, norm_weight, norm_bias, 1e-6)

    return {"torch conv2d channels-last and layer_norm": by_torch}
