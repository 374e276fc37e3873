"""Depthwise convolution with LayerNorm: every implementation against the reference, and that against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from cora.errors import KernelUnavailable
from cora.ops import dispatch
from cora.ops.depthwise_norm import depthwise_norm
from cora.ops.extension import has_kernel

NAMES = ("x", "weight", "bias", "norm_weight", "norm_bias")
# Relative root mean square, against float64: rounding of the result for the halves, of a few hundred sums for float32.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
# (N, H, W, C, K): single tokens, rows and columns, tiles that do not fit, channels that do not, more than
# one strip, more channels than a block of a GPU takes in a tile.
SHAPES = [
    (1, 1, 1, 1, 3),
    (2, 1, 1, 17, 7),
    (1, 3, 3, 64, 7),
    (2, 1, 5, 17, 5),
    (3, 5, 1, 9, 3),
    (9, 7, 13, 17, 7),
    (1, 7, 13, 71, 5),
    (2, 17, 4, 8, 7),
    (1, 35, 3, 40, 3),
    (1, 4, 4, 1024, 7),
    (1, 2, 11, 3001, 3),
]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, bias: bool = True) -> dict[str, Any]:
    views, height, width, channels, size = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(dtype)

    return {
        "x": normal(views, height, width, channels),
        "weight": normal(channels, size, size),
        "bias": normal(channels) if bias else None,
        "norm_weight": normal(channels) + 0.5,
        "norm_bias": normal(channels),
    }


def value_and_gradients(
    function: Callable[..., Tensor], inputs: dict[str, Any], y_grad: Tensor, **options: Any
) -> list[Tensor]:
    leaves = {name: None if value is None else value.detach().requires_grad_() for name, value in inputs.items()}
    y = function(**leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, [leaf for leaf in leaves.values() if leaf is not None], y_grad)]


def assert_near(ours: Tensor, expected: Tensor, tolerance: float, scale: float = 0.0) -> None:
    assert ours.isfinite().all()
    error = (ours.double() - expected).square().mean().sqrt()
    assert error <= tolerance * max(float(expected.square().mean().sqrt()), scale)


def by_definition(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> Tensor:
    """Sum over shifted copies; then mean and variance."""
    (_, height, width, _), size = x.shape, weight.shape[-1]
    values = torch.zeros_like(x) if bias is None else bias.expand(x.shape)
    reach = size // 2
    padded = pad(x, (0, 0, reach, reach, reach, reach))
    for row in range(size):
        for column in range(size):
            values = values + weight[:, row, column] * padded[:, row : row + height, column : column + width]
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * norm_weight + norm_bias


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_reference_is_a_sum_over_neighbours_and_a_norm(shape: tuple[int, ...], bias: bool) -> None:
    inputs = make_inputs(shape, torch.float64, bias=bias)
    ours = depthwise_norm(**inputs, eps=1e-3, impl="reference")
    torch.testing.assert_close(ours, by_definition(**inputs, eps=1e-3))


def test_gradients_of_the_reference() -> None:
    leaves = [value.requires_grad_() for value in make_inputs((2, 2, 3, 4, 3), torch.float64).values()]
    assert torch.autograd.gradcheck(lambda *values: depthwise_norm(*values, impl="reference"), leaves)


@pytest.mark.skipif(not has_kernel("depthwise_norm_forward", "cpu"), reason="the extension is not built")
class TestCpp:
    @pytest.mark.parametrize("dtype", TOLERANCES)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_value_and_gradients(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        for bias in (True, False):
            inputs = make_inputs(shape, dtype, bias=bias)
            y_grad = torch.randn(shape[:-1], generator=torch.Generator().manual_seed(1)).to(dtype)
            exact = {name: None if value is None else value.double() for name, value in inputs.items()}
            expected = value_and_gradients(depthwise_norm, exact, y_grad.double(), impl="reference", eps=0.1)
            ours = value_and_gradients(depthwise_norm, inputs, y_grad, impl="cpp", eps=0.1)
            for value, truth in zip(ours, expected, strict=True):
                assert value.dtype == dtype
                # Some gradients vanish where there is one channel, or sum to next to nothing.
                assert_near(value, truth, TOLERANCES[dtype], scale=0.1)

    def test_memory_is_written_before_it_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs = make_inputs((2, 3, 5, 17, 5))
        y_grad = torch.ones(2, 3, 5, 17)
        expected = value_and_gradients(depthwise_norm, inputs, y_grad, impl="cpp")
        torch.use_deterministic_algorithms(True)
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        try:
            poisoned = value_and_gradients(depthwise_norm, inputs, y_grad, impl="cpp")
        finally:
            torch.use_deterministic_algorithms(False)
        assert all(torch.equal(one, other) for one, other in zip(poisoned, expected, strict=True))

    def test_what_surrounds_the_tokens_is_not_read(self) -> None:
        inputs = make_inputs((2, 3, 5, 17, 5))
        whole = torch.full((2, 5, 7, 19), math.nan)
        whole[:, 1:-1, 1:-1, 1:-1] = inputs["x"]
        inside = {**inputs, "x": whole[:, 1:-1, 1:-1, 1:-1]}
        assert torch.equal(depthwise_norm(**inside, impl="cpp"), depthwise_norm(**inputs, impl="cpp"))

    @pytest.mark.parametrize("order", [(0, 3, 1, 2), (2, 1, 0, 3)])
    def test_any_layout_of_x_and_of_the_gradient(self, order: tuple[int, ...]) -> None:
        inputs, back = make_inputs((2, 3, 5, 17, 5)), [order.index(axis) for axis in range(4)]
        y_grad = torch.randn(2, 3, 5, 17)
        turned = {**inputs, "x": inputs["x"].permute(order).contiguous().permute(back)}
        ours = value_and_gradients(depthwise_norm, turned, y_grad.permute(order).contiguous().permute(back), impl="cpp")
        expected = value_and_gradients(depthwise_norm, inputs, y_grad, impl="cpp")
        assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))

    def test_a_gradient_that_is_one_number_everywhere(self) -> None:
        inputs = make_inputs((2, 3, 5, 17, 5))
        expanded = value_and_gradients(depthwise_norm, inputs, torch.ones(()).expand(2, 3, 5, 17), impl="cpp")
        expected = value_and_gradients(depthwise_norm, inputs, torch.ones(2, 3, 5, 17), impl="cpp")
        assert all(torch.equal(one, other) for one, other in zip(expanded, expected, strict=True))

    def test_threads_change_nothing(self) -> None:
        inputs, y_grad = make_inputs((9, 7, 13, 17, 7)), torch.randn(9, 7, 13, 17)
        results, before = [], torch.get_num_threads()
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                results.append(value_and_gradients(depthwise_norm, inputs, y_grad, impl="cpp"))
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

    def test_a_large_mean_costs_no_digits_of_the_variance(self) -> None:
        inputs = make_inputs((1, 3, 3, 64, 3))
        inputs["bias"] = inputs["bias"] + 1000
        expected = depthwise_norm(**{name: value.double() for name, value in inputs.items()})
        assert_near(depthwise_norm(**inputs, impl="cpp"), expected, 1e-4)

    def test_no_views(self) -> None:
        inputs = make_inputs((0, 3, 5, 17, 5))
        y, *gradients = value_and_gradients(depthwise_norm, inputs, torch.zeros(0, 3, 5, 17), impl="cpp")
        assert y.shape == (0, 3, 5, 17)
        assert all(not gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("keep", [True, False])
    def test_operation_is_what_torch_expects(self, bias: bool, keep: bool) -> None:
        inputs = make_inputs((2, 3, 5, 17, 5), bias=bias)
        leaves = [value.requires_grad_(keep) if value is not None else None for value in inputs.values()]
        torch.library.opcheck(torch.ops.cora.depthwise_norm.default, (*leaves, 1e-6, keep, "cpp"))

    def test_compiled_code_calls_it(self) -> None:
        inputs = make_inputs((2, 3, 5, 17, 5))
        compiled = torch.compile(depthwise_norm, fullgraph=True, backend="aot_eager")
        y_grad = torch.randn(2, 3, 5, 17)
        ours = value_and_gradients(compiled, inputs, y_grad)
        for value, expected in zip(ours, value_and_gradients(depthwise_norm, inputs, y_grad), strict=True):
            torch.testing.assert_close(value, expected)

    def test_auto_is_the_kernel_where_it_can(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(dispatch.IMPL_VARIABLE, raising=False)
        inputs = make_inputs((1, 3, 3, 8, 5))
        assert torch.equal(depthwise_norm(**inputs), depthwise_norm(**inputs, impl="cpp"))
        wide = make_inputs((1, 3, 3, 8, 9))
        assert torch.equal(depthwise_norm(**wide), depthwise_norm(**wide, impl="reference"))
        with pytest.raises(KernelUnavailable, match="weights a side, not 9"):
            depthwise_norm(**wide, impl="cpp")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (3, 5, 4)), ("x", (1, 0, 5, 4)), ("weight", (4, 3, 5)), ("weight", (4, 2, 2)), ("weight", (5, 3, 3)),
     ("weight", (4, 1, 3, 3)), ("bias", (5,)), ("norm_weight", (4, 1)), ("norm_bias", ())],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    inputs = make_inputs((1, 3, 5, 4, 3))
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"^{name} must be"):
        depthwise_norm(**inputs)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^x must be float"):
        depthwise_norm(**{**make_inputs((1, 3, 5, 4, 3)), "x": torch.zeros(1, 3, 5, 4, dtype=torch.int32)})
