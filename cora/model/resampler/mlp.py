"""The resampler that looks at one token at a time, and the perceptron that others end with.

Shapes: N views, S tokens, S' tokens after pooling, D widths.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.model.resampler.base import Count, GridHW, Resampler

__all__ = ["MLPResampler", "TokenMLP"]


class TokenMLP(nn.Sequential):
    """`depth` linear layers with (LayerNorm and) GELU between them, applied to every token.

    Args:
        input_dim: Width of the tokens.
        hidden_dim: Width between the layers.
        output_dim: Width of the result.
        depth: Number of linear layers.
        use_ln: Whether a LayerNorm stands before each GELU.
    """

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, *, depth: int, use_ln: bool = True) -> None:
        layers: list[nn.Module] = []
        width = input_dim
        for _ in range(depth - 1):
            layers.append(nn.Linear(width, hidden_dim))
            if use_ln:
                layers.append(nn.LayerNorm(hidden_dim))
            layers.append(nn.GELU())
            width = hidden_dim
        layers.append(nn.Linear(width, output_dim))
        super().__init__(*layers)


class MLPResampler(Resampler):
    """A `TokenMLP` on every token, and on demand fewer tokens: those side by side in reading order become one.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        hidden_dim: Width between the layers.
        depth: Number of linear layers.
        use_ln: Whether a LayerNorm stands before each GELU.
        pool_tokens: Tokens of a view after pooling; None keeps them all, and with them the grid.
        pool_type: Whether pooled tokens are averaged or their largest components taken.
    """

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        hidden_dim: Count = 1536,
        depth: Count = 3,
        use_ln: bool = True,
        pool_tokens: Count | None = None,
        pool_type: Literal["avg", "max"] = "avg",
    ) -> None:
        super().__init__(input_dim, latent_dim)
        if pool_type == "max" and pool_tokens is None:
            raise ConfigError("resampler.pool_type 'max' of 'mlp' does nothing without pool_tokens")
        self.pool_tokens = pool_tokens
        self.pool = F.adaptive_max_pool1d if pool_type == "max" else F.adaptive_avg_pool1d
        self.mlp = TokenMLP(input_dim, hidden_dim, latent_dim, depth=depth, use_ln=use_ln)

    @property
    def is_grid(self) -> bool:
        """Whether no tokens are pooled: in reading order, they run across the ends of rows."""
        return self.pool_tokens is None

    def output_grid(self, grid_hw: GridHW) -> GridHW | None:
        """Return `grid_hw`, or None where tokens are pooled."""
        return grid_hw if self.is_grid else None

    def num_tokens(self, grid_hw: GridHW) -> int:
        """Return height x width, or `pool_tokens`.

        Raises:
            ConfigError: There are fewer vision tokens than `pool_tokens`.
        """
        count = grid_hw[0] * grid_hw[1]
        if self.pool_tokens is None:
            return count
        if self.pool_tokens > count:
            raise ConfigError(
                f"resampler.pool_tokens of 'mlp' is {self.pool_tokens}, but a view has {grid_hw[0]}x{grid_hw[1]} = "
                f"{count} tokens"
            )
        return self.pool_tokens

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, S', latent_dim]."""
        latents: Tensor = self.mlp(tokens)
        if self.pool_tokens is None:
            return latents
        return self.pool(latents.transpose(1, 2), self.num_tokens(grid_hw)).transpose(1, 2)
