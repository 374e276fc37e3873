"""The resampler that only changes the width."""

from __future__ import annotations

from torch import Tensor, nn

from cora.model.resampler.base import GridHW, GridResampler

__all__ = ["IdentityResampler"]


class IdentityResampler(GridResampler):
    """One linear layer from the vision width to the latent width; nothing at all when they are equal."""

    def __init__(self, input_dim: int, latent_dim: int) -> None:
        super().__init__(input_dim, latent_dim)
        self.proj = nn.Identity() if input_dim == latent_dim else nn.Linear(input_dim, latent_dim)

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, S, latent_dim]."""
        projected: Tensor = self.proj(tokens)
        return projected
