"""What every resampler promises.

Shapes: N views of a batch, S tokens per view, S' tokens after resampling, D widths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

GridHW = tuple[int, int]


class Resampler(nn.Module, ABC):
    """Maps the vision tokens of one view, [N, S, input_dim], to latent tokens, [N, S', latent_dim].

    A subclass takes ``(input_dim, latent_dim, *, options...)``; its keyword options are the keys a configuration may
    set. Grid resamplers keep a rectangular grid of tokens, so that positions and stitching stay meaningful.
    """

    is_grid: bool

    def __init__(self, input_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.latent_dim = latent_dim

    @abstractmethod
    def output_grid(self, grid_hw: GridHW) -> GridHW | None:
        """Return the (height, width) of the token grid after resampling, or None when there is none."""

    @abstractmethod
    def output_tokens(self, grid_hw: GridHW) -> int:
        """Return how many tokens a view of `grid_hw` vision tokens has after resampling."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Return float[N, S', latent_dim] for vision tokens float[N, S, input_dim]."""


class GridResampler(Resampler):
    """A resampler that works token by token or along the sequence and keeps the grid as it is."""

    is_grid = True

    def output_grid(self, grid_hw: GridHW) -> GridHW | None:
        """Return `grid_hw`."""
        return grid_hw

    def output_tokens(self, grid_hw: GridHW) -> int:
        """Return height x width."""
        return grid_hw[0] * grid_hw[1]
