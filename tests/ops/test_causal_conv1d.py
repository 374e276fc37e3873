from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cora.bench.gpu.errors import excess, relative_errors
from cora.bench.gpu.sequences import ConvCase, random_conv
from cora.errors import KernelUnavailable
from cora.ops.causal_conv1d import causal_conv1d
from cora.ops.extension import extension_problem

needs_extension = pytest.mark.skipif(extension_problem() is not None, reason=str(extension_problem()))

IMPLEMENTATIONS = ["reference", pytest.param("cpp", marks=needs_extension)]

CASES = [
    ConvCase(1, 1, 1, 2),
    ConvCase(144, 3, 17, 4),
    ConvCase(144, 63, 1, 3, directions=2),
    ConvCase(1, 257, 2048, 4, directions=2),
    ConvCase(2, 257, 17, 2, reverse=True),
    ConvCase(1, 1, 2048, 4, directions=2),
    ConvCase(9, 3, 65, 3, reverse=True, silu=False),
    ConvCase(9, 63, 130, 4, has_bias=False),
    ConvCase(3, 2, 17, 4, directions=2, silu=False, has_bias=False),
    *(ConvCase(2, 257, 17, 4, dtype, directions=2) for dtype in (torch.bfloat16, torch.float16)),
    *(ConvCase(144, 3, 65, 3, dtype, reverse=True) for dtype in (torch.bfloat16, torch.float16)),
]


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> Iterator[None]:
    """What an implementation allocates and does not write shows: torch fills it with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def case_inputs(case: ConvCase) -> dict[str, Tensor]:
    return case.inputs(torch.Generator().manual_seed(0))


def by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Return the convolution of x[B, L, E] as torch's own operation makes it."""
    padded = F.pad(x.transpose(1, 2), (weight.shape[1] - 1, 0))
    y = F.conv1d(padded, weight[:, None], bias, groups=len(weight)).transpose(1, 2)
    return F.silu(y) if silu else y


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_it_is_torchs_convolution(length: int, width: int, silu: bool, impl: Any) -> None:
    case = ConvCase(2, length, 5, width, silu=silu)
    inputs = case_inputs(case)
    forwards = by_torch(**inputs, silu=silu)
    torch.testing.assert_close(case.call(inputs, impl), forwards)
    flipped = {**inputs, "x": inputs["x"].flip(1)}
    backwards = by_torch(**flipped, silu=silu).flip(1)
    torch.testing.assert_close(replace(case, reverse=True).call(inputs, impl), backwards)
    # Both at once, the second direction with other weights.
    pair = case_inputs(replace(case, directions=2))
    y = replace(case, directions=2).call(pair, impl)
    first, second = ({"x": pair["x"][:, :, way], **{k: pair[k][way] for k in ("weight", "bias")}} for way in (0, 1))
    torch.testing.assert_close(y[:, :, 0], by_torch(**first, silu=silu))
    second["x"] = second["x"].flip(1)
    torch.testing.assert_close(y[:, :, 1], by_torch(**second, silu=silu).flip(1))


def test_the_reference_takes_any_width() -> None:
    for width in (1, 5, 8):
        inputs = case_inputs(ConvCase(2, 6, 3, width))
        torch.testing.assert_close(causal_conv1d(**inputs), by_torch(**inputs, silu=True))
        with pytest.raises(KernelUnavailable, match=f"take 2 to 4 weights a channel, not {width}"):
            causal_conv1d(**inputs, impl="cpp")


@pytest.mark.parametrize(
    "case",
    [ConvCase(2, 5, 3, 4), ConvCase(1, 3, 2, 3, directions=2, has_bias=False), ConvCase(1, 4, 2, 2, silu=False)],
    ids=str,
)
def test_gradients_of_the_reference_are_right(case: ConvCase) -> None:
    inputs = {name: each.double().requires_grad_() for name, each in case_inputs(case).items()}

    def convolve(*values: Tensor) -> Tensor:
        return case.call(dict(zip(inputs, values, strict=True)), "reference")

    assert torch.autograd.gradcheck(convolve, list(inputs.values()))


@needs_extension
@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_convolution_and_every_gradient(case: ConvCase) -> None:
    errors = relative_errors(case, "cpp")
    assert excess(case, errors) <= 1, errors


@needs_extension
def test_compiled_convolutions_of_random_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(40):
        case = random_conv(generator)
        errors = relative_errors(case, "cpp", seed=seed)
        assert excess(case, errors) <= 1, (case, errors)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_strided_and_expanded_inputs(impl: Any) -> None:
    case = ConvCase(3, 20, 17, 4)
    inputs = case_inputs(case)
    x = inputs["x"][:1].expand(3, -1, -1)
    expected = case.call({**inputs, "x": x.contiguous()}, impl)
    wide, other = torch.full((2, 3, 40, 60), math.nan)
    for same in (x, wide[:, ::2, 3:20].copy_(x), other[:, :20, 1:35:2].copy_(x), x.mT.contiguous().mT):
        leaf = same.detach().requires_grad_()
        y = case.call({**inputs, "x": leaf}, impl)
        torch.testing.assert_close(y, expected)
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        assert not gradient.isnan().any()


