"""VisionBackbone: patch tokens of views from SigLIP, CLIP and DINOv2 towers.

Shapes: N views of a batch, S patch tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from cora.errors import CheckpointError, ConfigError

__all__ = ["VISION_FAMILIES", "VisionBackbone", "view_defaults", "vision_tower_config"]


@dataclass(frozen=True)
class VisionFamily:
    """What differs between towers.

    Attributes:
        has_class_token: Whether a CLS token (and ``num_register_tokens`` registers) precedes the patches.
        blocks: Attribute path of the list of transformer blocks.
        unused: Submodules that only serve a pooled output.
        takes_interpolation: Whether ``interpolate_pos_encoding`` must be asked for.
        overrides: Configuration values that leave out parameters no patch token needs.
        mean: Channel means the family is trained with, of values in 0 .. 1.
        std: Channel standard deviations.
    """

    has_class_token: bool
    blocks: str
    unused: tuple[str, ...] = ()
    takes_interpolation: bool = True
    overrides: tuple[tuple[str, Any], ...] = ()
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

VISION_FAMILIES: dict[str, VisionFamily] = {
    "siglip_vision_model": VisionFamily(False, "encoder.layers", overrides=(("vision_use_head", False),)),
    "clip_vision_model": VisionFamily(
        True,
        "encoder.layers",
        unused=("post_layernorm",),
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "dinov2": VisionFamily(
        True,
        "encoder.layer",
        takes_interpolation=False,
        overrides=(("use_mask_token", False),),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "dinov2_with_registers": VisionFamily(
        True,
        "encoder.layer",
        unused=("embeddings.mask_token",),
        takes_interpolation=False,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
}


def vision_tower_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the vision tower in `config`, which may be of a two-tower model.

    Raises:
        ConfigError: The family is not supported.
    """
    tower = getattr(config, "vision_config", config)
    family = VISION_FAMILIES.get(tower.model_type)
    if family is None:
        raise ConfigError(
            f"vision tower of type '{tower.model_type}' is not supported; "
            f"supported: {', '.join(sorted(VISION_FAMILIES))}"
        )
    for name, value in family.overrides:
        setattr(tower, name, value)
    return tower


def view_defaults(config: PretrainedConfig) -> dict[str, Any]:
    """Return the ``image_size``, ``image_mean`` and ``image_std`` that a tower is trained with."""
    tower = vision_tower_config(config)
    family = VISION_FAMILIES[tower.model_type]
    size = tower.image_size
    return {
        "image_size": [size, size] if isinstance(size, int) else list(size),
        "image_mean": list(family.mean),
        "image_std": list(family.std),
    }


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep transformers from listing the weights of text tower and pooling head, which are left out on purpose."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


class VisionBackbone(nn.Module):
    """A vision tower that returns patch tokens only.

    CLS and register tokens are stripped, position embeddings are interpolated to the size of the views, and heads
    that only serve a pooled output do not exist.

    Args:
        config: Configuration of the tower (or of a two-tower model that contains it).
        model: The tower itself; built with random weights when None.
    """

    def __init__(self, config: PretrainedConfig, model: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.config = vision_tower_config(config)
        self.family = VISION_FAMILIES[self.config.model_type]
        self.model: PreTrainedModel = AutoModel.from_config(self.config) if model is None else model
        self._drop_unused(self.model)

    def _drop_unused(self, model: nn.Module) -> None:
        for path in self.family.unused:
            owner, _, name = path.rpartition(".")
            module = model.get_submodule(owner)
            setattr(module, name, None if isinstance(getattr(module, name), nn.Parameter) else nn.Identity())

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        dtype: torch.dtype = torch.float32,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> VisionBackbone:
        """Return the tower of a hub id or local directory with its weights.

        Raises:
            ConfigError: The family is not supported.
            CheckpointError: Weights of the tower are missing from the checkpoint.
        """
        config = vision_tower_config(AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code))
        tower_class = AutoModel._model_mapping[type(config)]
        with _quiet_loading():
            model, report = tower_class.from_pretrained(
                name, config=config, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
            )
        backbone = cls(config, model)
        backbone._check_complete(name, report["missing_keys"])
        return backbone

    def _check_complete(self, name: str, missing: Iterable[str]) -> None:
        """Raise CheckpointError when weights are missing, other than those that serve nothing here."""
        needed = sorted(key for key in missing if not key.startswith(self.family.unused))
        if needed:
            raise CheckpointError(f"{name}: {len(needed)} weights of the vision tower are missing, first: {needed[0]}")

    def load_checkpoint_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights named as in a checkpoint, which for some towers differs from the names of the modules.

        Raises:
            CheckpointError: Weights are missing.
        """
        with _quiet_loading():
            loaded, report = type(self.model).from_pretrained(
                None, config=self.config, state_dict=dict(weights), output_loading_info=True
            )
        self._check_complete("the checkpoint", report["missing_keys"])
        self._drop_unused(loaded)
        self.model.load_state_dict(loaded.state_dict())

    @property
    def hidden_size(self) -> int:
        """Width D of the patch tokens."""
        size: int = self.config.hidden_size
        return size

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        blocks = self.model.get_submodule(self.family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: CLS and registers."""
        if not self.family.has_class_token:
            return 0
        return 1 + int(getattr(self.config, "num_register_tokens", 0))

    def set_trainable_blocks(self, num_blocks: int | Literal["all"]) -> None:
        """Freeze the tower except its last `num_blocks` blocks and what follows them; ``all`` trains everything.

        Raises:
            ConfigError: There are not that many blocks.
        """
        if num_blocks == "all":
            self.model.requires_grad_(True)
            return
        if not 0 <= num_blocks <= len(self.blocks):
            raise ConfigError(
                f"cannot train the last {num_blocks} vision blocks: the tower has {len(self.blocks)}; "
                "give 0 to that number, or 'all'"
            )
        self.model.requires_grad_(False)
        if num_blocks == 0:
            return
        for block in self.blocks[-num_blocks:]:
            block.requires_grad_(True)
        for name in ("post_layernorm", "layernorm"):
            if (norm := getattr(self.model, name, None)) is not None:
                norm.requires_grad_(True)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return patch tokens float[N, S, D], row-major, for views float[N, 3, height, width]."""
        options = {"interpolate_pos_encoding": True} if self.family.takes_interpolation else {}
        tokens: Tensor = self.model(pixel_values=pixel_values, **options).last_hidden_state
        return tokens[:, self.num_prefix_tokens :]
