"""The base of all overlap losses: matching tokens of neighbouring views.

Shapes: B panoramas, V views, S tokens per view, N matches of a pair of views, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cora.errors import ConfigError
from cora.geometry.layouts import rings
from cora.geometry.overlap import OverlapPair, column_pairs, overlap_pairs, physical_overlap, sample_tokens
from cora.types import ViewSpec

__all__ = ["Matching", "OverlapLoss", "matched_pairs"]

Matching = Literal["rotation", "columns"]


def matched_pairs(
    views: Sequence[ViewSpec],
    grid_hw: tuple[int, int],
    *,
    matching: Matching = "rotation",
    overlap_ratio: float | None = None,
) -> list[OverlapPair]:
    """Return the tokens to compare of each pair of neighbours; an empty list where no two views overlap.

    Args:
        views: The views of the layout.
        grid_hw: Rows and columns of the token grid of every view.
        matching: By the ``rotation`` between two views, or by ``columns`` shifted by the overlap.
        overlap_ratio: Compares only this fraction of a view's columns, on the side of its neighbour.

    Raises:
        ConfigError: Columns are to be matched that the views do not share.
    """
    if matching not in ("rotation", "columns"):
        raise ConfigError(f"overlap_matching is 'rotation' or 'columns', got '{matching}'")
    if matching == "columns":
        shared = min((physical_overlap(views, ring) for ring in rings(views)), default=0.0)
        if shared > 0 and overlap_ratio is not None and overlap_ratio > shared + 1e-6:
            raise ConfigError(
                f"vicreg_overlap_ratio {overlap_ratio:g} is more than the {shared:.3g} of a view that its neighbour "
                "shows; leave it out, or raise image_processing.overlap_ratio"
            )
        return column_pairs(views, grid_hw, overlap_ratio=overlap_ratio)
    pairs = overlap_pairs(views, grid_hw)
    if overlap_ratio is None:
        return pairs
    first_column = grid_hw[1] - max(1, int(grid_hw[1] * overlap_ratio + 1e-6))
    kept = [(pair, pair.source_index % grid_hw[1] >= first_column) for pair in pairs]
    return [
        OverlapPair(pair.first, pair.second, pair.source_index[near], pair.target_xy[near])
        for pair, near in kept
        if bool(near.any())
    ]


class OverlapLoss(nn.Module):
    """Knows which tokens of which views show the same part of the scene.

    Args:
        views: The views of the layout, in the order of the token tensors.
        grid_hw: Rows and columns of the token grid of every view.
        matching: How tokens are matched; see `matched_pairs`.
        overlap_ratio: As in `matched_pairs`.

    Raises:
        ConfigError: No two views overlap: such a loss would pull together what shows different things.
    """

    needs_two_passes: ClassVar[bool] = False
    """Whether the loss compares two passes with different dropout masks."""

    def __init__(
        self,
        views: Sequence[ViewSpec],
        grid_hw: tuple[int, int],
        *,
        matching: Matching = "rotation",
        overlap_ratio: float | None = None,
    ) -> None:
        super().__init__()
        self.grid_hw = grid_hw
        self.pairs = matched_pairs(views, grid_hw, matching=matching, overlap_ratio=overlap_ratio)
        if not self.pairs:
            raise ConfigError(
                f"{type(self).__name__} needs views that overlap physically, and no neighbours among these "
                f"{len(views)} do; raise image_processing.overlap_ratio or set the loss weight to 0"
            )
        # Not buffers: a module that is moved to bfloat16 would take the positions along.
        self._pairs_by_device: dict[torch.device, list[OverlapPair]] = {}

    def matches(self, tokens: Tensor, others: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each pair of neighbours, float[B, N, D] of the first view and what the second shows there.

        Args:
            tokens: float[B, V, S, D].
            others: Tokens to take the second view's side from; `tokens` when None.
        """
        others = tokens if others is None else others
        for pair in self._pairs_on(tokens.device):
            seen = sample_tokens(others[:, pair.second], pair.target_xy, self.grid_hw)
            yield tokens[:, pair.first][:, pair.source_index], seen

    def _pairs_on(self, device: torch.device) -> list[OverlapPair]:
        if device not in self._pairs_by_device:
            self._pairs_by_device[device] = [
                replace(pair, source_index=pair.source_index.to(device), target_xy=pair.target_xy.to(device))
                for pair in self.pairs
            ]
        return self._pairs_by_device[device]

    def forward(self, tokens: Tensor, other_pass: Tensor | None = None) -> Tensor:
        """Return the scalar loss of tokens float[B, V, S, D]; computed in float32 at least, under autocast too.

        Args:
            tokens: The tokens of one pass.
            other_pass: The same from other dropout masks, for losses with `needs_two_passes`; `tokens` when None.
        """
        precision = torch.promote_types(tokens.dtype, torch.float32)
        with torch.autocast(tokens.device.type, enabled=False):
            first = tokens.to(precision)
            return self._loss(first, first if other_pass is None else other_pass.to(precision))

    def _loss(self, tokens: Tensor, other_pass: Tensor) -> Tensor:
        raise NotImplementedError
