"""Time and error of what resamplers are made of, and of whole resamplers, beside torch eager and torch.compile.

Parts are timed whether CORA has an operation for them or not: where eager is near the floor there is nothing to fuse,
and the rows say so. Peers get what suits them: tokens channels last, which torch's convolution takes without a copy.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from cora.geometry.layouts import yaw_ring
from cora.model.layout import build_token_layout
from cora.model.projectors import PanoramaProjector
from cora.model.resampler.module import RESAMPLERS, ResamplerModule
from cora.model.resampler.perceiver import PerceiverAttention
from cora.ops.depthwise_norm import depthwise_norm
from cora.ops.dispatch import available_faces
from cora.types import ViewSpec

__all__ = ["COLUMNS", "Case", "run"]

COLUMNS = (
    "case",
    "pass",
    "impl",
    "ms",
    "p25_ms",
    "p75_ms",
    "eager_ms",
    "compile_ms",
    "vs_eager",
    "vs_compile",
    "vs_best",
    "rel_rms",
    "eager_rel_rms",
    "floor_ms",
    *CONDITIONS,
)

LARGEST_ERROR = 1e-4
# Whole resamplers take seconds, and are timed fewer times.
WHOLE_ROUNDS = 3
VIEWS = (ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True), *yaw_ring(90.0, 0.5, first_index=1))


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
        name: What it is, with its sizes.
        ours: The operation or module as CORA runs it.
        peer: The same in plain torch, which is run as it is and compiled; `ours` where there is nothing to replace.
        inputs: Arguments; each is differentiated by, and so are the parameters of a module.
        flops: Of the matrix products and convolutions of the forward pass; None where they are not counted.
        moved: Bytes read and written at least, forward.
        impl: The implementation that `ours` is; ``torch`` where it is torch's, ``auto`` where its operations choose.
    """

    name: str
    ours: Callable[..., Tensor]
    peer: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    flops: float | None = None
    moved: float = 0.0
    impl: str = "torch"


def run(cases: Sequence[str] = (), *, rounds: int = 7, side: int = 16, width: int = 1024) -> list[dict[str, Any]]:
    """Return one row, with the keys of `COLUMNS`, for each case and pass, on one CPU thread.

    Args:
        cases: Only cases whose names contain one of these; all of them by default.
        rounds: Timed calls of each candidate; whole resamplers get no more than three.
        side: Rows and columns of the tokens of a view.
        width: Width of the tokens and of what is between them and the language model.

    Raises:
        CoraError: CORA and torch disagree, or no case has such a name: then there is no time worth reporting.
    """
    common = {"threads": 1, "reuses_memory": reuse_memory(), **environment()}
    common["instructions"] = os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
    rows: list[dict[str, Any]] = []
    with use_threads(1):
        floor = partial(_floor, flops_per_ms=product_speed(), bandwidth=copy_bandwidth())
        for make in _cases(len(VIEWS), side, width, cases):
            torch.manual_seed(0)
            case = make()
            some = rounds if case.flops is not None else min(rounds, WHOLE_ROUNDS)
            rows += [{**common, **row, "rounds": some} for row in _run_case(case, some, floor)]
    if not rows:
        raise CoraError(f"no benchmark of resamplers has a name with {' or '.join(cases)}")
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _cases(views: int, side: int, width: int, wanted: Sequence[str]) -> Iterator[Callable[[], Case]]:
    """Return what makes each case that is wanted: one at a time is in memory."""
    shape = f"{views}x{side}x{side}"
    makers: dict[str, Callable[[str], Case]] = {
        f"depthwise_norm {size}x{size}, {shape}x{width}": partial(_depthwise_norm, views, side, width, size)
        for size in (7, 5, 3)
    }
    makers |= {
        f"linear-norm-gelu {width * 3 // 4}-{width}, {shape}": partial(_linear_norm, views, side, width),
        f"norm-linear-gelu {width}-{4 * width}, {shape}": partial(_feed_forward, views, side, width),
        f"perceiver attention 64 latents, {shape}x{width}": partial(_perceiver, views, side, width),
        f"linear-silu-squeeze {width}-{4 * width}, {shape}": partial(_squeeze, views, side, width),
        f"projector stride_views {width}-{width}, {shape}": partial(_projector, side, width, False),
        f"projector stride_views {width}-{width}, {shape}, dropped last": partial(_projector, side, width, True),
    }
    for kind in RESAMPLERS.names():
        makers[f"resampler {kind} {width}-{width}, {shape}"] = partial(_resampler, views, side, width, kind)
    for name, make in makers.items():
        if not wanted or any(part in name for part in wanted):
            yield partial(make, name)


