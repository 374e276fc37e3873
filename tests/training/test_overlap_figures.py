"""Heat maps of the overlap: the numbers drawn are right, and the picture has something on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cora.geometry.camera import view_rays
from cora.geometry.layouts import yaw_ring
from cora.geometry.overlap import overlap_pairs
from cora.training.overlap_figures import draw_overlap, shown_pairs, similarity_map

GRID = (8, 8)
RING = yaw_ring(90.0, 0.5)
TOKENS = torch.stack([view_rays(view, *GRID).reshape(-1, 3) for view in RING]).float()


def test_the_most_similar_token_is_where_geometry_says() -> None:
    for pair in overlap_pairs(RING, GRID):
        for match in range(len(pair.source_index)):
            row, column = divmod(int(similarity_map(TOKENS, pair, match, GRID).argmax()), GRID[1])
            x, y = (pair.target_xy[match] - 0.5).tolist()
            assert abs(column - x) <= 0.6
            assert abs(row - y) <= 0.6


def test_the_pair_that_closes_the_circle_is_shown() -> None:
    assert [(pair.first, pair.second) for pair in shown_pairs(overlap_pairs(RING, GRID))] == [(0, 1), (4, 5), (7, 0)]
    assert len(shown_pairs(overlap_pairs(RING, GRID)[:1])) == 1


def test_the_figure_marks_the_true_places(tmp_path: Path) -> None:
    figure = draw_overlap(TOKENS, RING, GRID, title="made of its own directions")
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == 12
    pair = overlap_pairs(RING, GRID)[0]
    for axes in maps[:4]:
        best, true = ((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines)
        assert np.abs(np.subtract(best, true)).max() <= 0.6
        assert (pair.target_xy - 0.5 - torch.tensor(true)).abs().amax(dim=1).min() < 1e-6
    figure.savefig(tmp_path / "overlap.png", dpi=60)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "overlap.png")).reshape(-1, 4), axis=0)) > 100
