from __future__ import annotations

import math

import pytest
import torch

from cora.errors import ConfigError
from cora.geometry.camera import view_rays
from cora.geometry.layouts import yaw_ring
from cora.geometry.sphere import direction_to_lonlat
from cora.model.layout import TokenLayout, build_token_layout, kept_columns
from cora.types import ViewSpec

GLOBAL = ViewSpec(0, "equirectangular", 0.0, 0.0, 360.0, 180.0, is_global=True, letterbox=True)


def ring_views(hfov_deg: float, overlap: float, *, pitch_deg: float = 0.0, with_global: bool = True) -> list[ViewSpec]:
    first = [GLOBAL] if with_global else []
    return [*first, *yaw_ring(hfov_deg, overlap, pitch_deg=pitch_deg, first_index=len(first))]


def build(views: list[ViewSpec], grid: tuple[int, int] | None, stitching: str, tokens: int = 0) -> TokenLayout:
    return build_token_layout(
        views,
        grid_hw=grid,
        tokens_per_view=tokens or (grid[0] * grid[1] if grid else 0),
        view_size=(64, 64),
        stitching=stitching,
    )


def test_convention_eight_views_of_ninety_degrees_keep_the_middle_half() -> None:
    view = yaw_ring(90.0, 0.5)[0]
    assert kept_columns(view, 8, 16) == list(range(4, 12))


def test_convention_number_of_tokens() -> None:
    views = ring_views(90.0, 0.5)
    assert build(views, (16, 16), "stride_views").num_tokens == 16 * 16 + 16 * 8 * 8
    assert build(views, (16, 16), "concat").num_tokens == 9 * 16 * 16


@pytest.mark.parametrize(("hfov_deg", "overlap"), [(90.0, 0.5), (90.0, 0.25), (45.0, 0.25), (120.0, 0.5), (60.0, 0.1)])
@pytest.mark.parametrize("columns", [1, 2, 7, 14, 16, 27])
@pytest.mark.parametrize("pitch_deg", [0.0, 30.0, -60.0])
def test_kept_columns_cover_the_circle_and_are_symmetric(
    hfov_deg: float, overlap: float, columns: int, pitch_deg: float
) -> None:
    ring = yaw_ring(hfov_deg, overlap, pitch_deg=pitch_deg)
    kept = [kept_columns(view, len(ring), columns) for view in ring]
    assert all(one == kept[0] for one in kept)
    assert kept[0] == [columns - 1 - column for column in reversed(kept[0])]
    assert kept[0] == list(range(kept[0][0], kept[0][-1] + 1))
    # Every token of a view that looks into the view's own sector is kept, so that no direction is lost.
    lon, _ = direction_to_lonlat(view_rays(ring[0], 9, columns))
    inside = (lon - math.radians(ring[0].yaw_deg)).abs() < math.pi / len(ring) - 1e-9
    assert set(inside.any(dim=0).nonzero().flatten().tolist()) <= set(kept[0])


@pytest.mark.parametrize("columns", [8, 16, 27])
def test_no_more_is_kept_than_reaches_into_the_sector(columns: int) -> None:
    kept = kept_columns(yaw_ring(90.0, 0.5)[0], 8, columns)
    edge = 2 * (kept[-1]) / columns - 1
    assert math.degrees(math.atan(edge)) < 22.5
    assert math.degrees(math.atan(2 * (kept[-1] + 1) / columns - 1)) >= 22.5 - 1e-9


def test_equirectangular_views_keep_their_sector() -> None:
    view = yaw_ring(90.0, 0.5, projection="equirectangular", vfov_deg=90.0)[0]
    assert kept_columns(view, 8, 8) == [2, 3, 4, 5]


def test_tokens_run_row_by_row_around_the_ring_after_the_global_view() -> None:
    layout = build(ring_views(90.0, 0.5), (4, 4), "stride_views")
    assert layout.gather[:16] == tuple(range(16))
    columns = kept_columns(layout.views[1], 8, 4)
    around = sorted(layout.views[1:], key=lambda view: view.yaw_deg)
    expected = [(view.index * 4 + row) * 4 + column for row in range(4) for view in around for column in columns]
    assert list(layout.gather[16:]) == expected
    _, lat, valid = layout.directions()
    row = slice(16, 16 + 8 * len(columns))
    assert valid[row].all()
    assert lat[row].min() > 0
    assert around[0].yaw_deg == -180.0


