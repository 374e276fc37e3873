"""The plain truth of the causal depthwise convolution: a sum over shifted copies, in float32 or float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["causal_conv1d"]


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: Sequence[bool]) -> Tensor:
    """Return y[B, L, G, E], in x's dtype: the last weight meets the position itself, the others those before it.

    Args:
        x: Input [B, L, G, E]: a batch, positions, directions, channels of a direction; zero beyond its ends.
        weight: [G, E, W].
        bias: [G, E], or None.
        silu: Whether SiLU follows.
        reverse: For each direction, whether "before" means the positions after.
    """
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs, taps = x.to(compute), weight.to(compute)
    length, width = x.shape[1], weight.shape[2]
    directions = []
    for way, is_reversed in enumerate(reverse):
        padding = (0, 0, 0, width - 1) if is_reversed else (0, 0, width - 1, 0)
        padded = F.pad(inputs[:, :, way], padding)
        shifts = [width - 1 - tap if is_reversed else tap for tap in range(width)]
        directions.append(
            sum(taps[way, :, tap] * padded[:, shift : shift + length] for tap, shift in enumerate(shifts))
        )
    result = torch.stack([torch.as_tensor(each) for each in directions], dim=2)
    if bias is not None:
        result = result + bias.to(compute)
    return (F.silu(result) if silu else result).to(x.dtype)
