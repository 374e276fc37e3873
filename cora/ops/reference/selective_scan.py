"""The plain truth of the selective scan: one step of the recurrence after the other, in float32 or float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["selective_scan"]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: Sequence[bool],
) -> Tensor:
    """Return y[B, L, G, E] of the selective state-space recurrence, in u's dtype; differentiable.

    Args:
        u: Input [B, L, G, E]: a batch, positions, directions, channels of a direction.
        delta: Step sizes before bias and softplus, as u.
        A: State transition [G, E, K].
        B: Input weights [B, L, G, K].
        C: Output weights, as B.
        D: Skip weights [G, E], or None.
        z: Gate, as u, or None.
        delta_bias: Added to the step sizes, [G, E], or None.
        delta_softplus: Whether softplus makes the step sizes positive.
        reverse: For each direction, whether it runs from the last position to the first.

    Reference: Gu and Dao 2023, "Mamba", equation 2 with the zero-order hold for A and the Euler step for B.
    """
    compute = torch.float64 if u.dtype == torch.float64 else torch.float32
    inputs, steps = u.to(compute), delta.to(compute)
    if delta_bias is not None:
        steps = steps + delta_bias.to(compute)
    if delta_softplus:
        steps = F.softplus(steps)
    transition, read_in, read_out = A.to(compute), B.to(compute), C.to(compute)
    directions = [
        _scan(
            inputs[:, :, way], steps[:, :, way], transition[way], read_in[:, :, way], read_out[:, :, way], is_reversed
        )
        for way, is_reversed in enumerate(reverse)
    ]
    result = torch.stack(directions, dim=2)
    if D is not None:
        result = result + D.to(compute) * inputs
    if z is not None:
        result = result * F.silu(z.to(compute))
    return result.to(u.dtype)


def _scan(
    inputs: Tensor, steps: Tensor, transition: Tensor, read_in: Tensor, read_out: Tensor, is_reversed: bool
) -> Tensor:
    """Return float[B, L, E] for one direction."""
    length = inputs.shape[1]
    state = inputs.new_zeros(inputs.shape[0], inputs.shape[2], transition.shape[1])
    outputs = [state[..., 0]] * length
    for position in reversed(range(length)) if is_reversed else range(length):
        step = steps[:, position, :, None]
        drive = step * read_in[:, position, None] * inputs[:, position, :, None]
        state = torch.exp(step * transition) * state + drive
        outputs[position] = (state * read_out[:, position, None]).sum(-1)
    return torch.stack(outputs, dim=1)
