"""From latent tokens to language-model embeddings, and the projection head of the self-supervised losses.

Shapes: B batch, V views, S' latent tokens per view, T vision tokens, D widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.model.layout import TokenLayout
from cora.model.positional import PanoramaPositionalEncoding

__all__ = ["PanoramaProjector", "VICRegProjector"]


class PanoramaProjector(nn.Module):
    """Picks the tokens of a layout, adds the encoding of where they look, and maps them to the language model's width.

    Args:
        layout: Which latent tokens are kept, in which order.
        latent_dim: Width of the latent tokens.
        output_dim: Width of the language model's embeddings.
        positional_encoding: Whether directions are added.
    """

    def __init__(
        self, layout: TokenLayout, *, latent_dim: int, output_dim: int, positional_encoding: bool = True
    ) -> None:
        super().__init__()
        self.layout = layout
        self.encoding = PanoramaPositionalEncoding(latent_dim) if positional_encoding else None
        self.linear = nn.Linear(latent_dim, output_dim)
        # Constants are computed at first use, not in the constructor: that one may run under a "meta" device.
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor | None]] = {}

    def set_layout(self, layout: TokenLayout) -> None:
        """Pick other tokens from now on."""
        self.layout = layout
        self._constants.clear()

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.layout.num_tokens

    def _constants_on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return the gather indices int64[T] and the encodings float[T, D] (or None)."""
        key = (device, dtype)
        if key not in self._constants:
            # Under inference mode the cached tensors would be unusable in a later training step.
            with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
                gather = torch.tensor(self.layout.gather)
                encodings = None
                if self.encoding is not None:
                    lon, lat, valid = self.layout.directions()
                    encodings = (self.encoding(lon, lat) * valid[:, None]).to(device, dtype)
                self._constants[key] = (gather.to(device), encodings)
        return self._constants[key]

    def forward(self, latents: Tensor) -> Tensor:
        """Return embeddings float[B, T, output_dim] for latent tokens float[B, V, S', latent_dim]."""
        expected = (len(self.layout.views), self.layout.tokens_per_view)
        if tuple(latents.shape[1:3]) != expected:
            raise ValueError(
                f"latents must be float[B, {expected[0]}, {expected[1]}, D] for this layout, got {tuple(latents.shape)}"
            )
        gather, encodings = self._constants_on(latents.device, latents.dtype)
        tokens = latents.flatten(1, 2)[:, gather]
        if encodings is not None:
            tokens = tokens + encodings
        embeddings: Tensor = self.linear(tokens)
        return embeddings


class VICRegProjector(nn.Module):
    """Projection head of the self-supervised losses: `depth` linear layers with (LayerNorm,) GELU and dropout between.

    Args:
        input_dim: Width of the latent tokens.
        output_dim: Width of hidden layers and result; `input_dim` when None.
        depth: Number of linear layers, at least 1.
        use_ln: Whether a LayerNorm stands before each GELU.
        dropout: In [0, 1).
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int | None = None,
        *,
        depth: int = 2,
        use_ln: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigError(f"the depth of a VICReg projector must be at least 1, got {depth}")
        width = input_dim if output_dim is None else output_dim
        layers: list[nn.Module] = []
        previous = input_dim
        for _ in range(depth - 1):
            layers.append(nn.Linear(previous, width))
            if use_ln:
                layers.append(nn.LayerNorm(width))
            layers += [nn.GELU(), nn.Dropout(dropout)]
            previous = width
        layers.append(nn.Linear(previous, width))
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float[..., output_dim] for tokens float[..., input_dim]."""
        projected: Tensor = self.layers(tokens)
        return projected
