from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cora.errors import GeometryError
from cora.geometry.camera import project_to_view, view_rays
from cora.geometry.layouts import even_ring, renumber, yaw_ring
from cora.geometry.overlap import column_pairs, overlap_pairs, physical_overlap, ring_neighbours, sample_tokens
from cora.geometry.sampling import panorama_coordinates, sample_bilinear
from cora.types import ViewSpec

GRID = (16, 16)


def whole_sphere() -> ViewSpec:
    return ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True, letterbox=True)


def tokens_of(view: ViewSpec) -> torch.Tensor:
    """Return float64[S, 3]: what the view's tokens show of a panorama that holds its own directions."""
    height, width = 256, 512
    panorama = view_rays(ViewSpec(0, "equirectangular", 0, 0, 360, 180), height, width)
    x, y = panorama_coordinates(view, *GRID, panorama_height=height, panorama_width=width)
    return sample_bilinear(panorama, x, y).flatten(0, 1)


@pytest.mark.parametrize("pitch", [0, 35, -60])
@pytest.mark.parametrize(("fov", "overlap"), [(90, 0.5), (90, 0.25), (60, 0.5)])
def test_corresponding_tokens_show_the_same_directions(fov: float, overlap: float, pitch: float) -> None:
    views = yaw_ring(fov, overlap, pitch_deg=pitch)
    pairs = overlap_pairs(views, GRID)
    assert [(pair.first, pair.second) for pair in pairs] == [(i, (i + 1) % len(views)) for i in range(len(views))]
    # Tokens are smallest at the picture's corners; half of such a token is the bound.
    rays = view_rays(views[0], *GRID)
    half_token = 0.5 * torch.linalg.vector_norm(rays[0, 1] - rays[0, 0]).item()
    for pair in pairs:
        source = tokens_of(views[pair.first])[pair.source_index]
        target = sample_tokens(tokens_of(views[pair.second]), pair.target_xy, GRID)
        inside = ((pair.target_xy > 0.5) & (pair.target_xy < 15.5)).all(dim=1)
        error = torch.linalg.vector_norm(source - target, dim=-1)
        assert float(error.max()) < 1.01 * half_token
        # Between token centres only the interpolation of a curved function is left.
        assert float(error[inside].max()) < 0.15 * half_token


def rolled(views: list[ViewSpec], roll_deg: float) -> list[ViewSpec]:
    return [replace(view, roll_deg=roll_deg) for view in views]


LAYOUTS = {
    "fov 90, half": yaw_ring(90, 0.5),
    "fov 45, a quarter": yaw_ring(45, 0.25),
    "fov 120, a third": yaw_ring(120, 0.3),
    "fov 75, four fifths": yaw_ring(75, 0.8),
    "two views that meet on both sides": even_ring(2, 240, 90, projection="equirectangular"),
    "low pictures": yaw_ring(90, 0.5, vfov_deg=40),
    "up": yaw_ring(90, 0.5, pitch_deg=40),
    "down over the pole": yaw_ring(90, 0.5, pitch_deg=-70),
    "tilted": rolled(yaw_ring(90, 0.5), 25),
    "tilted and up": rolled(yaw_ring(60, 0.5, pitch_deg=30), -40),
    "equirectangular": yaw_ring(90, 0.5, projection="equirectangular", vfov_deg=120),
    "two rings": renumber([*yaw_ring(90, 0.25, ring=0, pitch_deg=-35), *yaw_ring(90, 0.25, ring=1, pitch_deg=35)]),
}


