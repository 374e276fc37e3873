"""Compares the Triton kernels with the reference under Triton's interpreter; run as a program by test_triton.py."""

from __future__ import annotations

import math

import torch

from cora.bench.gpu.errors import excess, relative_errors
from cora.bench.gpu.sequences import ConvCase, ScanCase
from cora.ops.depthwise_norm import depthwise_norm
from cora.ops.erp_to_views import erp_to_views
from cora.ops.reference import erp_to_views as reference
from cora.ops.view_plan import gather_plan
from cora.triton_kernels import selective_scan as scan_kernels
from cora.triton_kernels.sample_views import halve, sample_views
from cora.types import ViewSpec

VIEWS = [
    ViewSpec(0, "perspective", -180, -20, 100, 70),
    ViewSpec(0, "perspective", 33, 90, 90, 90),
    ViewSpec(0, "perspective", -100, -90, 60, 60, roll_deg=30),
    ViewSpec(0, "equirectangular", 0, 0, 360, 180),
]


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)


# One pixel for everything would take 256 samples, which the interpreter makes minutes of.
CASES = [
    (panorama_size, view, size, antialias)
    for panorama_size in ((9, 15), (64, 128))
    for view in VIEWS
    for size, antialias in (((1, 1), False), ((9, 16), False), ((9, 16), True))
]


def check_sampling() -> int:
    compared = 0
    for (height, width), view, size, antialias in CASES:
        plan, shift = gather_plan(view, *size, panorama_height=height, panorama_width=width, antialias=antialias)
        level = noise(2, height, width, 3)
        for _ in range(plan.level):
            level = reference.halve(level)
        shifts = [shift, 0, level.shape[2] - 1]
        scale, offset = [0.1, 0.2, 0.3], [0.0, -1.0, 2.0]
        expected = torch.empty(2, 3, 3, *size)
        reference.sample_views(level, plan, shifts, scale, offset, expected)
        # Values up to 77; the interpreter cuts bfloat16 off where a GPU rounds.
        kinds = {torch.float32: 1e-4, torch.bfloat16: 0.51, torch.float16: 0.04}
        for kind in list(kinds)[: 1 if antialias else 3]:
            whole = torch.full((2, 3, 3, size[0] + 2, size[1]), math.nan, dtype=kind)
            sample_views(level, plan.taps, plan.weights, shifts, scale, offset, whole[:, :, :, 1:-1])
            difference = (whole[:, :, :, 1:-1].float() - expected).abs().max()
            assert difference <= kinds[kind], (height, view, size, antialias, kind, difference)
            assert whole[:, :, :, [0, -1]].isnan().all()
            compared += 1
    return compared


def check_halving() -> int:
    for size in ((2, 2), (6, 10), (32, 64)):
        panoramas = noise(2, *size, 3)
        rows = size[0] // 2
        expected = reference.halve(panoramas)
        assert torch.equal(halve(panoramas, 0, rows), expected)
        assert torch.equal(halve(panoramas, rows // 2, rows)[:, rows // 2 :], expected[:, rows // 2 :])
        assert halve(panoramas, 1, 1).shape == expected.shape
    return 3


def check_operation() -> int:
    for antialias in (True, False):
        ours, expected = (
            erp_to_views(
                noise(80, 160, 3), VIEWS, size=(6, 6), mean=(0, 0, 0), std=(1, 1, 1), antialias=antialias, impl=impl
            )
            for impl in ("triton", "reference")
        )
        assert (ours - expected).abs().max() < 1e-5
    return 2


# The interpreter makes a scan in a tile one element at a time: a second for 20 positions of a few channels.
SEQUENCES = [
    ScanCase(1, 1, 1, 1),
    ScanCase(2, 3, 3, 8, reverse=True),
    ScanCase(1, 33, 3, 1, directions=2),
    ScanCase(1, 18, 5, 3, directions=2, shared=frozenset({"u", "z", "B"})),
    ScanCase(1, 17, 1, 16, layout="bdl"),
    ScanCase(1, 2, 3, 64, directions=2, options=frozenset({"D"})),
    ScanCase(1, 19, 3, 2, options=frozenset({"z"})),
    ScanCase(1, 16, 2, 2, options=frozenset({"delta_bias"})),
    ScanCase(1, 15, 2, 2, options=frozenset()),
    ScanCase(2, 5, 17, 2, torch.bfloat16, directions=2),
    ScanCase(2, 5, 17, 2, torch.float16, reverse=True),
    ConvCase(1, 1, 1, 2),
    ConvCase(9, 3, 5, 4, reverse=True),
    ConvCase(2, 257, 17, 3, directions=2),
    ConvCase(1, 130, 70, 4, silu=False),
    ConvCase(1, 63, 17, 2, has_bias=False),
    ConvCase(2, 2, 65, 4, torch.bfloat16, directions=2),
    ConvCase(2, 63, 3, 4, torch.float16),
]


def check_sequences() -> int:
    # What is allocated and not written shows as NaN.
    torch.use_deterministic_algorithms(True)
    compared = 0
    scan_kernels.ELEMENTS = 8
    for programs_wanted in (512, 1):
        # One program wanted: it takes all channels, one after the other.
        scan_kernels.PROGRAMS_WANTED = programs_wanted
        for case in SEQUENCES:
            if programs_wanted == 1 and not (isinstance(case, ScanCase) and case.channels > 1):
                continue
            errors = relative_errors(case, "triton")
            # The interpreter cuts bfloat16 off where a GPU rounds.
            assert excess(case, errors) <= (2 if case.dtype == torch.bfloat16 else 1), (case, errors)
            compared += 1
    return compared


def check_depthwise_norm() -> int:
    """Values and the gradient of every input; the interpreter cuts halves off where a GPU rounds."""
    compared = 0
    kinds = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.004}
    for shape, size in (((2, 1, 1, 17), 7), ((1, 3, 5, 70), 5), ((2, 7, 4, 1), 3), ((1, 7, 13, 5), 7)):
        generator = torch.Generator().manual_seed(size)
        sizes = (shape, (shape[-1], size, size), *[(shape[-1],)] * 3)
        inputs = [torch.randn(*each, generator=generator, dtype=torch.float64) for each in sizes]
        y_grad = torch.randn(*shape, generator=generator, dtype=torch.float64)
        for kind in list(kinds)[: 3 if size == 5 else 1]:
            ours, expected = (
                _value_and_gradients(
                    [each.to(kind).to(used) for each in inputs], y_grad.to(kind).to(used), size > 3, impl
                )
                for used, impl in ((kind, "triton"), (torch.float64, "reference"))
            )
            for value, exact in zip(ours, expected, strict=True):
                error = (value.double() - exact).square().mean().sqrt()
                assert error <= kinds[kind] * max(0.1, exact.square().mean().sqrt()), (shape, size, kind, error)
                compared += 1
    return compared


def _value_and_gradients(inputs: list[torch.Tensor], y_grad: torch.Tensor, bias: bool, impl: str) -> list[torch.Tensor]:
    x, weight, shift, *norm = (each.requires_grad_() for each in inputs)
    # Channels last, but neither rows nor columns where a new tensor has them.
    turned = x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    y = depthwise_norm(turned, weight, shift if bias else None, *norm, eps=0.1, impl=impl)
    leaves = [x, weight, *norm, *([shift] if bias else [])]
    return [y.detach(), *torch.autograd.grad(y, leaves, y_grad)]


if __name__ == "__main__":
    checks = (check_sampling, check_halving, check_operation, check_sequences, check_depthwise_norm)
    print(sum(check() for check in checks))  # noqa: T201 - its result
