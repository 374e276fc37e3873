"""The resampler that reads a view into a fixed number of learned latents.

Shapes: N views, S vision tokens, Q latents, D vision width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.model.resampler.base import GridHW, Resampler

__all__ = ["PerceiverResampler"]


class PerceiverAttention(nn.Module):
    """Latents attend to the vision tokens and to themselves."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner_dim = num_heads * head_dim
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner_dim, bias=False)
        self.to_out = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, media: Tensor, latents: Tensor) -> Tensor:
        """Return float[N, Q, D] for media float[N, S, D] and latents float[N, Q, D]."""
        media, latents = self.norm_media(media), self.norm_latents(latents)
        keys, values = self.to_kv(torch.cat([media, latents], dim=1)).chunk(2, dim=-1)
        heads = [
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.to_q(latents), keys, values)
        ]
        attended = F.scaled_dot_product_attention(*heads)
        output: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return output


class PerceiverResampler(Resampler):
    """`depth` rounds of attention and feed-forward on `num_latents` learned latents, at the vision width.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        num_latents: Tokens out, whatever goes in.
        num_heads: Attention heads.
        head_dim: Width of a head.
        depth: Rounds.

    Reference: Alayrac et al. 2022, "Flamingo", section 3.1 and appendix A.1.1.
    """

    is_grid = False

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        num_latents: int = 64,
        num_heads: int = 8,
        head_dim: int = 64,
        depth: int = 6,
    ) -> None:
        super().__init__(input_dim, latent_dim)
        if num_latents < 1 or depth < 1:
            raise ConfigError(
                "resampler.num_latents and resampler.depth of 'perceiver' must be at least 1, "
                f"got {num_latents} and {depth}"
            )
        self.latents = nn.Parameter(torch.randn(num_latents, input_dim))
        self.attention = nn.ModuleList(PerceiverAttention(input_dim, num_heads, head_dim) for _ in range(depth))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(input_dim),
                nn.Linear(input_dim, 4 * input_dim, bias=False),
                nn.GELU(),
                nn.Linear(4 * input_dim, input_dim, bias=False),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(input_dim)
        self.output = nn.Identity() if input_dim == latent_dim else nn.Linear(input_dim, latent_dim)

    def output_grid(self, grid_hw: GridHW) -> GridHW | None:
        """Return None: latents have no place in the view."""
        return None

    def output_tokens(self, grid_hw: GridHW) -> int:
        """Return the number of latents."""
        return self.latents.shape[0]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float[N, num_latents, latent_dim]."""
        latents = self.latents.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            latents = latents + attention(tokens, latents)
            latents = latents + feed_forward(latents)
        result: Tensor = self.output(self.norm(latents))
        return result
