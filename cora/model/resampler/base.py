"""What every resampler promises, and the ranges its options may have.

Shapes: N views of a batch, S tokens per view, S' tokens after resampling, D widths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

__all__ = ["Count", "Factor", "Fraction", "GridHW", "GridResampler", "LatentResampler", "Probability", "Resampler"]

GridHW = tuple[int, int]

# Types of options: `ResamplerModule` checks what a configuration gives against the annotations of the constructor.
Count = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(gt=0.0)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Resampler(nn.Module, ABC):
    """Maps the vision tokens of one view, [N, S, input_dim], to latent tokens, [N, S', latent_dim].

    A subclass takes ``(input_dim, latent_dim, *, options...)``; its keyword options are the keys a configuration may
    set, and their annotations say which values. `output_grid`, `num_tokens` and `is_grid` are what the projector, the
    losses and vLLM know about the result: they hold in training and in evaluation alike.

    Attributes:
        older_options: Older names of options, each with the one it has now.
    """

    older_options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, input_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.latent_dim = latent_dim

    @property
    @abstractmethod
    def is_grid(self) -> bool:
        """Whether the latent tokens are a grid, row by row, that covers the view in equal cells."""

    @abstractmethod
    def output_grid(self, grid_hw: GridHW) -> GridHW | None:
        """Return the (height, width) of the latent grid of a view of `grid_hw` vision tokens, or None without one."""

    @abstractmethod
    def num_tokens(self, grid_hw: GridHW) -> int:
        """Return S', the latent tokens of a view of `grid_hw` vision tokens."""

    @abstractmethod
    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, S', latent_dim] for vision tokens float[N, S, input_dim], row by row of the grid."""

    def draw_kept(self, num_panoramas: int, num_tokens: int) -> Tensor | None:
        """Return which vision tokens of each panorama the language model is shown in this training step.

        Args:
            num_panoramas: Of the batch.
            num_tokens: T, the vision tokens of a panorama.

        Returns:
            int64[num_panoramas, K], ascending in each row; or None for all of them, as everywhere but in a resampler
            that drops tokens.
        """
        return None


class GridResampler(Resampler):
    """A resampler whose latent tokens are a grid; unless it says otherwise, that of the vision tokens."""

    @property
    def is_grid(self) -> bool:
        """True."""
        return True

    def output_grid(self, grid_hw: GridHW) -> GridHW:
        """Return `grid_hw`."""
        return grid_hw

    def num_tokens(self, grid_hw: GridHW) -> int:
        """Return height x width of the latent grid."""
        height, width = self.output_grid(grid_hw)
        return height * width


class LatentResampler(Resampler):
    """A resampler whose tokens have no place in the view: they are not stitched and have no overlap loss."""

    @property
    def is_grid(self) -> bool:
        """False."""
        return False

    def output_grid(self, grid_hw: GridHW) -> None:
        """Return None."""
