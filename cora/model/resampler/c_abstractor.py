"""The resampler that looks at the neighbourhood of a token: convolutions over the grid of a view.

Shapes: N views, S tokens, [H, W] their grid, [H', W'] the latent grid, C hidden width, E inner width (expand x C).
Grids are float[N, H, W, C] here, the order tokens come in: nothing is turned around.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.model.resampler.base import Count, GridHW, GridResampler, Probability
from cora.ops.depthwise_norm import depthwise_norm

__all__ = ["CAbstractorResampler", "SpatialBlock", "SqueezeExcitation", "nearest_grid"]

NORM_EPSILON = 1e-6
# Pooled cells may be this much wider than tall, or taller than wide.
MAX_STRETCH = 2.0


class SqueezeExcitation(nn.Module):
    """Weighs the channels of a grid by what the whole of it shows: mean, two linear layers, sigmoid.

    Args:
        dim: Channels.
        reduction: How many times narrower than `dim` the layer between is.
    """

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        inner_dim = max(dim // reduction, 1)
        self.squeeze = nn.Linear(dim, inner_dim)
        self.excite = nn.Linear(inner_dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """Return float[N, H, W, E] for float[N, H, W, E]."""
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(grid.mean(dim=(1, 2))))))
        return grid * weights[:, None, None]


class SpatialBlock(nn.Module):
    """A residual block: depthwise convolution, LayerNorm, linear, SiLU, squeeze and excitation, linear.

    Args:
        dim: Channels C.
        kernel_size: Side of the depthwise convolution, odd; beyond the border of the view there are zeros.
        expand: E as a multiple of `dim`.
        se_reduction: How many times narrower the squeeze is than E.
        drop_path: Probability that the block is left out for a view in training.
    """

    def __init__(self, dim: int, *, kernel_size: int, expand: int, se_reduction: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.expand = nn.Linear(dim, expand * dim)
        self.se = SqueezeExcitation(expand * dim, se_reduction)
        self.contract = nn.Linear(expand * dim, dim)
        self.drop_path = drop_path

    def forward(self, grid: Tensor) -> Tensor:
        """Return float[N, H, W, C] for float[N, H, W, C]."""
        # Of the two modules only the parameters are used: together they are one operation.
        conv, norm = self.dwconv, self.norm
        local = depthwise_norm(grid, conv.weight[:, 0], conv.bias, norm.weight, norm.bias, eps=norm.eps)
        change = self.contract(self.se(F.silu(self.expand(local))))
        if self.training and self.drop_path > 0:
            kept = torch.rand(len(grid), 1, 1, 1, device=grid.device) >= self.drop_path
            change = change * kept / (1 - self.drop_path)
        result: Tensor = grid + change
        return result


class CAbstractorResampler(GridResampler):
    """Linear, `depth` spatial blocks, pooling on demand, `depth` spatial blocks, LayerNorm, perceptron.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        hidden_dim: Channels of the blocks.
        depth: Blocks before the pooling, and as many after it.
        num_queries: Tokens of a view after pooling; 0 keeps the grid.
        kernel_size: Side of the depthwise convolutions, odd.
        expand: Inner width of a block as a multiple of `hidden_dim`.
        se_reduction: How many times narrower the squeeze is than the inner width.
        mlp_depth: Linear layers of the perceptron, SiLU between them.
        drop_path: Probability that the last block is left out for a view in training; rises linearly from 0 at the
            first block.

    Reference: Cha et al. 2024, "Honeybee: Locality-enhanced Projector for Multimodal LLM", section 3.2.
    """

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        hidden_dim: Count = 1024,
        depth: Count = 3,
        num_queries: Annotated[int, Field(ge=0)] = 0,
        kernel_size: Count = 7,
        expand: Count = 4,
        se_reduction: Count = 4,
        mlp_depth: Count = 2,
        drop_path: Probability = 0.0,
    ) -> None:
        super().__init__(input_dim, latent_dim)
        if kernel_size % 2 == 0:
            raise ConfigError(f"resampler.kernel_size of 'c_abstractor' must be odd, got {kernel_size}")
        self.num_queries = num_queries
        self.input_proj = nn.Linear(input_dim, hidden_dim)
        blocks = [
            SpatialBlock(
                hidden_dim,
                kernel_size=kernel_size,
                expand=expand,
                se_reduction=se_reduction,
                drop_path=drop_path * index / (2 * depth - 1),
            )
            for index in range(2 * depth)
        ]
        self.stage1 = nn.Sequential(*blocks[:depth])
        self.stage2 = nn.Sequential(*blocks[depth:])
        self.final_norm = nn.LayerNorm(hidden_dim)
        readout: list[nn.Module] = [nn.Linear(hidden_dim, latent_dim)]
        for _ in range(mlp_depth - 1):
            readout += [nn.SiLU(), nn.Linear(latent_dim, latent_dim)]
        self.readout = nn.Sequential(*readout)

    def output_grid(self, grid_hw: GridHW) -> GridHW:
        """Return `grid_hw`, or the grid of `num_queries` tokens.

        Raises:
            ConfigError: `num_queries` tokens are no grid that fits the view.
        """
        return nearest_grid(self.num_queries, grid_hw) if self.num_queries else grid_hw

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, H' x W', latent_dim]."""
        grid = self.stage1(self.input_proj(tokens).unflatten(1, grid_hw))
        if self.num_queries:
            pooled = F.adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), self.output_grid(grid_hw))
            grid = pooled.permute(0, 2, 3, 1)
        latents: Tensor = self.readout(self.final_norm(self.stage2(grid).flatten(1, 2)))
        return latents


def nearest_grid(num_tokens: int, grid_hw: GridHW) -> GridHW:
    """Return the (height, width) of a grid of `num_tokens` cells, the most square ones, over a grid of tokens.

    Convention: 32 tokens of a grid of 8 x 16 are 4 x 8.

    Raises:
        ConfigError: There is none whose cells hold a token each and are at most twice as long as wide.
    """
    height, width = grid_hw

    def stretch(rows: int) -> float:
        return abs(math.log((height / rows) / (width / (num_tokens // rows))))

    fitting = [
        rows
        for rows in range(1, min(height, num_tokens) + 1)
        if num_tokens % rows == 0 and num_tokens // rows <= width and stretch(rows) <= math.log(MAX_STRETCH) + 1e-9
    ]
    if not fitting:
        raise ConfigError(
            f"resampler.num_queries of 'c_abstractor' is {num_tokens}, which is no grid over views of {height}x{width} "
            "tokens with cells about as wide as tall; use 0, or a height times a width that fits"
        )
    rows = min(fitting, key=stretch)
    return rows, num_tokens // rows
