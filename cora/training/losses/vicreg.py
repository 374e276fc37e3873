"""VICReg between overlapping views: agree, keep variance, decorrelate.

Shapes: B panoramas, V views, S tokens per view, M matched tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.errors import ConfigError
from cora.training.losses.overlap import OverlapLoss
from cora.types import ViewSpec

__all__ = ["VICRegLoss", "covariance_term", "variance_term"]


def variance_term(tokens: Tensor, *, target_std: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """Return the mean shortfall of each component's standard deviation below `target_std`, for float[M, D]."""
    deviation = (tokens.var(dim=0, unbiased=False) + epsilon).sqrt()
    return F.relu(target_std - deviation).mean()


def covariance_term(tokens: Tensor) -> Tensor:
    """Return the summed squared off-diagonal covariances over D, for float[M, D] with M > 1."""
    centred = tokens - tokens.mean(dim=0)
    covariance = centred.T @ centred / (len(tokens) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / tokens.shape[1]


class VICRegLoss(OverlapLoss):
    """Variance-invariance-covariance regularisation over the matched tokens of neighbouring views.

    Args:
        views: The views of the layout.
        grid_hw: Token grid of a view.
        similarity_weight: Weight of the squared distance between matches.
        variance_weight: Weight of the variance term.
        covariance_weight: Weight of the covariance term.
        mode: ``pairwise`` takes variance and covariance per pair of neighbours, ``batchwise`` over all of them.

    Reference: Bardes, Ponce, LeCun, VICReg (2022), equations 1 to 6; variance and covariance here are halved over
    the two sides, and taken over tokens of all panoramas of the batch.
    """

    def __init__(
        self,
        views: Sequence[ViewSpec],
        grid_hw: tuple[int, int],
        *,
        similarity_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        mode: Literal["pairwise", "batchwise"] = "pairwise",
    ) -> None:
        super().__init__(views, grid_hw)
        if mode not in ("pairwise", "batchwise"):
            raise ConfigError(f"vicreg mode is 'pairwise' or 'batchwise', got '{mode}'")
        self.similarity_weight = similarity_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.mode = mode

    def _terms(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of matches float[M, D]."""
        similarity = F.mse_loss(first, second)
        variance = (variance_term(first) + variance_term(second)) / 2
        covariance = (covariance_term(first) + covariance_term(second)) / 2
        return (
            self.similarity_weight * similarity + self.variance_weight * variance + self.covariance_weight * covariance
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scalar loss of tokens float[B, V, S, D]; computed in float32."""
        matched = [(a.flatten(0, 1), b.flatten(0, 1)) for a, b in self.matches(tokens.float())]
        if self.mode == "batchwise":
            first, second = (torch.cat(side) for side in zip(*matched, strict=True))
            return self._terms(first, second)
        return torch.stack([self._terms(a, b) for a, b in matched]).mean()
