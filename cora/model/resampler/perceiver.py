"""The resampler that reads a view into a fixed number of learned latents.

Shapes: N views, S vision tokens, Q latents, D vision width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cora.model.resampler.base import Count, GridHW, LatentResampler

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


class PerceiverLayer(nn.Module):
    """Attention, then a feed-forward network, each with a residual sum."""

    def __init__(self, dim: int, *, num_heads: int, head_dim: int, ff_mult: int) -> None:
        super().__init__()
        self.attention = PerceiverAttention(dim, num_heads, head_dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, ff_mult * dim, bias=False),
            nn.GELU(),
            nn.Linear(ff_mult * dim, dim, bias=False),
        )

    def forward(self, media: Tensor, latents: Tensor) -> Tensor:
        """Return float[N, Q, D] for media float[N, S, D] and latents float[N, Q, D]."""
        latents = latents + self.attention(media, latents)
        result: Tensor = latents + self.feed_forward(latents)
        return result


class PerceiverResampler(LatentResampler):
    """`depth` rounds of attention and feed-forward on `num_latents` learned latents, at the vision width.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        num_latents: Tokens out, whatever goes in.
        heads: Attention heads.
        dim_head: Width of a head.
        depth: Rounds.
        ff_mult: Inner width of the feed-forward networks as a multiple of the vision width.

    Reference: Alayrac et al. 2022, "Flamingo", section 3.1 and appendix A.1.1.
    """

    older_options = {"num_heads": "heads", "head_dim": "dim_head"}  # noqa: RUF012  # declared ClassVar in the base

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        num_latents: Count = 64,
        heads: Count = 8,
        dim_head: Count = 64,
        depth: Count = 6,
        ff_mult: Count = 4,
    ) -> None:
        super().__init__(input_dim, latent_dim)
        self.latents = nn.Parameter(torch.randn(num_latents, input_dim))
        self.layers = nn.ModuleList(
            PerceiverLayer(input_dim, num_heads=heads, head_dim=dim_head, ff_mult=ff_mult) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(input_dim)
        self.proj = nn.Identity() if input_dim == latent_dim else nn.Linear(input_dim, latent_dim)

    def num_tokens(self, grid_hw: GridHW) -> int:
        """Return the number of latents."""
        return self.latents.shape[0]

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, num_latents, latent_dim]."""
        latents = self.latents.to(tokens.dtype).expand(len(tokens), -1, -1)
        for layer in self.layers:
            latents = layer(tokens, latents)
        result: Tensor = self.proj(self.norm(latents))
        return result
