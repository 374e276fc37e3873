"""What the Triton kernels on sequences [B, L, G, E] share: addresses, and functions of their values.

A sequence is a pointer and its strides of a batch, a position and a direction ("way"); its channels lie side by side.
The steps of a way run through its positions forwards or backwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["mask_of", "read", "sigmoid", "softplus", "strides_of", "write"]

LOG2E = tl.constexpr(1.44269504)


def strides_of(sequence: Tensor | None) -> tuple[int, int, int]:
    """Return the strides of a batch, a position and a direction; 0 where there is no sequence."""
    return (0, 0, 0) if sequence is None else (sequence.stride(0), sequence.stride(1), sequence.stride(2))


def mask_of(ways: Sequence[int]) -> int:
    """Return a number whose bit g says whether direction g is reversed."""
    return sum(int(bool(is_reversed)) << way for way, is_reversed in enumerate(ways))


@triton.jit
def place(steps, channels, batch, way, length, is_reversed, batch_stride, position_stride, way_stride):  # type: ignore[no-untyped-def]  # triton evaluates annotations
    """Return the offsets int64[T, E] of channels at steps."""
    position = tl.where(is_reversed, length - 1 - steps, steps).to(tl.int64)
    return batch * batch_stride + way * way_stride + position[:, None] * position_stride + channels[None, :]


@triton.jit
def read(sequence, steps, channels, num_channels, batch, way, length, is_reversed, strides):  # type: ignore[no-untyped-def]  # as above
    """Return float32[T, E]; 0 beyond the ends and for channels that are not there."""
    offsets = place(steps, channels, batch, way, length, is_reversed, strides[0], strides[1], strides[2])
    is_there = ((steps >= 0) & (steps < length))[:, None] & (channels < num_channels)[None, :]
    return tl.load(sequence + offsets, mask=is_there, other=0.0).to(tl.float32)


@triton.jit
def write(sequence, values, steps, channels, num_channels, batch, way, length, is_reversed, strides):  # type: ignore[no-untyped-def]  # as above
    """Store float32[T, E] in the sequence's own type."""
    offsets = place(steps, channels, batch, way, length, is_reversed, strides[0], strides[1], strides[2])
    is_there = (steps < length)[:, None] & (channels < num_channels)[None, :]
    tl.store(sequence + offsets, values.to(sequence.dtype.element_ty), mask=is_there)


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]  # as above
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp2(x * -LOG2E))


@triton.jit
def softplus(x):  # type: ignore[no-untyped-def]  # as above
    """Return log(1 + e^x) = max(x, 0) + 2 artanh(e / (2 + e)) with e = e^-|x|, by a series: exact for small results."""
    power = tl.exp2(tl.abs(x) * -LOG2E)
    ratio = power / (2.0 + power)
    square = ratio * ratio
    series = 1.0 / 15
    series = series * square + 1.0 / 13
    series = series * square + 1.0 / 11
    series = series * square + 1.0 / 9
    series = series * square + 1.0 / 7
    series = series * square + 1.0 / 5
    series = series * square + 1.0 / 3
    series = series * square + 1.0
    return tl.maximum(x, 0.0) + 2.0 * ratio * series
