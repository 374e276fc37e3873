"""The Mamba block, with parameters named and shaped as in ``mamba_ssm.Mamba``.

Shapes: N sequences, S positions, D width, E inner width (expand x D), R rank of the step size, K states.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cora.ops.causal_conv1d import causal_conv1d
from cora.ops.selective_scan import selective_scan

__all__ = ["MambaBlock"]

STEP_RANGE = (0.001, 0.1)
STEP_FLOOR = 1e-4


class MambaBlock(nn.Module):
    """Maps float[N, S, D] to float[N, S, D], each position seeing itself and those before it, or after it.

    Args:
        dim: Width D.
        d_state: States per channel.
        d_conv: Length of the causal depthwise convolution.
        expand: Inner width as a multiple of `dim`.

    Reference: Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", figure 3.
    """

    def __init__(self, dim: int, *, d_state: int = 16, d_conv: int = 4, expand: float = 2.0) -> None:
        super().__init__()
        self.inner_dim = int(expand * dim)
        self.d_state = d_state
        self.rank = math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * self.inner_dim, bias=False)
        self.conv1d = nn.Conv1d(self.inner_dim, self.inner_dim, d_conv, groups=self.inner_dim, padding=d_conv - 1)
        self.x_proj = nn.Linear(self.inner_dim, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.inner_dim)
        self.A_log = nn.Parameter(torch.empty(self.inner_dim, d_state))
        self.D = nn.Parameter(torch.empty(self.inner_dim))
        self.out_proj = nn.Linear(self.inner_dim, dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the state space: A = -1..-K per channel, step sizes log-uniform in [0.001, 0.1]."""
        states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_log.device)
        self.A_log.copy_(states.log().expand(self.inner_dim, -1))
        self.D.fill_(1.0)
        bound = self.rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        low, high = (math.log(value) for value in STEP_RANGE)
        step = torch.empty(self.inner_dim, device=self.A_log.device).uniform_(low, high).exp().clamp(min=STEP_FLOOR)
        # The bias goes through softplus; this is its inverse.
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    @property
    def transition(self) -> Tensor:
        """A, float[E, K], negative; at least float32."""
        return -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()

    def forward(self, hidden: Tensor, *, reverse: bool = False) -> Tensor:
        """Return float[N, S, D].

        Args:
            hidden: float[N, S, D].
            reverse: Whether it runs from the last position to the first; nothing is turned around.
        """
        inner, gate = self.in_proj(hidden).chunk(2, dim=-1)
        inner = causal_conv1d(inner, self.conv1d.weight[:, 0], self.conv1d.bias, reverse=reverse)
        low_rank, read_in, read_out = self.x_proj(inner).split([self.rank, self.d_state, self.d_state], dim=-1)
        scanned = selective_scan(
            inner,
            F.linear(low_rank, self.dt_proj.weight),
            self.transition,
            read_in,
            read_out,
            self.D,
            gate,
            self.dt_proj.bias,
            delta_softplus=True,
            layout="bld",
            reverse=reverse,
        )
        output: Tensor = self.out_proj(scanned)
        return output
