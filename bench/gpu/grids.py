"""The operation on grids of tokens: inputs of a case.

Shapes: N views, H rows, W columns, C channels, K x K weights of a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cora.bench.gpu.errors import TOLERANCES, Draw
from cora.ops.depthwise_norm import depthwise_norm
from cora.ops.dispatch import Implementation

__all__ = ["NormCase", "random_norm"]


@dataclass(frozen=True)
class NormCase:
    """One call of `depthwise_norm`.

    Args:
        views: N.
        height: H.
        width: W.
        channels: C.
        size: K.
        dtype: That of the tokens; the parameters are float32.
        has_bias: Whether the convolution has a bias.
    """

    operation: ClassVar[str] = "depthwise_norm"
    # The normalised tokens, which are kept in the case's dtype, are in the gradients of all parameters but one.
    exact: ClassVar[frozenset[str]] = frozenset({"norm_bias"})

    views: int
    height: int
    width: int
    channels: int
    size: int
    dtype: torch.dtype = torch.float32
    has_bias: bool = True

    @property
    def name(self) -> str:
        """The operation, sizes and dtype."""
        kind = str(self.dtype).removeprefix("torch.")
        sizes = f"{self.views} x {self.height} x {self.width} x {self.channels}"
        return f"{self.operation} {sizes}, {self.size} x {self.size}, {kind}"

    def inputs(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the tensors of the call."""
        x = torch.randn(self.views, self.height, self.width, self.channels, generator=generator)
        inputs = {
            "x": x.to(self.dtype),
            "weight": torch.randn(self.channels, self.size, self.size, generator=generator) / self.size,
        }
        names = ("bias", "norm_weight", "norm_bias") if self.has_bias else ("norm_weight", "norm_bias")
        return inputs | {name: torch.randn(self.channels, generator=generator) for name in names}

    def call(self, inputs: Mapping[str, Tensor], impl: Implementation) -> Tensor:
        """Return y."""
        x, weight, norm_weight, norm_bias = (inputs[name] for name in ("x", "weight", "norm_weight", "norm_bias"))
        return depthwise_norm(x, weight, inputs.get("bias"), norm_weight, norm_bias, impl=impl)


def random_norm(generator: torch.Generator) -> NormCase:
    """Return a call of random size and type; with a few channels only the norm would have next to no gradient."""
    number = Draw(generator)
    return NormCase(
        views=number.of(1, 2, 9),
        height=number.of(1, 3, 7, 16, 21),
        width=number.of(1, 4, 8, 13, 16),
        channels=number.of(17, 64, 71, 130, 300, 1024, 2500),
        size=number.of(3, 5, 7),
        dtype=number.of(*TOLERANCES),
        has_bias=number.of(True, True, False),
    )
