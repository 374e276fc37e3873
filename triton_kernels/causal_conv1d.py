"""The causal convolution in Triton: `forward` and `backward` with the meaning of `cora.ops.reference.causal_conv1d`.

A program takes some channels of one direction of one sequence over a strip of positions. What the weights reach is read
again for each of them: it is still in the first-level cache.

Shapes: T positions of a tile, E channels of a program, W weights of a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from cora.triton_kernels.sequences import mask_of, read, sigmoid, strides_of, write

__all__ = ["backward", "forward"]

TILE = (32, 64)
TILES_OF_STRIP = 4


@triton.jit  # type: ignore[untyped-decorator]
def convolve(x, weight, bias, steps, channel, channels, batch, way, length, is_reversed, strides, W: tl.constexpr):  # type: ignore[no-untyped-def]  # triton evaluates annotations
    """Return what channels are before the activation, float32[T, E]."""
    is_channel = channel < channels
    parameter = way * channels + channel
    total = tl.zeros((steps.shape[0], channel.shape[0]), tl.float32)
    if bias is not None:
        total += tl.load(bias + parameter, mask=is_channel, other=0.0)[None, :]
    for tap in tl.static_range(W):
        values = read(x, steps - (W - 1) + tap, channel, channels, batch, way, length, is_reversed, strides)
        total += tl.load(weight + parameter * W + tap, mask=is_channel, other=0.0)[None, :] * values
    return total


@triton.jit  # type: ignore[untyped-decorator]
def conv_forward_kernel(  # type: ignore[no-untyped-def]  # as above
    x,
    weight,
    bias,
    y,
    x_strides,
    y_strides,
    length,
    directions,
    channels,
    reversed_ways,
    has_silu: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    E: tl.constexpr,
):
    """Convolve one tile; the directions of the same channels follow each other."""
    blocks = tl.cdiv(channels, E)
    way = tl.program_id(0) % directions
    row = tl.program_id(0) // directions
    channel = (row % blocks) * E + tl.arange(0, E)
    row = row // blocks
    tiles = tl.cdiv(length, T)
    batch = (row // tiles).to(tl.int64)
    steps = (row % tiles) * T + tl.arange(0, T)
    is_reversed = ((reversed_ways >> way) & 1) == 1
    total = convolve(x, weight, bias, steps, channel, channels, batch, way, length, is_reversed, x_strides, W)
    if has_silu:
        total *= sigmoid(total)
    write(y, total, steps, channel, channels, batch, way, length, is_reversed, y_strides)


@triton.jit  # type: ignore[untyped-decorator]
def conv_backward_kernel(  # type: ignore[no-untyped-def]  # as above
    y_grad,
    x,
    weight,
    bias,
    x_grad,
    weight_grad,
    bias_grad,
    y_strides,
    x_strides,
    grad_strides,
    length,
    directions,
    channels,
    reversed_ways,
    has_silu: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    E: tl.constexpr,
    tiles: tl.constexpr,
):
    """Write the gradient of a strip of `tiles` tiles, and what the strip adds to those of the weights."""
    blocks = tl.cdiv(channels, E)
    way = tl.program_id(0) % directions
    row = tl.program_id(0) // directions
    channel = (row % blocks) * E + tl.arange(0, E)
    is_channel = channel < channels
    strip = row // blocks
    strips = tl.cdiv(length, T * tiles)
    batch = (strip // strips).to(tl.int64)
    is_reversed = ((reversed_ways >> way) & 1) == 1
    parameter = way * channels + channel
    # The weights of a channel side by side, 4 of them for the shape's sake.
    taps = tl.arange(0, 4)
    weight_sum = tl.zeros((4, E), tl.float32)
    bias_sum = tl.zeros((E,), tl.float32)
    for tile in range(tiles):
        steps = (strip % strips) * (T * tiles) + tile * T + tl.arange(0, T)
        input_grad = tl.zeros((T, E), tl.float32)
        for reach in tl.static_range(W):
            # The gradient before the activation at the positions whose weight W - 1 - reach meets these ones.
            grad = read(y_grad, steps + reach, channel, channels, batch, way, length, is_reversed, y_strides)
            if has_silu:
                total = convolve(
                    x, weight, bias, steps + reach, channel, channels, batch, way, length, is_reversed, x_strides, W
                )
                is_open = sigmoid(total)
                grad *= is_open * (1.0 + total * (1.0 - is_open))
            factor = tl.load(weight + parameter * W + (W - 1 - reach), mask=is_channel, other=0.0)
            input_grad += factor[None, :] * grad
            if reach == 0:
                bias_sum += tl.sum(grad, axis=0)
                for tap in tl.static_range(W):
                    values = read(
                        x, steps - (W - 1) + tap, channel, channels, batch, way, length, is_reversed, x_strides
                    )
                    share = tl.sum(grad * values, axis=0)
                    weight_sum += tl.where((taps == tap)[:, None], share[None, :], 0.0)
        write(x_grad, input_grad, steps, channel, channels, batch, way, length, is_reversed, grad_strides)
    total_row = (strip.to(tl.int64) * directions + way) * channels + channel
    are_there = (taps < W)[:, None] & is_channel[None, :]
    tl.store(weight_grad + total_row[None, :] * W + taps[:, None], weight_sum, mask=are_there)
    tl.store(bias_grad + total_row, bias_sum, mask=is_channel)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, ways: Sequence[int]) -> Tensor:
    """Return y."""
    batch, length, directions, channels = x.shape
    T, E = TILE
    y = x.new_empty(x.shape)
    programs = batch * directions * triton.cdiv(channels, E) * triton.cdiv(length, T)
    if programs:
        conv_forward_kernel[(programs,)](
            x, weight, bias, y, strides_of(x), strides_of(y), length, directions, channels, mask_of(ways),
            has_silu=silu, W=weight.shape[-1], T=T, E=E, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def backward(
    y_grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, ways: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of x, and those of the weight and the bias for each strip: the caller adds them up."""
    batch, length, directions, channels = x.shape
    T, E = TILE
    strips = batch * triton.cdiv(length, T * TILES_OF_STRIP)
    x_grad = x.new_empty(x.shape)
    weight_grad = weight.new_empty(strips, *weight.shape)
    bias_grad = weight.new_empty(strips, directions, channels)
    programs = directions * triton.cdiv(channels, E) * strips
    if programs:
        conv_backward_kernel[(programs,)](
            y_grad, x, weight, bias, x_grad, weight_grad, bias_grad,
            strides_of(y_grad), strides_of(x), strides_of(x_grad), length, directions, channels, mask_of(ways),
            has_silu=silu, W=weight.shape[-1], T=T, E=E, tiles=TILES_OF_STRIP, enable_fp_fusion=True,
        )  # fmt: skip
    return x_grad, weight_grad, bias_grad
