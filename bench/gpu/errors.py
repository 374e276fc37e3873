"""The errors of an operation and its gradients against float64, and how large they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cora.ops.dispatch import Implementation

__all__ = ["TOLERANCES", "Case", "Draw", "Tolerance", "excess", "relative_errors"]


@dataclass(frozen=True)
class Tolerance:
    """The largest relative root-mean-square error of a result, and of a gradient."""

    forward: float
    gradient: float


# In float32 an exponential is right to 5e-7, and what a state forgets over hundreds of positions adds up in gradients.
# The others are computed the same way and rounded, by up to 2^-8 and 2^-11 of a value; the gradient of what two
# directions share, and what a norm keeps for its gradient, is rounded twice.
TOLERANCES = {
    torch.float32: Tolerance(1e-6, 3e-5),
    torch.bfloat16: Tolerance(4e-3, 8e-3),
    torch.float16: Tolerance(5e-4, 1e-3),
}


class Case(Protocol):
    """One call of an operation.

    Attributes:
        operation: Its name.
        exact: The inputs whose gradients have the precision of float32 whatever the dtype of the case is.
    """

    operation: ClassVar[str]
    exact: ClassVar[frozenset[str]]

    @property
    def dtype(self) -> torch.dtype:
        """That of the large tensors; the parameters are float32."""

    @property
    def name(self) -> str:
        """The operation, sizes and dtype."""

    def inputs(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the tensors of the call."""

    def call(self, inputs: Mapping[str, Tensor], impl: Implementation) -> Tensor:
        """Return y."""


class Draw:
    """Chooses at random.

    Args:
        generator: The source of randomness.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def of(self, *choices: Any) -> Any:
        """Return one of the choices."""
        return choices[int(torch.randint(len(choices), (), generator=self.generator))]


def relative_errors(case: Case, impl: Implementation, *, device: str = "cpu", seed: int = 0) -> dict[str, float]:
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

    def run(impl: Implementation, **place: Any) -> dict[str, Tensor]:
        leaves = {name: each.to(**place).requires_grad_() for name, each in inputs.items()}
        y = case.call(leaves, impl)
        # The same in each run.
        y_grad = torch.randn(y.shape, generator=generator.clone_state()).to(case.dtype)
        gradients = torch.autograd.grad(y, list(leaves.values()), y_grad.to(**place))
        return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}

    truth = run("reference", dtype=torch.float64)
    ours = run(impl, device=device)
    return {name: _relative_rms(ours[name].double().cpu(), exact) for name, exact in truth.items()}


def excess(case: Case, errors: Mapping[str, float]) -> float:
    """Return the largest error as a multiple of what is tolerated; infinite where it is not a number."""
    multiples = []
    for name, error in errors.items():
        tolerance = TOLERANCES[torch.float32 if name in case.exact else case.dtype]
        multiples.append(error / (tolerance.forward if name == "y" else tolerance.gradient))
    return max(math.inf if math.isnan(multiple) else multiple for multiple in multiples)


def _relative_rms(ours: Tensor, truth: Tensor) -> float:
    size = float(truth.square().mean().sqrt())
    return float((ours - truth).square().mean().sqrt()) / (size or 1.0)
