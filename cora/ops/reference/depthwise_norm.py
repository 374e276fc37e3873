"""The plain truth of a depthwise convolution and LayerNorm over the channels: torch's, in float32 or float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["depthwise_norm"]


def depthwise_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> Tensor:
    """Return y[N, H, W, C], in x's dtype: the weights meet the token in their middle and those around it.

    Args:
        x: Tokens [N, H, W, C]: views, rows, columns, channels; zero beyond their borders.
        weight: [C, K, K] with K odd: rows, then columns.
        bias: [C], or None.
        norm_weight: Scale of the norm, [C].
        norm_bias: Shift of the norm, [C].
        eps: Added to the variance.
    """
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    values = F.conv2d(
        # The axes of the view are turned, not the memory: a convolution takes channels-last as it is.
        x.to(compute).permute(0, 3, 1, 2),
        weight.to(compute)[:, None],
        None if bias is None else bias.to(compute),
        padding=weight.shape[-1] // 2,
        groups=x.shape[-1],
    ).permute(0, 2, 3, 1)
    normal = F.layer_norm(values, norm_weight.shape, norm_weight.to(compute), norm_bias.to(compute), eps)
    return normal.to(x.dtype)
