"""ResamplerModule: the resampler a configuration names, built and checked.

Shapes: N views, S vision tokens, S' latent tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cora.errors import ConfigError, did_you_mean
from cora.model.resampler.base import GridHW, Resampler
from cora.registry import Registry

__all__ = ["RESAMPLERS", "ResamplerModule"]

RESAMPLERS: Registry[type[Resampler]] = Registry("resampler")
RESAMPLERS.add("identity", "cora.model.resampler.identity:IdentityResampler")
RESAMPLERS.add("mlp", "cora.model.resampler.mlp:MLPResampler")
RESAMPLERS.add("bimamba", "cora.model.resampler.bimamba:BiMambaResampler")
RESAMPLERS.add("perceiver", "cora.model.resampler.perceiver:PerceiverResampler")


def option_names(resampler_class: type[Resampler]) -> list[str]:
    """Return the configuration keys a resampler class takes: its keyword-only arguments."""
    parameters = inspect.signature(resampler_class.__init__).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


class ResamplerModule(nn.Module):
    """The resampler of a model.

    Args:
        options: ``{"type": name, **options}`` as in the configuration.
        input_dim: Width of the vision tokens.
        latent_dim: Width of the latent tokens.

    Raises:
        ConfigError: The type or an option is unknown; the message names the nearest known one.
    """

    def __init__(self, options: Mapping[str, Any], *, input_dim: int, latent_dim: int) -> None:
        super().__init__()
        settings = dict(options)
        if "type" not in settings:
            raise ConfigError(f"resampler.type is missing; choose one of {', '.join(RESAMPLERS.names())}")
        self.kind: str = settings.pop("type")
        resampler_class = RESAMPLERS.get(self.kind)
        known = option_names(resampler_class)
        for name in settings:
            if name not in known:
                raise ConfigError(
                    f"resampler '{self.kind}' has no option '{name}'{did_you_mean(name, known)}; "
                    f"known: {', '.join(known) or 'none'}"
                )
        self.resampler = resampler_class(input_dim, latent_dim, **settings)

    @property
    def is_grid(self) -> bool:
        """Whether the latent tokens are a grid with places in the view."""
        return self.resampler.is_grid

    def output_grid(self, grid_hw: GridHW) -> GridHW | None:
        """Return the (height, width) of the latent grid, or None."""
        return self.resampler.output_grid(grid_hw)

    def output_tokens(self, grid_hw: GridHW) -> int:
        """Return the latent tokens per view."""
        return self.resampler.output_tokens(grid_hw)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return latent tokens float[N, S', latent_dim] for vision tokens float[N, S, input_dim]."""
        latents: Tensor = self.resampler(tokens)
        return latents
