"""The learning-rate schedule of everything that is trained here: linear warm-up, then linear decay."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["linear_warmup_decay", "warmup_decay_factor"]


def warmup_decay_factor(step: int, *, total_steps: int, warmup_ratio: float) -> float:
    """Return the learning-rate factor of a step: from 0 up to 1 during warm-up, then linearly down to 0."""
    warmup_steps = max(round(total_steps * warmup_ratio), 1)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(total_steps - step, 0) / max(total_steps - warmup_steps, 1)


def linear_warmup_decay(optimizer: Optimizer, *, total_steps: int, warmup_ratio: float) -> LambdaLR:
    """Return the schedule of `warmup_decay_factor`, to be stepped once per optimiser step."""
    return LambdaLR(
        optimizer, lambda step: warmup_decay_factor(step, total_steps=total_steps, warmup_ratio=warmup_ratio)
    )
