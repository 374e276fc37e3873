"""The operations on sequences against float64: inputs of a case, and the errors of one call and its gradients.

Shapes: B batch, L positions, G directions, E channels, K states or W weights of a channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cora.ops.causal_conv1d import causal_conv1d
from cora.ops.dispatch import Implementation
from cora.ops.selective_scan import Layout, bidirectional_scan, selective_scan

__all__ = ["TOLERANCES", "ConvCase", "ScanCase", "Tolerance", "excess", "random_conv", "random_scan", "relative_errors"]


@dataclass(frozen=True)
class Tolerance:
    """The largest relative root-mean-square error of a result, and of a gradient."""

    forward: float
    gradient: float


# In float32 an exponential is right to 5e-7, and what a state forgets over hundreds of positions adds up in gradients.
# The others are computed the same way and rounded, by up to 2^-8 and 2^-11 of a value; the gradient of what two
# directions share is rounded twice.
TOLERANCES = {
    torch.float32: Tolerance(1e-6, 3e-5),
    torch.bfloat16: Tolerance(4e-3, 8e-3),
    torch.float16: Tolerance(5e-4, 1e-3),
}
# These are float32 in every case, and so are their gradients.
PARAMETERS = ("A", "D", "delta_bias", "weight", "bias")


@dataclass(frozen=True)
class ScanCase:
    """One call of `selective_scan`, or of `bidirectional_scan` where there are two directions.

    Args:
        batch: B.
        length: L.
        channels: E.
        states: K.
        dtype: That of the sequences; the parameters are float32.
        directions: 1 or 2.
        options: Which of D, z, delta_bias and delta_softplus there are.
        shared: With two directions, the sequences that they share.
        layout: With one direction, as in `selective_scan`.
        reverse: As in `selective_scan`.
    """

    batch: int
    length: int
    channels: int
    states: int
    dtype: torch.dtype = torch.float32
    directions: int = 1
    options: frozenset[str] = frozenset({"D", "z", "delta_bias", "delta_softplus"})
    shared: frozenset[str] = frozenset()
    layout: Layout = "bld"
    reverse: bool = False

    def inputs(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the tensors of the call, with step sizes and states as Mamba has them."""
        ways = (2,) if self.directions == 2 else ()
        widths = {"u": self.channels, "delta": self.channels, "z": self.channels, "B": self.states, "C": self.states}
        inputs = {}
        for name, width in widths.items():
            shape = (self.batch, self.length, *(() if name in self.shared else ways), width)
            inputs[name] = torch.randn(shape, generator=generator)
        is_positive = "delta_softplus" not in self.options
        if is_positive:
            inputs["delta"] = inputs["delta"].abs() / 8
        if self.layout == "bdl":
            inputs = {name: each.transpose(1, 2).contiguous() for name, each in inputs.items()}
        inputs = {name: each.to(self.dtype) for name, each in inputs.items()}
        jitter = torch.rand(*ways, self.channels, self.states, generator=generator)
        inputs["A"] = -(torch.arange(self.states) + 0.5 + jitter)
        inputs["D"] = torch.randn(*ways, self.channels, generator=generator)
        bias = torch.randn(*ways, self.channels, generator=generator)
        inputs["delta_bias"] = bias.abs() / 8 if is_positive else bias - 2.0
        left_out = {"D", "z", "delta_bias"} - self.options
        return {name: each for name, each in inputs.items() if name not in left_out}

    def call(self, inputs: Mapping[str, Tensor], impl: Implementation) -> Tensor:
        """Return y."""
        softplus = "delta_softplus" in self.options
        if self.directions == 2:
            return bidirectional_scan(**inputs, delta_softplus=softplus, impl=impl)
        return selective_scan(
            **inputs, delta_softplus=softplus, layout=self.layout, reverse=self.reverse, impl=impl
        )  # fmt: skip


