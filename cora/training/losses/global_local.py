"""The view of the whole panorama against the mean of the views of its parts.

Shapes: B panoramas, V views, S tokens per view, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.geometry.camera import content_mask
from cora.types import ViewSpec

__all__ = ["GlobalLocalLoss"]


class GlobalLocalLoss(nn.Module):
    """Distance between the mean token of the global view and the mean token of all others.

    Tokens on the letterbox bars of a global view do not count, where tokens have places.

    Args:
        views: The views of the layout.
        grid_hw: Token grid of a view; None for latent tokens without places.
        distance: ``cosine`` is one minus the cosine, ``mse`` the mean squared difference.

    Raises:
        ConfigError: No view shows the whole panorama, or no view a part of it.
    """

    def __init__(
        self,
        views: Sequence[ViewSpec],
        grid_hw: tuple[int, int] | None,
        *,
        distance: Literal["cosine", "mse"] = "cosine",
    ) -> None:
        super().__init__()
        if distance not in ("cosine", "mse"):
            raise ConfigError(f"global_local_loss_type is 'cosine' or 'mse', got '{distance}'")
        self.distance = distance
        self.whole = [index for index, view in enumerate(views) if view.is_global]
        self.parts = [index for index, view in enumerate(views) if not view.is_global]
        if not self.whole or not self.parts:
            raise ConfigError(
                "GlobalLocalLoss needs a view of the whole panorama and views of its parts; use "
                "image_processing.crop_strategy 'anyres_e2p', 'anyres' or 'anyres_max', or set the loss weight to 0"
            )
        counts = None if grid_hw is None else torch.stack([content_mask(views[i], *grid_hw) for i in self.whole])
        self.content: Tensor | None
        self.register_buffer("content", None if counts is None else counts.flatten(1), persistent=False)

    def pooled(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean tokens float[B, D] of the whole and of its parts, for tokens float[B, V, S, D]."""
        whole = tokens[:, self.whole]
        if self.content is None:
            mean = whole.mean(dim=(1, 2))
        else:
            content = self.content.to(tokens.device)
            mean = (whole * content[..., None]).sum(dim=(1, 2)) / content.sum()
        return mean, tokens[:, self.parts].mean(dim=(1, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scalar loss of tokens float[B, V, S, D]; computed in float32 at least, under autocast too."""
        with torch.autocast(tokens.device.type, enabled=False):
            whole, parts = self.pooled(tokens.to(torch.promote_types(tokens.dtype, torch.float32)))
            if self.distance == "mse":
                return F.mse_loss(whole, parts)
            return 1.0 - F.cosine_similarity(whole, parts, dim=-1).mean()