@pytest.mark.parametrize("grid", [(16, 16), (9, 14), (3, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_corresponding_tokens_agree_within_half_a_token_everywhere(layout: str, grid: tuple[int, int]) -> None:
    """Tokens hold the direction they look in; what is sampled for a token is looked up in the second view again."""
    views = LAYOUTS[layout]
    pairs = overlap_pairs(views, grid)
    assert {(pair.first, pair.second) for pair in pairs} == set(ring_neighbours(views))
    tokens = torch.stack([view_rays(view, *grid).flatten(0, 1) for view in views])
    for pair in pairs:
        own = tokens[pair.first, pair.source_index]
        sampled = sample_tokens(tokens[pair.second], pair.target_xy, grid)
        found = torch.stack(project_to_view(sampled, views[pair.second], *grid)[:2], dim=-1)
        true = torch.stack(project_to_view(own, views[pair.second], *grid)[:2], dim=-1)
        torch.testing.assert_close(pair.target_xy.double(), true, rtol=0, atol=1e-4)
        # Interpolated unit vectors lie a little off the middle on coarse grids of wide views.
        assert float((found - true).abs().max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_token_that_the_neighbour_sees_is_left_out(layout: str) -> None:
    views = LAYOUTS[layout]
    for pair in overlap_pairs(views, GRID):
        rays = view_rays(views[pair.first], *GRID).flatten(0, 1)
        seen = project_to_view(rays, views[pair.second], *GRID)[2].nonzero().flatten()
        assert torch.equal(pair.source_index, seen)


def test_the_seam_is_an_overlap_like_any_other() -> None:
    views = yaw_ring(90, 0.6)
    (pair,) = [pair for pair in overlap_pairs(views, GRID) if views[pair.second].yaw_deg == -180]
    assert views[pair.first].yaw_deg == 144
    longitudes = torch.atan2(*view_rays(views[pair.first], *GRID).flatten(0, 1)[pair.source_index][:, [0, 2]].T)
    assert float(longitudes.min()) < -3
    assert float(longitudes.max()) > 3


def test_convention_linear_columns() -> None:
    assert physical_overlap(yaw_ring(90, 0.5), range(8)) == pytest.approx(0.5)
    assert physical_overlap(yaw_ring(90, 0), range(4)) == 0
    pair = column_pairs(yaw_ring(90, 0.5), GRID, overlap_ratio=0.25)[0]
    assert sorted(set((pair.source_index % 16).tolist())) == [12, 13, 14, 15]
    assert sorted(set(pair.target_xy[:, 0].tolist())) == [0.5, 1.5, 2.5, 3.5]
    assert torch.equal(pair.source_index // 16, pair.target_xy[:, 1].long())


def test_linear_columns_are_right_for_equirectangular_views() -> None:
    ring = yaw_ring(90, 0.5, projection="equirectangular", vfov_deg=150)
    for linear, true in zip(column_pairs(ring, GRID), overlap_pairs(ring, GRID), strict=True):
        assert (linear.first, linear.second) == (true.first, true.second)
        assert torch.equal(linear.source_index, true.source_index)
        torch.testing.assert_close(linear.target_xy, true.target_xy)


@pytest.mark.parametrize("views", [yaw_ring(90, 0), [whole_sphere()], []])
def test_no_columns_without_physical_overlap(views: list[ViewSpec]) -> None:
    assert column_pairs(views, GRID) == []
    assert column_pairs(views, GRID, overlap_ratio=0.5) == []


def test_half_overlap_shares_the_right_part_of_a_view_with_the_left_part_of_the_next() -> None:
    pair = overlap_pairs(yaw_ring(90, 0.5), GRID)[0]
    columns = pair.source_index % GRID[1]
    assert int(columns.min()) == 8
    assert float(pair.target_xy[:, 0].max()) < 8
    # In the row of the horizon, tan(45 - 45) = 0 of the first view is the left edge of the second.
    middle = pair.source_index == 8 * 16 + 15
    assert pair.target_xy[middle][0, 0].item() == pytest.approx(7.75, abs=0.1)


def test_linear_columns_would_be_wrong() -> None:
    pair = overlap_pairs(yaw_ring(90, 0.5), GRID)[0]
    linear = (pair.source_index % 16).float() + 0.5 - 8
    assert float((linear - pair.target_xy[:, 0]).abs().max()) > 1


def test_the_last_view_is_matched_with_the_first() -> None:
    pairs = overlap_pairs(yaw_ring(90, 0.5), GRID)
    torch.testing.assert_close(pairs[-1].target_xy, pairs[0].target_xy)
    assert (pairs[-1].first, pairs[-1].second) == (7, 0)


def test_global_views_and_rings_stay_apart() -> None:
    views = renumber([whole_sphere(), *yaw_ring(120, 0.1, ring=0), *yaw_ring(120, 0.1, ring=1, pitch_deg=20)])
    assert ring_neighbours(views) == [(1, 2), (2, 3), (3, 4), (4, 1), (5, 6), (6, 7), (7, 8), (8, 5)]


@pytest.mark.parametrize("views", [yaw_ring(90, 0), yaw_ring(45, 0), [whole_sphere()], []])
def test_no_pairs_without_physical_overlap(views: list[ViewSpec]) -> None:
    assert overlap_pairs(views, GRID) == []


def test_requested_pairs_and_letterbox_bars() -> None:
    views = renumber([whole_sphere(), *yaw_ring(90, 0.5)])
    (pair,) = overlap_pairs(views, GRID, pairs=[(0, 1)])
    rows = pair.source_index // 16
    assert int(rows.min()) >= 4
    assert int(rows.max()) < 12
    (back,) = overlap_pairs(views, GRID, pairs=[(1, 0)])
    assert len(back.source_index) == 256


def test_equirectangular_rings_shift_linearly() -> None:
    ring = yaw_ring(90, 0.5, projection="equirectangular", vfov_deg=150)
    pair = overlap_pairs(ring, GRID)[0]
    torch.testing.assert_close(pair.target_xy[:, 0], (pair.source_index % 16) + 0.5 - 8)
    torch.testing.assert_close(pair.target_xy[:, 1], pair.source_index.div(16, rounding_mode="floor") + 0.5)


def test_convention_token_centres_are_at_half_integers() -> None:
    tokens = torch.arange(6.0).view(1, 6, 1)
    xy = torch.tensor([[0.5, 0.5], [2.5, 1.5], [1.0, 0.5], [0.5, 1.0], [0.1, 0.1], [3.0, 2.0]])
    assert sample_tokens(tokens, xy, (2, 3)).flatten().tolist() == pytest.approx([0, 5, 0.5, 1.5, 0, 5])


def test_sampling_has_gradients_and_keeps_leading_axes() -> None:
    tokens = torch.rand(2, 3, 6, 4, dtype=torch.float64, requires_grad=True)
    xy = torch.tensor([[0.7, 0.9], [2.9, 1.2]])
    assert sample_tokens(tokens, xy, (2, 3)).shape == (2, 3, 2, 4)
    assert torch.autograd.gradcheck(
        lambda values: sample_tokens(values, xy, (2, 3)), (tokens[:1, :1].detach().requires_grad_(),)
    )


def test_wrong_grids_are_refused() -> None:
    with pytest.raises(GeometryError, match="no grid"):
        sample_tokens(torch.rand(1, 5, 2), torch.rand(1, 2), (2, 3))
    with pytest.raises(GeometryError, match="0 x 4"):
        overlap_pairs(yaw_ring(90, 0.5), (0, 4))