@needs_extension
def test_result_does_not_depend_on_the_number_of_threads() -> None:
    case = ConvCase(9, 65, 130, 4, directions=2)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            inputs = {name: each.requires_grad_() for name, each in case_inputs(case).items()}
            y = case.call(inputs, "cpp")
            results.append([y, *torch.autograd.grad(y.square().sum(), list(inputs.values()))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, another) for one, another in zip(results[0], other, strict=True))


@needs_extension
@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_nothing_in_is_nothing_out(batch: int, channels: int) -> None:
    case = ConvCase(batch, 4, channels, 3, directions=2)
    inputs = {name: each.requires_grad_() for name, each in case_inputs(case).items()}
    y = case.call(inputs, "cpp")
    assert y.shape == (batch, 4, 2, channels)
    assert all(not gradient.any() for gradient in torch.autograd.grad(y.sum(), list(inputs.values())))


@needs_extension
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_operation_is_a_good_torch_citizen(has_bias: bool) -> None:
    inputs = {name: each.requires_grad_() for name, each in case_inputs(ConvCase(2, 9, 17, 4, directions=2)).items()}
    tensors = [inputs["x"], inputs["weight"], inputs["bias"] if has_bias else None]
    arguments = (*tensors, True, [False, True], "cpp")
    torch.library.opcheck(torch.ops.cora.causal_conv1d.default, arguments)
    plain = [None if each is None else each.detach() for each in tensors]
    adjoint = (torch.ones(2, 9, 2, 17), *plain, *arguments[3:])
    torch.library.opcheck(torch.ops.cora.causal_conv1d_adjoint.default, adjoint)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_it_compiles_without_a_break(impl: Any) -> None:
    case = ConvCase(2, 9, 5, 3, directions=2)
    inputs = {name: each.requires_grad_() for name, each in case_inputs(case).items()}

    def loss(inputs: dict[str, Tensor]) -> Tensor:
        return (case.call(inputs, impl) * 2).square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(inputs)
    expected = loss(inputs)
    torch.testing.assert_close(compiled, expected)
    leaves = list(inputs.values())
    torch.testing.assert_close(torch.autograd.grad(compiled, leaves), torch.autograd.grad(expected, leaves))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": torch.zeros(2, 5)}, r"^x must be .*got torch.float32 \[2, 5\]"),
        ({"x": torch.zeros(2, 0, 4)}, "^x must be"),
        ({"x": torch.zeros(2, 5, 3, 4)}, "^x must be"),
        ({"x": torch.zeros(2, 5, 4).long()}, "^x must be .*int64"),
        ({"weight": torch.zeros(3, 4)}, r"^weight must be float\[4, W\], got \[3, 4\]"),
        ({"weight": torch.zeros(4, 0)}, "^weight must be"),
        ({"bias": torch.zeros(3)}, r"^bias must be float\[4\], got \[3\]"),
        ({"activation": "relu"}, "^activation must be one of silu, none, got 'relu'"),
        ({"x": torch.zeros(2, 5, 2, 4), "weight": torch.zeros(2, 4, 3), "bias": None, "reverse": True}, "^reverse"),
    ],
)
def test_wrong_arguments_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        causal_conv1d(**{**case_inputs(ConvCase(2, 5, 4, 3)), **changed})


@needs_extension
def test_compiled_operation_checks_its_input() -> None:
    x, weight, bias = case_inputs(ConvCase(2, 5, 4, 3, directions=2)).values()
    torch.ops.cora.causal_conv1d_forward(x, weight, bias, True, [0, 1])
    for bad in (
        (x.double(), weight, bias, True, [0, 1]),
        (x[0], weight, bias, True, [0, 1]),
        (x.mT.contiguous().mT, weight, bias, True, [0, 1]),
        (x, weight[0], bias, True, [0, 1]),
        (x, weight.half(), bias, True, [0, 1]),
        (x, weight.repeat(1, 1, 2), bias, True, [0, 1]),
        (x, weight, bias[0], True, [0, 1]),
        (x, weight, bias, True, [0]),
    ):
        with pytest.raises(RuntimeError, match="causal_conv1d: "):
            torch.ops.cora.causal_conv1d_forward(*bad)
    with pytest.raises(RuntimeError, match="gradient of y"):
        torch.ops.cora.causal_conv1d_backward(x[:1], x, weight, bias, True, [0, 1])


def test_implementations_that_are_missing_or_cannot_are_refused() -> None:
    inputs = case_inputs(ConvCase(2, 5, 4, 3))
    with pytest.raises(KernelUnavailable, match=r"causal_conv1d: implementation 'cuda' cannot .* on cpu"):
        causal_conv1d(**inputs, impl="cuda")
    with pytest.raises(KernelUnavailable, match="its kernels take float32, bfloat16 and float16"):
        causal_conv1d(**{**inputs, "x": inputs["x"].double()}, impl="cpp")
