"""Contrastive losses between overlapping views: a token's match against all other matched tokens.

Shapes: B panoramas, V views, S tokens per view, M matched tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.training.losses.overlap import Matching, OverlapLoss
from cora.types import ViewSpec

__all__ = ["DenseCLLoss", "PanoContrastiveLoss", "symmetric_info_nce"]


def symmetric_info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE in both directions for unit vectors float[..., M, D] whose rows match one to one.

    Reference: van den Oord, Li, Vinyals, Contrastive Predictive Coding (2018), equation 4, symmetrised.
    """
    logits = first @ second.transpose(-1, -2) / temperature
    target = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:-1])
    forwards = F.cross_entropy(logits.flatten(0, -2), target.flatten())
    backwards = F.cross_entropy(logits.transpose(-1, -2).flatten(0, -2), target.flatten())
    return (forwards + backwards) / 2


class DenseCLLoss(OverlapLoss):
    """InfoNCE over the matched tokens of each pair of neighbours, the matches of all panoramas joined.

    Args:
        views: The views of the layout.
        grid_hw: Token grid of a view.
        temperature: Of the overlap term.
        matching: How tokens are matched; see `OverlapLoss`.
        overlap_ratio: As in `OverlapLoss`.

    Reference: Wang et al., DenseCL (2021), equation 3, with correspondences from geometry.
    """

    def __init__(
        self,
        views: Sequence[ViewSpec],
        grid_hw: tuple[int, int],
        *,
        temperature: float = 0.07,
        matching: Matching = "rotation",
        overlap_ratio: float | None = None,
    ) -> None:
        super().__init__(views, grid_hw, matching=matching, overlap_ratio=overlap_ratio)
        self.temperature = temperature

    def overlap_term(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the mean InfoNCE between neighbours for tokens float[B, V, S, D] of two passes."""
        losses = []
        for first, second in self.matches(queries, keys):
            unit_first = F.normalize(first.flatten(0, 1), dim=-1)
            losses.append(symmetric_info_nce(unit_first, F.normalize(second.flatten(0, 1), dim=-1), self.temperature))
        return torch.stack(losses).mean()

    def _loss(self, tokens: Tensor, other_pass: Tensor) -> Tensor:
        return self.overlap_term(tokens, tokens)


class PanoContrastiveLoss(DenseCLLoss):
    """Overlap InfoNCE between two stochastic passes, plus InfoNCE within each view.

    With a single pass, or without dropout, the term within a view only spreads its tokens apart.

    Args:
        views: The views of the layout.
        grid_hw: Token grid of a view.
        temperature: Of the overlap term.
        tile_temperature: Of the term within a view.
        tile_weight: Weight of the term within a view.
        matching: How tokens are matched; see `OverlapLoss`.
        overlap_ratio: As in `OverlapLoss`.
    """

    needs_two_passes = True

    def __init__(
        self,
        views: Sequence[ViewSpec],
        grid_hw: tuple[int, int],
        *,
        temperature: float = 0.07,
        tile_temperature: float = 0.2,
        tile_weight: float = 0.1,
        matching: Matching = "rotation",
        overlap_ratio: float | None = None,
    ) -> None:
        super().__init__(views, grid_hw, temperature=temperature, matching=matching, overlap_ratio=overlap_ratio)
        self.tile_temperature = tile_temperature
        self.tile_weight = tile_weight
        # A view that shows the whole sphere belongs to no pair, and its letterbox bars are all alike.
        self.tiles = [index for index, view in enumerate(views) if not view.is_global]

    def _loss(self, tokens: Tensor, other_pass: Tensor) -> Tensor:
        first, second = (F.normalize(item[:, self.tiles], dim=-1).flatten(0, 1) for item in (tokens, other_pass))
        within = symmetric_info_nce(first, second, self.tile_temperature)
        return self.overlap_term(tokens, other_pass) + self.tile_weight * within
