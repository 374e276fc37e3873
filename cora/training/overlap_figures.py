"""Heat maps of the overlap: where in the neighbouring view a token finds itself, and where geometry says it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from cora.geometry.overlap import OverlapPair, overlap_pairs
from cora.training.module import PanoramaTrainingModule
from cora.types import ViewSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OverlapFigures", "draw_overlap", "shown_pairs", "similarity_map"]

_NUM_TOKENS = 4


def similarity_map(tokens: Tensor, pair: OverlapPair, match: int, grid_hw: tuple[int, int]) -> Tensor:
    """Return float[height, width]: the cosine of one matched token of a view with every token of its neighbour.

    Args:
        tokens: float[V, S, D].
        pair: The two views.
        match: Which of the pair's matches.
        grid_hw: Token grid of a view.
    """
    token = tokens[pair.first, int(pair.source_index[match])]
    return F.cosine_similarity(token, tokens[pair.second], dim=-1).view(grid_hw)


def shown_pairs(pairs: Sequence[OverlapPair]) -> list[OverlapPair]:
    """Return up to three pairs: the first, the middle one and the last, which closes the circle."""
    return [pairs[index] for index in sorted({0, len(pairs) // 2, len(pairs) - 1})]


def draw_overlap(tokens: Tensor, views: Sequence[ViewSpec], grid_hw: tuple[int, int], *, title: str) -> Figure:
    """Return a figure of `similarity_map` for some tokens of some pairs of neighbouring views.

    A cross marks the true place of the token, a circle the most similar token.

    Args:
        tokens: float[V, S, D] of one panorama.
        views: The views of the layout; some of them overlap.
        grid_hw: Token grid of a view.
        title: Of the figure.
    """
    from matplotlib.figure import Figure

    pairs = shown_pairs(overlap_pairs(views, grid_hw))
    figure = Figure(figsize=(2.4 * _NUM_TOKENS, 2.6 * len(pairs)), layout="constrained")
    figure.suptitle(title)
    for row, pair in zip(figure.subplots(len(pairs), _NUM_TOKENS, squeeze=False), pairs, strict=True):
        matches = torch.linspace(0, len(pair.source_index) - 1, _NUM_TOKENS + 2)[1:-1].round().long().tolist()
        for axes, match in zip(row, matches, strict=True):
            cosines = similarity_map(tokens, pair, match, grid_hw)
            # Cells are drawn around whole numbers, tokens lie around half-integers.
            x, y = (pair.target_xy[match] - 0.5).tolist()
            best_row, best_column = divmod(int(cosines.argmax()), grid_hw[1])
            picture = axes.imshow(cosines.numpy(), cmap="viridis")
            axes.plot(best_column, best_row, "o", markerfacecolor="none", markeredgecolor="white", markersize=11)
            axes.plot(x, y, "+", color="red", markersize=10, markeredgewidth=2)
            source_row, source_column = divmod(int(pair.source_index[match]), grid_hw[1])
            axes.set_title(f"view {pair.first} ({source_row}, {source_column}) in {pair.second}", fontsize=8)
            axes.set(xticks=[], yticks=[])
            figure.colorbar(picture, ax=axes, shrink=0.7).ax.tick_params(labelsize=6)
    return figure


class OverlapFigures(Callback):
    """Writes ``overlap/step-<optimiser step>.png`` after each validation, of its first panorama.

    Latent tokens are shown, or patch tokens where latent tokens have no places; nothing where no views overlap.

    Args:
        folder: Folder of the stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "overlap"

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figure."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        levels = cast(PanoramaTrainingModule, pl_module).diagnostics.levels
        for name in ("latent", "vision"):
            level = levels.get(name)
            if level is None or level.grid_hw is None or level.example is None or not level.pairs:
                continue
            title = f"step {step}: cosine of a {name} token with the next view (+ true place, o most similar)"
            self.folder.mkdir(exist_ok=True)
            figure = draw_overlap(level.example, level.views, level.grid_hw, title=title)
            figure.savefig(self.folder / f"step-{step:06d}.png", dpi=110)
            return
