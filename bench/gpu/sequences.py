"""The operations on sequences: inputs of a case.

Shapes: B batch, L positions, G directions, E channels, K states or W weights of a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cora.bench.gpu.errors import TOLERANCES, Draw
from cora.ops.causal_conv1d import causal_conv1d
from cora.ops.dispatch import Implementation
from cora.ops.selective_scan import Layout, bidirectional_scan, selective_scan

__all__ = ["ConvCase", "ScanCase", "random_conv", "random_scan"]


# These are float32 in every case, and so are their gradients.
PARAMETERS = frozenset({"A", "D", "delta_bias", "weight", "bias"})


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

    operation: ClassVar[str] = "selective_scan"
    exact: ClassVar[frozenset[str]] = PARAMETERS

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

    @property
    def name(self) -> str:
        """The operation, sizes and dtype."""
        return _name_of(self, f"N {self.states}")

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

    operation: ClassVar[str] = "causal_conv1d"
    exact: ClassVar[frozenset[str]] = PARAMETERS

    batch: int
    length: int
    channels: int
    width: int
    dtype: torch.dtype = torch.float32
    directions: int = 1
    silu: bool = True
    has_bias: bool = True
    reverse: bool = False

    @property
    def name(self) -> str:
        """The operation, sizes and dtype."""
        return _name_of(self, f"width {self.width}")

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


def random_scan(generator: torch.Generator) -> ScanCase:
    """Return a scan of random size, type and options, which float64 does in a second or so."""
    number = Draw(generator)
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
    number = Draw(generator)
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


def _name_of(case: ScanCase | ConvCase, inner: str) -> str:
    sizes = f"{case.batch} x {case.length} x {case.channels}, {inner}, {case.directions} directions"
    return f"{case.operation} {sizes}, {str(case.dtype).removeprefix('torch.')}"
