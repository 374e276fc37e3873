"""A linear layer with a LoRA adapter that is computed in one product where that is less work.

Imported only where adapters are attached: PEFT takes seconds to import.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn

__all__ = ["SummedLoraLinear", "sum_is_less_work"]


def sum_is_less_work(num_tokens: int, in_features: int, out_features: int, rank: int) -> bool:
    """Return whether a training step of a frozen weight and its adapter is fewer multiplications by their sum.

    The sum needs the gradient of a whole weight, which the frozen one does not: three products of all tokens by it
    instead of two, and the adapter's own three times (forward, and two backward) without tokens. Small models have
    ranks that are large beside their widths; for those it is up to half of the work.
    """
    weight, adapter = in_features * out_features, rank * (in_features + out_features)
    return (num_tokens + 3 * rank) * weight < 3 * num_tokens * adapter


class SummedLoraLinear(Linear):
    """PEFT's LoRA layer, whose result is ``x (W + s B A)^T`` instead of ``x W^T + s (x A^T) B^T`` where that pays.

    In less than 32 bits the sum would round away what the adapter has learnt, and dropout acts before the adapter only:
    then, and for anything but a plain adapter, PEFT's own way is taken.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return float[..., out_features] for float[..., in_features]."""
        if args or kwargs or not self._is_summed(x):
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        (name,) = self.active_adapters
        base = cast(nn.Linear, self.get_base_layer())
        down, up = (cast(nn.Linear, side[name]).weight for side in (self.lora_A, self.lora_B))
        return F.linear(x, torch.addmm(base.weight, up, down, alpha=self.scaling[name]), base.bias)

    def _is_summed(self, x: Tensor) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        dropout = self.lora_dropout[name]
        if name in self.lora_variant or not (isinstance(dropout, nn.Identity) or not dropout.training):
            return False
        base = cast(nn.Linear, self.get_base_layer())
        if {x.dtype, base.weight.dtype, self.lora_A[name].weight.dtype} != {torch.float32}:
            return False
        if torch.is_autocast_enabled(x.device.type):
            return False
        return sum_is_less_work(x.numel() // x.shape[-1], base.in_features, base.out_features, self.r[name])