@dataclass(frozen=True)
class ConvCase:
    """One call of `causal_conv1d`; the arguments are those of `ScanCase`."""

    batch: int
    length: int
    channels: int
    width: int
    dtype: torch.dtype = torch.float32
    directions: int = 1
    silu: bool = True
    has_bias: bool = True
    reverse: bool = False

    def inputs(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the tensors of the call."""
        ways = (2,) if self.directions == 2 else ()
        inputs = {
            "x": torch.randn(self.batch, self.length, *ways, self.channels, generator=generator).to(self.dtype),
            "weight": torch.randn(*ways, self.channels, self.width, generator=generator),
        }
        if self.has_bias:
            inputs["bias"] = torch.randn(*ways, self.channels, generator=generator)
        return inputs

    def call(self, inputs: Mapping[str, Tensor], impl: Implementation) -> Tensor:
        """Return y."""
        activation = "silu" if self.silu else "none"
        return causal_conv1d(**inputs, activation=activation, reverse=self.reverse, impl=impl)  # type: ignore[arg-type]


def relative_errors(
    case: ScanCase | ConvCase, impl: Implementation, *, device: str = "cpu", seed: int = 0
) -> dict[str, float]:
    """Return the relative rms errors of an implementation against the reference in float64.

    Args:
        case: What is called.
        impl: The implementation.
        device: Where it runs.
        seed: Of the inputs and of the gradient that the result is given.

    Returns:
        Those of the result, as ``y``, and of the gradient of each input, by its name. Where the truth is 0 throughout,
        as the gradient of A is for a single position, the error is absolute.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = case.inputs(generator)
    y_grad = torch.randn(_shape_of_result(inputs), generator=generator).to(case.dtype)

    def run(call: Callable[[Mapping[str, Tensor]], Tensor], **place: Any) -> dict[str, Tensor]:
        leaves = {name: each.to(**place).requires_grad_() for name, each in inputs.items()}
        y = call(leaves)
        gradients = torch.autograd.grad(y, list(leaves.values()), y_grad.to(**place))
        return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}

    truth = run(lambda leaves: case.call(leaves, "reference"), dtype=torch.float64)
    ours = run(lambda leaves: case.call(leaves, impl), device=device)
    return {name: _relative_rms(ours[name].double().cpu(), exact) for name, exact in truth.items()}


def excess(case: ScanCase | ConvCase, errors: Mapping[str, float]) -> float:
    """Return the largest error as a multiple of what is tolerated; infinite where it is not a number."""
    multiples = []
    for name, error in errors.items():
        tolerance = TOLERANCES[torch.float32 if name in PARAMETERS else case.dtype]
        multiples.append(error / (tolerance.forward if name == "y" else tolerance.gradient))
    return max(math.inf if math.isnan(multiple) else multiple for multiple in multiples)


def random_scan(generator: torch.Generator) -> ScanCase:
    """Return a scan of random size, type and options, which float64 does in a second or so."""
    number = _Draw(generator)
    directions = number.of(1, 2)
    return ScanCase(
        batch=number.of(1, 2, 3, 9),
        length=number.of(1, 3, 31, 63, 129, 257),
        channels=number.of(1, 17, 64, 200),
        states=number.of(1, 2, 5, 8, 16, 23, 64),
        dtype=number.of(*TOLERANCES),
        directions=directions,
        options=frozenset(name for name in ("D", "z", "delta_bias", "delta_softplus") if number.of(True, True, False)),
        shared=frozenset(name for name in ("u", "delta", "z", "B", "C") if directions == 2 and number.of(True, False)),
        layout=number.of("bdl", "bld") if directions == 1 else "bld",
        reverse=directions == 1 and number.of(True, False),
    )


def random_conv(generator: torch.Generator) -> ConvCase:
    """Return a convolution of random size, type and options."""
    number = _Draw(generator)
    directions = number.of(1, 2)
    return ConvCase(
        batch=number.of(1, 2, 9),
        length=number.of(1, 2, 3, 4, 63, 127, 257),
        channels=number.of(1, 17, 64, 300),
        width=number.of(2, 3, 4),
        dtype=number.of(*TOLERANCES),
        directions=directions,
        silu=number.of(True, True, False),
        has_bias=number.of(True, True, False),
        reverse=directions == 1 and number.of(True, False),
    )


class _Draw:
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def of(self, *choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=self.generator))]


def _shape_of_result(inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
    sequence = inputs["u"] if "u" in inputs else inputs["x"]
    # Shared by both directions: the result is not.
    if sequence.ndim == 3 and "A" in inputs and inputs["A"].ndim == 3:
        return (*sequence.shape[:2], 2, sequence.shape[2])
    return tuple(sequence.shape)


def _relative_rms(ours: Tensor, truth: Tensor) -> float:
    size = float(truth.square().mean().sqrt())
    return float((ours - truth).square().mean().sqrt()) / (size or 1.0)
