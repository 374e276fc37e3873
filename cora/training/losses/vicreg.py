"""VICReg between overlapping views: agree, keep variance, decorrelate.

Shapes: B panoramas, V views, S tokens per view, M matched tokens, D components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.errors import ConfigError
from cora.training.losses.overlap import Matching, OverlapLoss
from cora.types import ViewSpec

__all__ = ["VICRegLoss", "covariance_term", "variance_term"]


def variance_term(tokens: Tensor, *, target_std: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """Return the mean shortfall of each component's standard deviation below `target_std`, for float[..., M, D]."""
    deviation = (tokens.var(dim=-2, unbiased=False) + epsilon).sqrt()
    return F.relu(target_std - deviation).mean()


def covariance_term(tokens: Tensor) -> Tensor:
    """Return the summed squared off-diagonal covariances of the D components, over D, for float[..., M, D]."""
    num_tokens, width = tokens.shape[-2:]
    centred = tokens - tokens.mean(dim=-2, keepdim=True)
    # The products of tokens and those of components have the same Frobenius norm; the smaller matrix is taken.
    transposed = centred.transpose(-1, -2)
    products = centred @ transposed if num_tokens < width else transposed @ centred
    on_diagonal = centred.square().sum(dim=-2).square().sum(dim=-1)
    off_diagonal = products.square().sum(dim=(-1, -2)) - on_diagonal
    # A single token has no covariance: the difference is 0 then.
    return off_diagonal.mean() / (max(num_tokens - 1, 1) ** 2 * width)


class VICRegLoss(OverlapLoss):
    """Variance-invariance-covariance regularisation over the matched tokens of neighbouring views.

    Args:
        views: The views of the layout.
        grid_hw: Token grid of a view.
        similarity_weight: Weight of the squared distance between matches.
        variance_weight: Weight of the variance term.
        covariance_weight: Weight of the covariance term.
        mode: ``pairwise`` takes variance and covariance over the tokens of one pair of views of one panorama, so that
            a panorama's loss does not depend on its batch; ``batchwise`` over all pairs and panoramas together.
        matching: How tokens are matched; see `OverlapLoss`.
        overlap_ratio: As in `OverlapLoss`.

    Reference: Bardes, Ponce, LeCun, VICReg (2022), equations 1 to 6; variance and covariance here are halved over
    the two sides.
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
        matching: Matching = "rotation",
        overlap_ratio: float | None = None,
    ) -> None:
        super().__init__(views, grid_hw, matching=matching, overlap_ratio=overlap_ratio)
        if mode not in ("pairwise", "batchwise"):
            raise ConfigError(f"vicreg_mode is 'pairwise' or 'batchwise', got '{mode}'")
        self.similarity_weight = similarity_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.mode = mode

    def _terms(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of matches float[..., M, D], the mean over the leading axes."""
        similarity = F.mse_loss(first, second)
        variance = (variance_term(first) + variance_term(second)) / 2
        covariance = (covariance_term(first) + covariance_term(second)) / 2
        return (
            self.similarity_weight * similarity + self.variance_weight * variance + self.covariance_weight * covariance
        )

    def _loss(self, tokens: Tensor, other_pass: Tensor) -> Tensor:
        matched = list(self.matches(tokens))
        if self.mode == "batchwise":
            first, second = (torch.cat([item.flatten(0, 1) for item in side]) for side in zip(*matched, strict=True))
            return self._terms(first, second)
        return torch.stack([self._terms(first, second) for first, second in matched]).mean()
