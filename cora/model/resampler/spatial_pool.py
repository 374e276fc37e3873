"""The resampler that makes one token of a square of them.

Shapes: N views, S tokens, [H, W] their grid, [H', W'] the latent grid, D widths.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.model.resampler.base import Count, GridHW, GridResampler
from cora.model.resampler.mlp import TokenMLP

__all__ = ["SpatialPoolResampler"]


class SpatialPoolResampler(GridResampler):
    """Pools squares of `pool_size` x `pool_size` tokens, then a `TokenMLP` on every pooled token.

    Where the grid is no multiple of the square, ``average`` and ``max`` make a grid of one more cell in that direction
    whose cells are as equal as whole tokens allow, a token on the border of two counting in both: every token is seen
    and the cells still cover the view evenly. ``conv`` has a weight for every token of a square and refuses it.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        pool_size: Side of the square.
        pool_mode: Whether a square becomes its mean, its largest components, or a learned combination.
        depth: Linear layers after the pooling; the widest of both widths lies between them.
    """

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        pool_size: Count = 4,
        pool_mode: Literal["average", "max", "conv"] = "average",
        depth: Count = 2,
    ) -> None:
        super().__init__(input_dim, latent_dim)
        self.pool_size = pool_size
        self.pool_mode = pool_mode
        self.pool = nn.Conv2d(input_dim, input_dim, pool_size, stride=pool_size) if pool_mode == "conv" else None
        self.proj = TokenMLP(input_dim, max(input_dim, latent_dim), latent_dim, depth=depth)

    def output_grid(self, grid_hw: GridHW) -> GridHW:
        """Return the grid divided by `pool_size`, rounded up.

        Raises:
            ConfigError: It is no multiple of `pool_size`, and `pool_mode` is ``conv``.
        """
        height, width = (-(-side // self.pool_size) for side in grid_hw)
        if self.pool_mode == "conv" and (height * self.pool_size, width * self.pool_size) != tuple(grid_hw):
            raise ConfigError(
                f"resampler.pool_mode 'conv' of 'spatial_pool' needs a grid that is a multiple of pool_size "
                f"{self.pool_size}, and a view has {grid_hw[0]}x{grid_hw[1]} tokens; use 'average' or 'max', "
                "or another pool_size or image_size"
            )
        return height, width

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, H' x W', latent_dim]."""
        latent_hw = self.output_grid(grid_hw)
        grid = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid_hw)
        if self.pool is not None:
            pooled = self.pool(grid)
        elif self.pool_mode == "max":
            pooled = F.adaptive_max_pool2d(grid, latent_hw)
        else:
            pooled = F.adaptive_avg_pool2d(grid, latent_hw)
        latents: Tensor = self.proj(pooled.flatten(2).transpose(1, 2))
        return latents
