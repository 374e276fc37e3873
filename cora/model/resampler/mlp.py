"""The resampler that looks at one token at a time."""

from __future__ import annotations

from torch import Tensor, nn

from cora.errors import ConfigError
from cora.model.resampler.base import GridResampler

__all__ = ["MLPResampler"]


class MLPResampler(GridResampler):
    """`depth` linear layers with (LayerNorm and) GELU between them, applied to every token.

    Args:
        input_dim: Width of the vision tokens.
        latent_dim: Width of the result.
        hidden_dim: Width between the layers.
        depth: Number of linear layers, at least 1.
        use_ln: Whether a LayerNorm stands before each GELU.
    """

    def __init__(
        self, input_dim: int, latent_dim: int, *, hidden_dim: int = 1536, depth: int = 3, use_ln: bool = True
    ) -> None:
        super().__init__(input_dim, latent_dim)
        if depth < 1:
            raise ConfigError(f"resampler.depth of 'mlp' must be at least 1, got {depth}")
        layers: list[nn.Module] = []
        width = input_dim
        for _ in range(depth - 1):
            layers.append(nn.Linear(width, hidden_dim))
            if use_ln:
                layers.append(nn.LayerNorm(hidden_dim))
            layers.append(nn.GELU())
            width = hidden_dim
        layers.append(nn.Linear(width, latent_dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float[N, S, latent_dim]."""
        latents: Tensor = self.layers(tokens)
        return latents
