"""Cutting views in Triton: `sample_views` and `halve` with the meaning of `cora.ops.reference.erp_to_views`.

A program owns a block of pixels of one panorama for all views of a ring, so that its taps stay in the cache. Sums are
of whole numbers; only the normalisation rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["halve", "sample_views"]

BLOCK = 128
ONE = 1 << 14


@triton.jit  # type: ignore[untyped-decorator]
def sample_views_kernel(  # type: ignore[no-untyped-def]  # triton evaluates annotations
    texels,
    taps,
    weights,
    shifts,
    out,
    height,
    width,
    pixels,
    views,
    samples,
    batch_stride,
    view_stride,
    channel_stride,
    scale_red,
    scale_green,
    scale_blue,
    offset_red,
    offset_green,
    offset_blue,
    block: tl.constexpr,
):
    """Write pixels `block` * program .. of all views of one panorama; the second program axis is the panorama."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    mask = pixel < pixels
    texels += image * height * width * 3
    out += image * batch_stride
    for view in range(views):
        shift = tl.load(shifts + view)
        red = tl.zeros((block,), dtype=tl.int32)
        green = tl.zeros((block,), dtype=tl.int32)
        blue = tl.zeros((block,), dtype=tl.int32)
        for sample in range(samples):
            position = pixel.to(tl.int64) * samples + sample
            tap = tl.load(taps + position, mask=mask, other=1 << 16)
            for corner in tl.static_range(4):
                row = (tap >> 16) - 1 + corner // 2
                column = (tap & 0xFFFF) + shift + corner % 2
                over_pole = (row < 0) | (row >= height)
                row = tl.where(row < 0, -1 - row, tl.where(row >= height, 2 * height - 1 - row, row))
                column = tl.where(over_pole, column + width // 2, column)
                # It is below 2.5 widths.
                column = tl.where(column >= width, column - width, column)
                column = tl.where(column >= width, column - width, column)
                weight = tl.load(weights + position * 4 + corner, mask=mask, other=0).to(tl.int32)
                address = texels + (row.to(tl.int64) * width + column) * 3
                red += weight * tl.load(address, mask=mask, other=0).to(tl.int32)
                green += weight * tl.load(address + 1, mask=mask, other=0).to(tl.int32)
                blue += weight * tl.load(address + 2, mask=mask, other=0).to(tl.int32)
        target = out + pixel
        kind = out.dtype.element_ty
        tl.store(target, (red.to(tl.float32) * scale_red + offset_red).to(kind), mask=mask)
        target += channel_stride
        tl.store(target, (green.to(tl.float32) * scale_green + offset_green).to(kind), mask=mask)
        target += channel_stride
        tl.store(target, (blue.to(tl.float32) * scale_blue + offset_blue).to(kind), mask=mask)
        out += view_stride


@triton.jit  # type: ignore[untyped-decorator]
def halve_kernel(  # type: ignore[no-untyped-def]  # as above
    source, target, count, first_row, wanted, rows, columns, block: tl.constexpr
):
    """Write texels `block` * program .. of the wanted rows of all panoramas; rows and columns are the result's."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = index < count
    line = index // columns
    row = line // wanted * rows + first_row + line % wanted
    column = index % columns
    stride = columns * 6
    upper = source + 2 * row * stride + column * 6
    for channel in tl.static_range(3):
        left = upper + channel
        total = tl.load(left, mask=mask, other=0).to(tl.int32) + tl.load(left + 3, mask=mask, other=0).to(tl.int32)
        total += tl.load(left + stride, mask=mask, other=0).to(tl.int32)
        total += tl.load(left + stride + 3, mask=mask, other=0).to(tl.int32)
        tl.store(target + (row * columns + column) * 3 + channel, ((total + 2) >> 2).to(tl.uint8), mask=mask)


def sample_views(
    panoramas: Tensor,
    taps: Tensor,
    weights: Tensor,
    shifts: Sequence[int],
    scale: Sequence[float],
    offset: Sequence[float],
    out: Tensor,
) -> None:
    """Fill `out`, floating [B, V, 3, h, w] with the pixels of a channel side by side; see `cora.ops.view_plan`."""
    batch, height, width, _ = panoramas.shape
    pixels = out.shape[-2] * out.shape[-1]
    samples = len(taps) // pixels
    columns = torch.tensor(shifts, dtype=torch.int32, device=panoramas.device)
    scales = [each / (ONE * samples) for each in scale]
    sample_views_kernel[triton.cdiv(pixels, BLOCK), batch](
        panoramas, taps, weights, columns, out, height, width, pixels, len(shifts), samples,
        *out.stride()[:3], *scales, *offset, block=BLOCK, enable_fp_fusion=True,
    )  # fmt: skip


def halve(panoramas: Tensor, first_row: int, last_row: int) -> Tensor:
    """Return panoramas uint8[B, H, W, 3] with even sides at half their size; only the rows asked for are written."""
    batch, height, width, channels = panoramas.shape
    halves = panoramas.new_empty(batch, height // 2, width // 2, channels)
    count = batch * (last_row - first_row) * (width // 2)
    grid = (triton.cdiv(count, BLOCK),)
    if count:
        halve_kernel[grid](
            panoramas, halves, count, first_row, last_row - first_row, height // 2, width // 2, block=BLOCK
        )
    return halves