def _run_case(case: Case, rounds: int, floor: Callable[[float, float], float]) -> Iterator[dict[str, Any]]:
    torch.compiler.reset()
    peer = torch.compile(case.peer, dynamic=False)
    parameters = list(case.ours.parameters()) if isinstance(case.ours, nn.Module) else []
    leaves = [each.requires_grad_() for each in (*case.inputs, *parameters)]
    change = torch.randn_like(case.peer(*case.inputs))
    same = case.ours is case.peer
    errors = {name: _error(case, function, change) for name, function in (("ours", case.ours), ("eager", case.peer))}
    for number, passes in enumerate(("forward", "forward+backward")):
        call = _forward if number == 0 else _forward_and_backward
        arguments = (case.inputs,) if number == 0 else (case.inputs, leaves, change)
        functions = {"eager": case.peer, "compile": peer} | ({} if same else {"ours": case.ours})
        timings = take_turns({name: partial(call, each, *arguments) for name, each in functions.items()}, rounds)
        timings.setdefault("ours", timings["eager"])
        bound = None if case.flops is None else floor(case.flops * (1, 3)[number], case.moved * (1, 3)[number])
        yield {"case": case.name, "pass": passes, "impl": case.impl, **_figures(timings), "floor_ms": bound} | {
            "rel_rms": errors["ours"][number],
            "eager_rel_rms": errors["eager"][number],
        }


def _figures(timings: dict[str, Timing]) -> dict[str, Any]:
    ours, eager, compiled = (timings[name] for name in ("ours", "eager", "compile"))
    return {
        "ms": round(ours.median, 3),
        "p25_ms": round(ours.p25, 3),
        "p75_ms": round(ours.p75, 3),
        "eager_ms": round(eager.median, 3),
        "compile_ms": round(compiled.median, 3),
        "vs_eager": round(eager.median / ours.median, 2),
        "vs_compile": round(compiled.median / ours.median, 2),
        "vs_best": round(min(eager.median, compiled.median) / ours.median, 2),
        "faults": ours.faults,
    }


def _forward(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return function(*inputs)


def _forward_and_backward(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], leaves: Sequence[Tensor], change: Tensor
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*inputs), leaves, change, allow_unused=True)


def _error(case: Case, function: Callable[..., Tensor], change: Tensor) -> tuple[float, float | None]:
    """Return the relative RMS error of the result, and the worst of all gradients, against float64.

    Of a module only the result's: in float64 the states of a scan would not fit into memory for the gradients.
    """
    if isinstance(function, nn.Module):
        with torch.no_grad():
            exact = copy.deepcopy(function).double()(*(each.double() for each in case.inputs))
            return _relative(function(*case.inputs), exact), None
    exact_inputs = [each.detach().double().requires_grad_() for each in case.inputs]
    exact = case.peer(*exact_inputs)
    result = function(*case.inputs)
    error = _relative(result, exact)
    if error > LARGEST_ERROR:
        raise CoraError(f"{case.name}: the result is off by {error:.2g}: nothing was timed")
    gradients = torch.autograd.grad(result, case.inputs, change)
    exact_gradients = torch.autograd.grad(exact, exact_inputs, change.double())
    worst = max(_relative(one, other) for one, other in zip(gradients, exact_gradients, strict=True))
    if worst > LARGEST_ERROR:
        raise CoraError(f"{case.name}: a gradient is off by {worst:.2g}: nothing was timed")
    return error, worst


def _relative(value: Tensor, exact: Tensor) -> float:
    difference = (value.detach().double() - exact.detach()).square().mean()
    return float(f"{float((difference / exact.detach().square().mean()).sqrt()):.2g}")


def _floor(flops: float, moved: float, *, flops_per_ms: float, bandwidth: float) -> float:
    """Return the milliseconds of the arithmetic at the speed of a product, or of the memory if that takes longer."""
    return round(max(flops / flops_per_ms, moved / bandwidth), 3)


