"""Depthwise convolution and LayerNorm in Triton, with the meaning of `cora.ops.reference.depthwise_norm`.

Forward, a program owns a block of tokens with all their channels, so that what it normalises stays in registers.
Backward there are three kernels: through the norm; the convolution of that gradient, which is the one for x; and its
products with x, summed for one weight of a block of channels by a program.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["backward", "forward"]

# A tile of this many values, a power of two, is what a program holds.
TILE = 4096
CHANNELS = 64
# Parts of the tokens with sums of their own, at most: their number, and so the result, depends on the shape alone.
PARTS = 32
TOKENS = 16


@triton.jit  # type: ignore[untyped-decorator]
def convolve(  # type: ignore[no-untyped-def]  # triton evaluates annotations
    x, weight, token, channel, mask, height, width, channels, view_stride, row_stride, column_stride, size: tl.constexpr
):
    """Return float32[tokens, channels]; the weights are [K, K, C]."""
    row = token // width % height
    column = token % width
    x += (token // width // height).to(tl.int64)[:, None] * view_stride + channel[None, :]
    values = tl.zeros((token.shape[0], channel.shape[0]), dtype=tl.float32)
    for tap in range(size * size):
        at_row = row + tap // size - size // 2
        at_column = column + tap % size - size // 2
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        place = at_row.to(tl.int64) * row_stride + at_column.to(tl.int64) * column_stride
        factor = tl.load(weight + tap * channels + channel, mask=channel < channels, other=0.0)
        values += factor[None, :] * tl.load(x + place[:, None], mask=mask & inside[:, None], other=0.0).to(tl.float32)
    return values


@triton.jit  # type: ignore[untyped-decorator]
def forward_kernel(  # type: ignore[no-untyped-def]  # as above
    x, weight, bias, norm_weight, norm_bias, y, normal, factors, tokens, height, width, channels,
    view_stride, row_stride, column_stride, eps, size: tl.constexpr, has_bias: tl.constexpr, keep: tl.constexpr,
    block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Write tokens `block` * program .. of y, and of what is kept."""
    token = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.arange(0, wide)
    is_channel = channel < channels
    mask = (token < tokens)[:, None] & is_channel[None, :]
    values = convolve(
        x, weight, token, channel, mask, height, width, channels, view_stride, row_stride, column_stride, size
    )
    if has_bias:
        values += tl.load(bias + channel, mask=is_channel, other=0.0)[None, :]
    mean = tl.sum(values, axis=1) / channels
    centred = tl.where(is_channel[None, :], values - mean[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / channels + eps)
    normalised = centred * factor[:, None]
    scale = tl.load(norm_weight + channel, mask=is_channel, other=0.0)
    shift = tl.load(norm_bias + channel, mask=is_channel, other=0.0)
    place = token.to(tl.int64)[:, None] * channels + channel[None, :]
    result = normalised * scale[None, :] + shift[None, :]
    tl.store(y + place, result.to(y.dtype.element_ty), mask=mask)
    if keep:
        tl.store(normal + place, normalised.to(normal.dtype.element_ty), mask=mask)
        tl.store(factors + token, factor, mask=token < tokens)


@triton.jit  # type: ignore[untyped-decorator]
def norm_backward_kernel(  # type: ignore[no-untyped-def]  # as above
    y_grad, normal, factors, norm_weight, value_grad, bias_grad, norm_weight_grad, norm_bias_grad,
    tokens, height, width, channels, view_stride, row_stride, column_stride, parts,
    block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Write the gradient before the norm of one part of the tokens, and the part's sums for three parameters."""
    part = tl.program_id(0)
    channel = tl.arange(0, wide)
    is_channel = channel < channels
    scale = tl.load(norm_weight + channel, mask=is_channel, other=0.0)
    bias_sum = tl.zeros((wide,), dtype=tl.float32)
    weight_sum = tl.zeros((wide,), dtype=tl.float32)
    shift_sum = tl.zeros((wide,), dtype=tl.float32)
    for first in range(part * block, tokens, parts * block):
        token = first + tl.arange(0, block)
        mask = (token < tokens)[:, None] & is_channel[None, :]
        place = token.to(tl.int64)[:, None] * channels + channel[None, :]
        position = (token // width // height).to(tl.int64) * view_stride
        position += (token // width % height).to(tl.int64) * row_stride + (token % width).to(tl.int64) * column_stride
        grad = tl.load(y_grad + position[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        values = tl.load(normal + place, mask=mask, other=0.0).to(tl.float32)
        factor = tl.load(factors + token, mask=token < tokens, other=0.0)
        scaled = grad * scale[None, :]
        mean = tl.sum(scaled, axis=1) / channels
        along = tl.sum(scaled * values, axis=1) / channels
        before = (scaled - mean[:, None] - values * along[:, None]) * factor[:, None]
        before = tl.where(mask, before, 0.0)
        tl.store(value_grad + place, before, mask=mask)
        bias_sum += tl.sum(before, axis=0)
        weight_sum += tl.sum(grad * values, axis=0)
        shift_sum += tl.sum(grad, axis=0)
    place = part * channels + channel
    tl.store(bias_grad + place, bias_sum, mask=is_channel)
    tl.store(norm_weight_grad + place, weight_sum, mask=is_channel)
    tl.store(norm_bias_grad + place, shift_sum, mask=is_channel)


@triton.jit  # type: ignore[untyped-decorator]
def input_grad_kernel(  # type: ignore[no-untyped-def]  # as above
    value_grad, weight, x_grad, tokens, height, width, channels, size: tl.constexpr, block: tl.constexpr,
    wide: tl.constexpr,
):  # fmt: skip
    """Write a block of tokens and channels of the gradient of x; the weights come in reverse."""
    token = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    mask = (token < tokens)[:, None] & (channel < channels)[None, :]
    row_stride = width * channels
    grad = convolve(
        value_grad, weight, token, channel, mask, height, width, channels,
        height * row_stride, row_stride, channels, size,
    )  # fmt: skip
    place = token.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(x_grad + place, grad.to(x_grad.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def weight_grad_kernel(  # type: ignore[no-untyped-def]  # as above
    x, value_grad, weight_grad, tokens, height, width, channels, view_stride, row_stride, column_stride, parts,
    size: tl.constexpr, block: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Write one part's sum for one weight of a block of channels, to [parts, C, K, K]."""
    part = tl.program_id(0)
    tap = tl.program_id(1)
    channel = tl.program_id(2) * wide + tl.arange(0, wide)
    is_channel = channel < channels
    total = tl.zeros((wide,), dtype=tl.float32)
    for first in range(part * block, tokens, parts * block):
        token = first + tl.arange(0, block)
        row = token // width % height + tap // size - size // 2
        column = token % width + tap % size - size // 2
        inside = (token < tokens) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        mask = inside[:, None] & is_channel[None, :]
        source = (token // width // height).to(tl.int64) * view_stride
        source += row.to(tl.int64) * row_stride + column.to(tl.int64) * column_stride
        values = tl.load(x + source[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        place = token.to(tl.int64)[:, None] * channels + channel[None, :]
        total += tl.sum(values * tl.load(value_grad + place, mask=mask, other=0.0), axis=0)
    place = (part * channels + channel).to(tl.int64) * (size * size) + tap
    tl.store(weight_grad + place, total, mask=is_channel)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y; then the normalised tokens and their factors, empty unless they are to be kept."""
    views, height, width, channels = x.shape
    kept = views if keep else 0
    y, normal = x.new_empty(x.shape), x.new_empty(kept, height, width, channels)
    factors = weight.new_empty(kept, height, width)
    tokens, wide = views * height * width, triton.next_power_of_2(channels)
    block = max(1, min(32, TILE // wide))
    if tokens:
        forward_kernel[(triton.cdiv(tokens, block),)](
            x, weight.permute(1, 2, 0).contiguous(), weight if bias is None else bias, norm_weight, norm_bias,
            y, normal, factors, tokens, height, width, channels, *x.stride()[:3], eps,
            size=weight.shape[-1], has_bias=bias is not None, keep=keep, block=block, wide=wide,
        )  # fmt: skip
    return y, normal, factors


def backward(
    y_grad: Tensor, x: Tensor, weight: Tensor, norm_weight: Tensor, normal: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradient of x, then those of the four parameters for each part of the tokens."""
    (views, height, width, channels), size = x.shape, weight.shape[-1]
    tokens, wide = views * height * width, triton.next_power_of_2(channels)
    value_grad = weight.new_empty(x.shape)
    x_grad = x.new_empty(x.shape)
    parts = min(PARTS, triton.cdiv(tokens, TOKENS))
    weight_grad = weight.new_zeros(parts, *weight.shape)
    vectors = [weight.new_zeros(parts, channels) for _ in range(3)]
    if tokens:
        block = max(1, min(32, TILE // wide))
        norm_backward_kernel[(parts,)](
            y_grad, normal, factors, norm_weight, value_grad, *vectors, tokens, height, width, channels,
            *y_grad.stride()[:3], parts, block=block, wide=wide,
        )  # fmt: skip
        narrow = min(CHANNELS, wide)
        blocks = triton.cdiv(channels, narrow)
        input_grad_kernel[(triton.cdiv(tokens, TOKENS), blocks)](
            value_grad, weight.flip(1, 2).permute(1, 2, 0).contiguous(), x_grad, tokens, height, width, channels,
            size=size, block=TOKENS, wide=narrow,
        )  # fmt: skip
        weight_grad_kernel[(parts, size * size, blocks)](
            x, value_grad, weight_grad, tokens, height, width, channels, *x.stride()[:3], parts,
            size=size, block=TOKENS, wide=narrow,
        )  # fmt: skip
    return x_grad, weight_grad, vectors[0], vectors[1], vectors[2]
