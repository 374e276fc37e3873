"""ResamplerModule: the resampler a configuration names, built and checked.

Shapes: N views, S vision tokens, S' latent tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from cora.errors import ConfigError, did_you_mean
from cora.model.resampler.base import GridHW, Resampler
from cora.registry import Registry

__all__ = ["RESAMPLERS", "ResamplerModule", "checked_options"]

RESAMPLERS: Registry[type[Resampler]] = Registry("resampler")
RESAMPLERS.add("identity", "cora.model.resampler.identity:IdentityResampler")
RESAMPLERS.add("mlp", "cora.model.resampler.mlp:MLPResampler")
RESAMPLERS.add("bimamba", "cora.model.resampler.bimamba:BiMambaResampler")
RESAMPLERS.add("perceiver", "cora.model.resampler.perceiver:PerceiverResampler")
RESAMPLERS.add("qformer", "cora.model.resampler.qformer:QFormerResampler")
RESAMPLERS.add("spatial_pool", "cora.model.resampler.spatial_pool:SpatialPoolResampler")
RESAMPLERS.add("masked_drop", "cora.model.resampler.masked_drop:MaskedDropResampler")
RESAMPLERS.add("c_abstractor", "cora.model.resampler.c_abstractor:CAbstractorResampler")


def option_names(resampler_class: type[Resampler]) -> list[str]:
    """Return the configuration keys a resampler class takes: its keyword-only arguments."""
    parameters = inspect.signature(resampler_class.__init__).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


def checked_options(options: Mapping[str, Any]) -> tuple[str, type[Resampler], dict[str, Any]]:
    """Return kind, class and keyword arguments of ``{"type": name, **options}``, older names of options replaced.

    Raises:
        RegistryError: The type is unknown.
        ConfigError: The type is missing, or an option is unknown, given twice, or has a value it cannot have.
    """
    settings = dict(options)
    if "type" not in settings:
        raise ConfigError(f"resampler.type is missing; choose one of {', '.join(RESAMPLERS.names())}")
    kind: str = settings.pop("type")
    resampler_class = RESAMPLERS.get(kind)
    known = option_names(resampler_class)
    hints = get_type_hints(resampler_class.__init__, include_extras=True)
    arguments: dict[str, Any] = {}
    for given, value in settings.items():
        name = resampler_class.older_options.get(given, given)
        if name not in known:
            raise ConfigError(
                f"resampler '{kind}' has no option '{given}'{did_you_mean(given, known)}; "
                f"known: {', '.join(known) or 'none'}"
            )
        if name in arguments:
            raise ConfigError(f"resampler.{name} of '{kind}' is given twice, once as '{given}'")
        try:
            arguments[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(f"resampler.{given} of '{kind}': {reason} (got {value!r})") from error
    return kind, resampler_class, arguments


class ResamplerModule(nn.Module):
    """The resampler of a model.

    Args:
        options: ``{"type": name, **options}`` as in the configuration.
        input_dim: Width of the vision tokens.
        latent_dim: Width of the latent tokens.

    Raises:
        ConfigError: The type or an option is unknown, or a value wrong; the message names the nearest known one.
    """

    def __init__(self, options: Mapping[str, Any], *, input_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.kind, resampler_class, arguments = checked_options(options)
        self.resampler = resampler_class(input_dim, latent_dim, **arguments)

    @property
    def is_grid(self) -> bool:
        """Whether the latent tokens are a grid with places in the view."""
        return self.resampler.is_grid

    def output_grid(self, grid_hw: GridHW) -> GridHW | None:
        """Return the (height, width) of the latent grid, or None."""
        return self.resampler.output_grid(grid_hw)

    def num_tokens(self, grid_hw: GridHW) -> int:
        """Return the latent tokens per view."""
        return self.resampler.num_tokens(grid_hw)

    def draw_kept(self, num_panoramas: int, num_tokens: int) -> Tensor | None:
        """Return which vision tokens the language model is shown in this training step; None is all of them."""
        return self.resampler.draw_kept(num_panoramas, num_tokens)

    def forward(self, tokens: Tensor, grid_hw: GridHW) -> Tensor:
        """Return latent tokens float[N, S', latent_dim] for vision tokens float[N, S, input_dim] of a grid.

        Raises:
            ValueError: S is not height x width.
        """
        if tokens.ndim != 3 or tokens.shape[1] != grid_hw[0] * grid_hw[1]:
            raise ValueError(f"tokens must be float[N, {grid_hw[0]} * {grid_hw[1]}, D], got {tuple(tokens.shape)}")
        latents: Tensor = self.resampler(tokens, grid_hw)
        return latents