def _depthwise_norm(views: int, side: int, width: int, size: int, name: str) -> Case:
    def peer(x: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
        values = F.conv2d(x.permute(0, 3, 1, 2), weight[:, None], bias, padding=size // 2, groups=width)
        return F.layer_norm(values.permute(0, 2, 3, 1), (width,), norm_weight, norm_bias, 1e-6)

    x = torch.randn(views, side, side, width)
    weight = torch.randn(width, size, size) / size
    vectors = [torch.randn(width) for _ in range(3)]
    return Case(
        name, depthwise_norm, peer, (x, weight, *vectors), flops=2.0 * x.numel() * size**2, moved=8.0 * x.numel(),
        impl=available_faces("depthwise_norm_forward", "cpu")[0],
    )  # fmt: skip


def _linear_norm(views: int, side: int, width: int, name: str) -> Case:
    narrow = width * 3 // 4
    chain = nn.Sequential(nn.Linear(narrow, width), nn.LayerNorm(width), nn.GELU())
    x = torch.randn(views, side * side, narrow)
    return Case(name, chain, chain, (x,), flops=2.0 * x.numel() * width)


def _feed_forward(views: int, side: int, width: int, name: str) -> Case:
    chain = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU())
    x = torch.randn(views, side * side, width)
    return Case(name, chain, chain, (x,), flops=8.0 * x.numel() * width)


class _ExpandAndSqueeze(nn.Module):
    """The wide half of a spatial block of the C-Abstractor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from cora.model.resampler.c_abstractor import SqueezeExcitation

        self.expand = nn.Linear(width, 4 * width)
        self.se = SqueezeExcitation(4 * width, 4)

    def forward(self, grid: Tensor) -> Tensor:
        result: Tensor = self.se(F.silu(self.expand(grid)))
        return result


def _squeeze(views: int, side: int, width: int, name: str) -> Case:
    x = torch.randn(views, side, side, width)
    module = _ExpandAndSqueeze(width)
    return Case(name, module, module, (x,), flops=8.0 * x.numel() * width)


def _perceiver(views: int, side: int, width: int, name: str) -> Case:
    latents, heads, head_width = 64, 8, 64
    attention = PerceiverAttention(width, heads, head_width)
    media, queries = torch.randn(views, side * side, width), torch.randn(views, latents, width)
    keys, inner = side * side + latents, heads * head_width
    flops = 4.0 * views * (keys * width * inner + latents * width * inner + latents * keys * inner)
    return Case(name, attention, attention, (media, queries), flops=flops)


class _DropLast(nn.Module):
    """Encodes and projects every token, and then picks those that are kept: what the projector saves."""

    def __init__(self, projector: PanoramaProjector) -> None:
        super().__init__()
        layout, linear = projector.layout, projector.linear
        everything = tuple(range(len(layout.views) * layout.tokens_per_view))
        self.projector = PanoramaProjector(
            replace(layout, gather=everything), latent_dim=linear.in_features, output_dim=linear.out_features
        )
        self.register_buffer("gather", torch.tensor(layout.gather))

    def forward(self, latents: Tensor) -> Tensor:
        kept: Tensor = self.projector(latents)[:, self.gather]
        return kept


def _projector(side: int, width: int, drops_last: bool, name: str) -> Case:
    grid_hw = (side, side)
    layout = build_token_layout(
        VIEWS, grid_hw=grid_hw, tokens_per_view=side * side, view_size=(256, 256),
        stitching="stride_views",
    )  # fmt: skip
    projector = PanoramaProjector(layout, latent_dim=width, output_dim=width)
    module = _DropLast(projector) if drops_last else projector
    x = torch.randn(1, len(VIEWS), side * side, width)
    return Case(name, module, module, (x,), flops=2.0 * layout.num_tokens * width * width)


class _OnGrid(nn.Module):
    """A resampler for views of one grid."""

    def __init__(self, resampler: ResamplerModule, side: int) -> None:
        super().__init__()
        self.resampler = resampler
        self.side = side

    def forward(self, tokens: Tensor) -> Tensor:
        latents: Tensor = self.resampler(tokens, (self.side, self.side))
        return latents


def _resampler(views: int, side: int, width: int, kind: str, name: str) -> Case:
    # In evaluation there is no dropout: the same work in every call.
    module = _OnGrid(ResamplerModule({"type": kind}, input_dim=width, latent_dim=width), side).eval()
    return Case(name, module, module, (torch.randn(views, side * side, width),), impl="auto")
