"""The resampler that shows the language model only some of the tokens in training.

Shapes: B panoramas, N views, S tokens, T vision tokens of a panorama, K kept ones.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from cora.errors import ConfigError
from cora.model.resampler.base import Count, Fraction, GridHW, GridResampler
from cora.model.resampler.mlp import TokenMLP

__all__ = ["MaskedDropResampler"]


class MaskedDropResampler(GridResampler):
    """A `TokenMLP` on every token, and in training a random choice of the vision tokens of a panorama.

    All tokens of a view go through and keep their grid, in training and in evaluation: stitching, positions and the
    overlap losses are those of any grid. What is dropped is dropped last, from the tokens that already know their
    direction and their place in the sequence (`draw_kept`), so what is kept has the order, the encoding and the
    position in the language model that it has in evaluation, where everything is kept.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        mask_ratio: Fraction that is kept, in the mode ``fixed``.
        mask_mode: Whether the fraction is `mask_ratio` or drawn for each training step.
        ratio_lower: Least fraction that is kept, in the mode ``range``.
        ratio_upper: Largest one.
        skip_percentage: Probability, 0 to 1, that a training step keeps everything.
        depth: Linear layers; the widest of both widths lies between them.

    Reference: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3.
    """

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        mask_ratio: Fraction = 0.5,
        mask_mode: Literal["fixed", "range"] = "fixed",
        ratio_lower: Fraction = 0.3,
        ratio_upper: Fraction = 0.7,
        skip_percentage: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0,
        depth: Count = 2,
    ) -> None:
        super().__init__(input_dim, latent_dim)
        if ratio_lower > ratio_upper:
            raise ConfigError(
                f"resampler.ratio_lower of 'masked_drop' is {ratio_lower}, over ratio_upper {ratio_upper}"
            )
        self.bounds = (mask_ratio, mask_ratio) if mask_mode == "fixed" else (ratio_lower, ratio_upper)
        self.skip_percentage = skip_percentage
        self.proj = TokenMLP(input_dim, max(input_dim, latent_dim), latent_dim, depth=depth)

    def draw_kept(self, num_panoramas: int, num_tokens: int) -> Tensor | None:
        """Return int64[B, K], ascending in each row, in training; None in evaluation."""
        if not self.training or torch.rand(()).item() < self.skip_percentage:
            return None
        low, high = self.bounds
        ratio = low + (high - low) * torch.rand(()).item()
        num_kept = max(1, int(num_tokens * ratio))
        # On the CPU, so that a seed draws the same tokens on every device.
        order = torch.rand(num_panoramas, num_tokens).argsort(dim=1)
        return order[:, :num_kept].sort(dim=1).values

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, S, latent_dim]."""
        latents: Tensor = self.proj(tokens)
        return latents
