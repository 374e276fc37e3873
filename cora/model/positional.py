"""Positional encoding of vision tokens by the direction they look in.

Owns the harmonics; where a token looks is the business of `cora.model.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.errors import ConfigError

__all__ = ["PanoramaPositionalEncoding"]


class PanoramaPositionalEncoding(nn.Module):
    """Maps directions on the sphere to vectors; it has no parameters.

    For each frequency k = 1, 2, 4, ... there are four components: cos(lat) sin(k lon), cos(lat) cos(k lon), sin(k lat)
    and cos(k lat); those of k = 1 contain the unit vector of the direction. They are repeated until the width is
    full. Since k is an integer the encoding closes at longitude 180 degrees, since the longitude terms fade with
    cos(lat) it is continuous at the poles, and since only the direction enters, tokens of different views that look the
    same way get the same vector.

    Args:
        dim: Width of the vectors.
        num_frequencies: How many powers of two are used; the highest is 2 ** (num_frequencies - 1). The default's 32
            periods around the horizon resolve tokens down to 6 degrees.

    Convention: the first three components at longitude 90 degrees, latitude 0 are (1, 0, 0).
    """

    def __init__(self, dim: int, *, num_frequencies: int = 6) -> None:
        super().__init__()
        if dim < 3:
            raise ConfigError(f"latent_dim must be at least 3 to hold a direction, got {dim}")
        if num_frequencies < 1:
            raise ConfigError(f"num_frequencies must be at least 1, got {num_frequencies}")
        self.dim = dim
        self.num_frequencies = num_frequencies

    def forward(self, lon: Tensor, lat: Tensor) -> Tensor:
        """Return float64[..., dim] for longitudes and latitudes in radians, float[...]."""
        lon, lat = lon.double()[..., None], lat.double()[..., None]
        k = 2.0 ** torch.arange(self.num_frequencies, dtype=torch.float64, device=lon.device)
        fade = lat.cos()
        harmonics = [fade * (k * lon).sin(), fade * (k * lon).cos(), (k * lat).sin(), (k * lat).cos()]
        components = torch.stack(harmonics, dim=-1).flatten(-2)
        repeats = -(-self.dim // components.shape[-1])
        return components.repeat(*[1] * (components.ndim - 1), repeats)[..., : self.dim]
