"""The plain truth of the selective scan: one step of the recurrence after the other, in float32 or float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Return the output of the selective state-space recurrence; shapes as in `cora.ops.selective_scan`.

    Reference: Gu and Dao 2023, "Mamba", equation 2 with the zero-order hold for A and the Euler step for B.
    """
    compute = torch.float64 if u.dtype == torch.float64 else torch.float32
    inputs, steps = u.to(compute), delta.to(compute)
    if delta_bias is not None:
        steps = steps + delta_bias.to(compute)[:, None]
    if delta_softplus:
        steps = F.softplus(steps)
    transition, read_in, read_out = A.to(compute), B.to(compute), C.to(compute)
    state = inputs.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    outputs = []
    for position in range(u.shape[2]):
        step = steps[:, :, position, None]
        drive = step * read_in[:, None, :, position] * inputs[:, :, position, None]
        state = torch.exp(step * transition) * state + drive
        outputs.append((state * read_out[:, None, :, position]).sum(-1))
    result = torch.stack(outputs, dim=-1)
    if D is not None:
        result = result + D.to(compute)[:, None] * inputs
    if z is not None:
        result = result * F.silu(z.to(compute))
    return result.to(u.dtype)