def test_each_latent_token_appears_at_most_once_and_concat_has_them_all() -> None:
    views = ring_views(90.0, 0.5)
    stride, concat = build(views, (4, 4), "stride_views"), build(views, (4, 4), "concat")
    assert len(set(stride.gather)) == stride.num_tokens
    assert sorted(concat.gather) == list(range(9 * 16))
    assert set(stride.gather) < set(concat.gather)


def test_rings_come_one_after_the_other_and_loose_views_last() -> None:
    upper = yaw_ring(90.0, 0.0, pitch_deg=45.0, ring=1, first_index=0)
    lower = yaw_ring(90.0, 0.0, pitch_deg=-45.0, ring=0, first_index=4)
    zenith = ViewSpec(8, "perspective", 0.0, 90.0, 90.0, 90.0)
    whole = ViewSpec(9, "equirectangular", 0.0, 0.0, 360.0, 180.0, is_global=True)
    layout = build([*upper, *lower, zenith, whole], (2, 2), "concat")
    order = [index // 4 for index in layout.gather]
    assert order[:4] == [9] * 4
    assert set(order[4:20]) == {4, 5, 6, 7}
    assert set(order[20:36]) == {0, 1, 2, 3}
    assert order[36:] == [8] * 4


def test_latent_tokens_come_view_by_view_with_the_direction_of_their_view() -> None:
    layout = build(
        [*ring_views(90.0, 0.0, with_global=False), ViewSpec(4, *_global_fields())], None, "concat", tokens=3
    )
    assert [index // 3 for index in layout.gather] == [4] * 3 + [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    lon, lat, valid = layout.directions()
    assert not valid[:3].any()
    assert valid[3:].all()
    assert torch.rad2deg(lon[3:]).round().tolist() == [0.0] * 3 + [90.0] * 3 + [-180.0] * 3 + [-90.0] * 3
    assert not lat[3:].any()


def _global_fields() -> tuple[object, ...]:
    return ("equirectangular", 0.0, 0.0, 360.0, 180.0, 0.0, True, False)


def test_directions_are_those_of_the_token_centres() -> None:
    view = ViewSpec(0, "perspective", 170.0, 20.0, 80.0, 60.0)
    lon, lat, valid = build([view], (3, 5), "concat").directions()
    expected_lon, expected_lat = direction_to_lonlat(view_rays(view, 3, 5))
    torch.testing.assert_close(lon, expected_lon.flatten())
    torch.testing.assert_close(lat, expected_lat.flatten())
    assert valid.all()


def test_tokens_on_letterbox_bars_look_nowhere() -> None:
    lon, lat, valid = build([GLOBAL], (8, 8), "concat").directions()
    assert valid.view(8, 8)[2:6].all()
    assert not valid.view(8, 8)[[0, 1, 6, 7]].any()
    # Half the rows show the whole sphere: the first of them looks 22.5 degrees below the zenith.
    assert math.degrees(float(lat.view(8, 8)[2, 0])) == pytest.approx(67.5)
    assert math.degrees(float(lon.view(8, 8)[2, 0])) == pytest.approx(-157.5)


def test_unknown_stitching_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'stride_views'"):
        build(ring_views(90.0, 0.5), (4, 4), "stride_view")


def test_stride_views_without_overlap_is_refused() -> None:
    with pytest.raises(ConfigError, match="use stitching 'concat'"):
        build(ring_views(90.0, 0.0), (4, 4), "stride_views")
    with pytest.raises(ConfigError, match="overlap_ratio"):
        build([GLOBAL], (4, 4), "stride_views")


def test_stride_views_without_a_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="keeps no grid; use stitching 'concat'"):
        build(ring_views(90.0, 0.5), None, "stride_views", tokens=4)
