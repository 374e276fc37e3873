from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cora.errors import KernelUnavailable
from cora.ops.selective_scan import selective_scan

B, D, N = 2, 3, 4


def make_inputs(length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return {
        "u": normal(B, D, length),
        "delta": normal(B, D, length),
        "A": -normal(D, N).exp(),
        "B": normal(B, N, length),
        "C": normal(B, N, length),
        "D": normal(D),
        "z": normal(B, D, length),
        "delta_bias": normal(D),
    }


def by_definition(inputs: dict[str, Tensor]) -> Tensor:
    """Sum over all earlier positions in scalar arithmetic: the closed form of the recurrence."""
    u, A = inputs["u"], inputs["A"]
    step = torch.log1p((inputs["delta"] + inputs["delta_bias"][:, None]).exp())
    result = torch.zeros_like(u)
    for b in range(B):
        for d in range(D):
            for t in range(u.shape[2]):
                total = float(inputs["D"][d] * u[b, d, t])
                for s in range(t + 1):
                    elapsed = float(step[b, d, s + 1 : t + 1].sum())
                    for n in range(N):
                        decay = math.exp(elapsed * float(A[d, n]))
                        total += float(inputs["C"][b, n, t] * step[b, d, s] * inputs["B"][b, n, s] * u[b, d, s]) * decay
                gate = float(inputs["z"][b, d, t])
                result[b, d, t] = total * gate / (1 + math.exp(-gate))
    return result


@pytest.mark.parametrize("length", [1, 2, 7])
def test_scan_is_the_closed_form_of_the_recurrence(length: int) -> None:
    inputs = make_inputs(length)
    torch.testing.assert_close(selective_scan(**inputs, delta_softplus=True), by_definition(inputs))


def test_without_options_there_is_no_skip_gate_or_bias() -> None:
    inputs = make_inputs(5)
    plain = {name: inputs[name] for name in ("u", "delta", "A", "B", "C")}
    plain["delta"] = plain["delta"].abs()
    neutral = {"D": torch.zeros(D, dtype=torch.float64), "delta_bias": torch.zeros(D, dtype=torch.float64)}
    torch.testing.assert_close(selective_scan(**plain), selective_scan(**plain, **neutral))


def test_gradients_are_right() -> None:
    inputs = make_inputs(4)
    names = list(inputs)
    leaves = [inputs[name].requires_grad_() for name in names]

    def scan(*values: Tensor) -> Tensor:
        return selective_scan(**dict(zip(names, values, strict=True)), delta_softplus=True)

    assert torch.autograd.gradcheck(scan, leaves)


def test_low_precision_is_computed_in_float32_and_returned_as_it_came() -> None:
    inputs = make_inputs(16, torch.float32)
    low = {name: value if name == "A" else value.bfloat16() for name, value in inputs.items()}
    result = selective_scan(**low, delta_softplus=True)
    assert result.dtype == torch.bfloat16
    exact = selective_scan(**{name: value.float() for name, value in low.items()}, delta_softplus=True)
    torch.testing.assert_close(result, exact.bfloat16())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("u", (B, D)), ("delta", (B, D, 4)), ("A", (D + 1, N)), ("B", (B, N + 1, 5)), ("D", (D, 1)), ("z", (B, D, 4))],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    inputs = make_inputs(5)
    inputs[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{name} must be"):
        selective_scan(**inputs)


def test_unknown_implementation_is_refused() -> None:
    with pytest.raises(KernelUnavailable, match="cuda"):
        selective_scan(**make_inputs(2), impl="cuda")  # type: ignore[arg-type]
