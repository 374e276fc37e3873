"""The base of all overlap losses: matching tokens of neighbouring views.

Shapes: B panoramas, V views, S tokens per view, N matches of a pair of views, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from cora.errors import ConfigError
from cora.geometry.overlap import OverlapPair, overlap_pairs, sample_tokens
from cora.types import ViewSpec

__all__ = ["OverlapLoss"]


class OverlapLoss(nn.Module):
    """Knows which tokens of which views show the same part of the scene.

    Args:
        views: The views of the layout, in the order of the token tensors.
        grid_hw: Rows and columns of the token grid of every view.

    Raises:
        ConfigError: No two views overlap: such a loss would pull together what shows different things.
    """

    def __init__(self, views: Sequence[ViewSpec], grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.grid_hw = grid_hw
        self.pairs: list[OverlapPair] = overlap_pairs(views, grid_hw)
        if not self.pairs:
            raise ConfigError(
                f"{type(self).__name__} needs views that overlap physically, and no neighbours among these "
                f"{len(views)} do; raise image_processing.overlap_ratio or set the loss weight to 0"
            )

    def matches(self, tokens: Tensor, others: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each pair of neighbours, float[B, N, D] of the first view and what the second shows there.

        Args:
            tokens: float[B, V, S, D].
            others: Tokens to take the second view's side from; `tokens` when None.
        """
        others = tokens if others is None else others
        for pair in self.pairs:
            index = pair.source_index.to(tokens.device)
            position = pair.target_xy.to(tokens.device)
            yield tokens[:, pair.first][:, index], sample_tokens(others[:, pair.second], position, self.grid_hw)
