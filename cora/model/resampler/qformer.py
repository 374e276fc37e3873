"""The resampler of learned queries in a transformer decoder, after the Q-Former of BLIP-2.

Shapes: N views, S vision tokens, Q queries, D vision width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.model.resampler.base import Count, GridHW, LatentResampler, Probability

__all__ = ["QFormerResampler"]

# As in BERT, from which the Q-Former descends.
NORM_EPSILON = 1e-12


class QFormerResampler(LatentResampler):
    """Learned queries that attend to each other and to the vision tokens, at the vision width; then a linear layer.

    The layers are torch's decoder layers with the norm after each residual sum, which is what a layer of the Q-Former
    is. Queries see each other in both directions.

    Args:
        input_dim: Width of the vision tokens, a multiple of `num_attention_heads`.
        latent_dim: Width of the result.
        num_query_tokens: Tokens out, whatever goes in.
        num_hidden_layers: Decoder layers.
        num_attention_heads: Heads of each attention.
        dropout: Of attention weights and before each residual sum.

    Reference: Li et al. 2023, "BLIP-2", section 3.1.
    """

    older_options = {"num_query": "num_query_tokens"}  # noqa: RUF012  # declared ClassVar in the base

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        num_query_tokens: Count = 64,
        num_hidden_layers: Count = 6,
        num_attention_heads: Count = 8,
        dropout: Probability = 0.1,
    ) -> None:
        super().__init__(input_dim, latent_dim)
        if input_dim % num_attention_heads:
            raise ConfigError(
                f"resampler.num_attention_heads of 'qformer' is {num_attention_heads}, which does not divide the "
                f"vision width {input_dim}"
            )
        self.query = nn.Parameter(torch.randn(1, num_query_tokens, input_dim))
        self.norm = nn.LayerNorm(input_dim, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                input_dim,
                num_attention_heads,
                dim_feedforward=4 * input_dim,
                dropout=dropout,
                activation="gelu",
                layer_norm_eps=NORM_EPSILON,
                batch_first=True,
            )
            for _ in range(num_hidden_layers)
        )
        self.proj = nn.Linear(input_dim, latent_dim)

    def num_tokens(self, grid_hw: GridHW) -> int:
        """Return the number of queries."""
        return self.query.shape[1]

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return float[N, num_query_tokens, latent_dim]."""
        queries = self.dropout(self.norm(self.query)).expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens)
        latents: Tensor = self.proj(queries)
        return latents
