"""PanoramaVLMConfig: everything needed to build the model and to know how many vision tokens a panorama takes."""

from __future__ import annotations

import json
import logging
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from cora._auto_classes import register_loaded_classes
from cora.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from cora.model.layout import TokenLayout

__all__ = ["PanoramaVLMConfig"]

logger = logging.getLogger(__name__)

PROJECTOR_DEFAULTS: dict[str, Any] = {"stitching": "stride_views", "positional_encoding": True}


def _nested(value: dict[str, Any] | PretrainedConfig | None, role: str) -> PretrainedConfig | None:
    if not isinstance(value, dict):
        return value
    if "model_type" not in value:
        raise ConfigError(f"{role} of a cora checkpoint has no model_type")
    options = {name: option for name, option in value.items() if name != "model_type"}
    return CONFIG_MAPPING[value["model_type"]](**options)


class PanoramaVLMConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is untyped here
    """Configuration of a PanoramaVLM.

    Attributes:
        vision_config: The vision tower.
        text_config: The language model; its ``architectures`` names the causal LM class.
        image_processing: `PanoramaImageProcessor.to_dict()`.
        resampler: ``{"type": name, **options}``.
        latent_dim: Width between resampler and projector.
        projector: ``{"stitching": "stride_views" | "concat", "positional_encoding": bool}``.
        image_token_id: Id of the placeholder token.
        tie_word_embeddings: Whether the language model shares input and output embeddings.
    """

    model_type = "cora"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: Any = None
    text_config: Any = None
    image_processing: dict[str, Any] = field(default_factory=dict)
    resampler: dict[str, Any] = field(default_factory=lambda: {"type": "bimamba"})
    latent_dim: int = 768
    projector: dict[str, Any] = field(default_factory=dict)
    image_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in defaults and refuse unknown projector options."""
        self.vision_config = _nested(self.vision_config, "vision_config")
        self.text_config = _nested(self.text_config, "text_config")
        for name in self.projector:
            if name not in PROJECTOR_DEFAULTS:
                raise ConfigError(
                    f"projector has no option '{name}'{did_you_mean(name, PROJECTOR_DEFAULTS)}; "
                    f"known: {', '.join(PROJECTOR_DEFAULTS)}"
                )
        self.projector = {**PROJECTOR_DEFAULTS, **self.projector}
        if self.text_config is not None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
            # Setting it for the whole sets it for the parts: without a value, an existing language model would lose its
            # own, and with it the causal mask.
            kwargs.setdefault("attn_implementation", self.text_config._attn_implementation)
        super().__post_init__(**kwargs)

    @property
    def token_layout(self) -> TokenLayout:
        """Which vision tokens there are, in which order, and where they look."""
        tower = self.vision_config
        if tower is None:
            raise ConfigError("this configuration has no vision_config")
        return _token_layout(
            json.dumps(self.image_processing, sort_keys=True),
            json.dumps(self.resampler, sort_keys=True),
            json.dumps(tower.patch_size),
            tower.hidden_size,
            self.latent_dim,
            self.projector["stitching"],
        )

    @property
    def vision_grid_hw(self) -> tuple[int, int]:
        """The vision tokens of a view, (height, width), before the resampler."""
        if self.vision_config is None:
            raise ConfigError("this configuration has no vision_config")
        return _vision_grid(
            json.dumps(self.image_processing, sort_keys=True), json.dumps(self.vision_config.patch_size)
        )

    @property
    def num_vision_tokens(self) -> int:
        """T: how many vision tokens the language model sees per panorama."""
        return self.token_layout.num_tokens


def _patch_hw(patch_size: str) -> tuple[int, int]:
    patch = json.loads(patch_size)
    return (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])


@lru_cache(maxsize=32)
def _vision_grid(image_processing: str, patch_size: str) -> tuple[int, int]:
    """Return the grid of whole patches in a view; arguments are JSON so that they can be cached."""
    from cora.processors.images import PanoramaImageProcessor

    height, width = PanoramaImageProcessor.from_dict(json.loads(image_processing)).image_size
    patch_hw = _patch_hw(patch_size)
    grid_hw = (height // patch_hw[0], width // patch_hw[1])
    if min(grid_hw) < 1:
        raise ConfigError(f"image_size {height}x{width} is smaller than a patch of {patch_hw[0]}x{patch_hw[1]} pixels")
    covered = (grid_hw[0] * patch_hw[0], grid_hw[1] * patch_hw[1])
    if covered != (height, width):
        logger.warning(
            "image_size %dx%d is no multiple of the patch; only %dx%d of it is seen", height, width, *covered
        )
    return grid_hw


@lru_cache(maxsize=32)
def _token_layout(
    image_processing: str, resampler: str, patch_size: str, vision_dim: int, latent_dim: int, stitching: str
) -> TokenLayout:
    """Return the layout; arguments are JSON so that they can be cached."""
    import torch

    from cora.model.layout import build_token_layout
    from cora.model.resampler.module import ResamplerModule
    from cora.processors.images import PanoramaImageProcessor

    processor = PanoramaImageProcessor.from_dict(json.loads(image_processing))
    grid_hw = _vision_grid(image_processing, patch_size)
    patch_hw = _patch_hw(patch_size)
    # Asking the module itself keeps a new resampler to one file; on "meta" it costs no memory.
    with torch.device("meta"):
        module = ResamplerModule(json.loads(resampler), input_dim=vision_dim, latent_dim=latent_dim)
    with torch.device("cpu"):
        return build_token_layout(
            processor.views,
            grid_hw=module.output_grid(grid_hw),
            tokens_per_view=module.num_tokens(grid_hw),
            view_size=(grid_hw[0] * patch_hw[0], grid_hw[1] * patch_hw[1]),
            stitching=stitching,
            resampler_type=module.kind,
        )


register_loaded_classes()
