"""The self-supervised losses that a stage asks for, together.

Shapes: B panoramas, V views, S' latent tokens per view, D widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cora.config.schema import StageConfig
from cora.errors import ConfigError
from cora.model.configuration import PanoramaVLMConfig
from cora.training.losses.contrastive import DenseCLLoss, PanoContrastiveLoss
from cora.training.losses.global_local import GlobalLocalLoss
from cora.training.losses.overlap import OverlapLoss
from cora.training.losses.vicreg import VICRegLoss

__all__ = ["OVERLAP_LOSSES", "ViewLosses"]

# By `vision_loss_type`: the class, and the key of the stage that each of its arguments comes from.
OVERLAP_LOSSES: dict[str, tuple[type[OverlapLoss], dict[str, str]]] = {
    "contrastive": (
        PanoContrastiveLoss,
        {
            "temperature": "contrastive_tau_overlap",
            "tile_temperature": "contrastive_tau_tile",
            "tile_weight": "contrastive_tile_weight",
        },
    ),
    "vicreg": (
        VICRegLoss,
        {
            "mode": "vicreg_mode",
            "similarity_weight": "vicreg_similarity_weight",
            "variance_weight": "vicreg_variance_weight",
            "covariance_weight": "vicreg_covariance_weight",
        },
    ),
    "densecl": (DenseCLLoss, {"temperature": "densecl_temperature"}),
}


class ViewLosses(nn.Module):
    """The loss on overlapping views and the one between the whole panorama and its parts, of latent tokens.

    Args:
        config: What the model is built of.
        stage: Which losses, and their settings.
        stage_name: For error messages.

    Attributes:
        weights: Weight by the name of the loss: ``contrastive``, ``vicreg`` or ``densecl``, and ``global_local``. Empty
            when the stage asks for none.

    Raises:
        ConfigError: The views or the resampler do not allow a loss; the message names the key.
    """

    def __init__(self, config: PanoramaVLMConfig, stage: StageConfig, stage_name: str) -> None:
        super().__init__()
        self.weights: dict[str, float] = {}
        self.overlap: OverlapLoss | None = None
        self.global_local: GlobalLocalLoss | None = None
        self.overlap_name = stage.vision_loss_type
        section = f"training.stage_configs.{stage_name}"
        layout = config.token_layout
        if stage.vicreg_loss_weight > 0:
            self.overlap = _overlap_loss(config, stage, section)
            self.weights[self.overlap_name] = stage.vicreg_loss_weight
        if stage.global_local_loss_weight > 0:
            try:
                self.global_local = GlobalLocalLoss(layout.views, layout.grid_hw, distance=stage.global_local_loss_type)
            except ConfigError as error:
                raise ConfigError(f"{section}.global_local_loss_weight: {error}") from None
            self.weights["global_local"] = stage.global_local_loss_weight

    def forward(self, head: nn.Module, latents: Tensor) -> dict[str, Tensor]:
        """Return the losses, without their weights, of what `head` makes of latent tokens float[B, V, S', D]."""
        losses: dict[str, Tensor] = {}
        if self.overlap is not None and self.overlap.needs_two_passes:
            losses[self.overlap_name] = self.overlap(*_two_passes(head, latents))
        elif self.overlap is not None:
            losses[self.overlap_name] = self.overlap(head(latents))
        if self.global_local is not None:
            losses["global_local"] = self.global_local(head(latents))
        return losses


def _two_passes(head: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return two passes with different dropout masks; always the same masks in evaluation.

    Without masks, a token's other pass would be the token itself, and the loss of a validation no measure of training.
    """
    if head.training:
        return head(latents), head(latents)
    devices = [latents.device] if latents.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        head.train()
        try:
            return head(latents), head(latents)
        finally:
            head.eval()


def _overlap_loss(config: PanoramaVLMConfig, stage: StageConfig, section: str) -> OverlapLoss:
    layout = config.token_layout
    if layout.grid_hw is None:
        raise ConfigError(
            f"{section}.vicreg_loss_weight needs a resampler that keeps the token grid; '{config.resampler['type']}' "
            "does not: use 'bimamba' or 'mlp', or set the weight to 0"
        )
    loss_class, keys = OVERLAP_LOSSES[stage.vision_loss_type]
    options = {argument: getattr(stage, key) for argument, key in keys.items()}
    try:
        return loss_class(
            layout.views,
            layout.grid_hw,
            matching=stage.overlap_matching,
            overlap_ratio=stage.vicreg_overlap_ratio,
            **options,
        )
    except ConfigError as error:
        raise ConfigError(f"{section}.vicreg_loss_weight: {error}") from None
