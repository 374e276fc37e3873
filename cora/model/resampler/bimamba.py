"""The resampler that scans the tokens of a view in both directions.

Shapes: N views, S tokens, D hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn

from cora.model.resampler.base import Count, Factor, GridHW, GridResampler, Probability
from cora.model.resampler.mamba import MambaBlock

__all__ = ["BiMambaLayer", "BiMambaResampler"]


class BiMambaLayer(nn.Module):
    """A residual layer: the mean of one Mamba block forwards and another one backwards over the sequence.

    Args:
        dim: Width D.
        d_state: States per channel of each block.
        d_conv: Convolution length of each block.
        expand: Inner width of each block as a multiple of `dim`.
        norm_first: Whether the LayerNorm stands before the blocks (pre-norm) or after the residual sum.
        dropout: Dropout on the mean, in [0, 1).
    """

    def __init__(
        self, dim: int, *, d_state: int, d_conv: int, expand: float, norm_first: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.forward_block = MambaBlock(dim, d_state=d_state, d_conv=d_conv, expand=expand)
        self.backward_block = MambaBlock(dim, d_state=d_state, d_conv=d_conv, expand=expand)
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def _both_directions(self, hidden: Tensor) -> Tensor:
        # One after the other: what joins both in one product or one scan copies weights or sequences, and on a CPU that
        # takes longer than it saves.
        mean = (self.forward_block(hidden) + self.backward_block(hidden, reverse=True)) / 2
        mixed: Tensor = self.dropout(mean)
        return mixed

    def forward(self, hidden: Tensor) -> Tensor:
        """Return float[N, S, D]."""
        if self.norm_first:
            return hidden + self._both_directions(self.norm(hidden))
        normed: Tensor = self.norm(hidden + self._both_directions(hidden))
        return normed


class BiMambaResampler(GridResampler):
    """Linear to `hidden_dim`, `num_layers` bidirectional Mamba layers, LayerNorm, linear to `latent_dim`.

    Parameters are named and shaped as in the research code, whose weights load as they are.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        hidden_dim: Width of the layers.
        num_layers: Number of bidirectional layers.
        d_state: States per channel.
        d_conv: Convolution length.
        expand: Inner width of a block as a multiple of `hidden_dim`.
        norm_first: Pre-norm (True) or post-norm layers.
        dropout: Dropout of each layer, in [0, 1).
    """

    older_options = {"depth": "num_layers"}  # noqa: RUF012  # declared ClassVar in the base

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        hidden_dim: Count = 1024,
        num_layers: Count = 4,
        d_state: Count = 64,
        d_conv: Count = 4,
        expand: Factor = 2.0,
        norm_first: bool = True,
        dropout: Probability = 0.05,
    ) -> None:
        super().__init__(input_dim, latent_dim)
        self.input_proj = nn.Linear(input_dim, hidden_dim)
        self.blocks = nn.ModuleList(
            BiMambaLayer(
                hidden_dim, d_state=d_state, d_conv=d_conv, expand=expand, norm_first=norm_first, dropout=dropout
            )
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, latent_dim)

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, S, latent_dim]."""
        hidden = self.input_proj(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        latents: Tensor = self.output_proj(self.final_norm(hidden))
        return latents
