from __future__ import annotations

import itertools

import pytest

from cora.errors import GeometryError
from cora.geometry.layouts import even_ring, kept_height_deg, pitch_rows, renumber, ring_size, rings, yaw_ring
from cora.geometry.sphere import wrap_yaw_deg


@pytest.mark.parametrize(
    ("hfov", "overlap", "count"),
    [(90, 0.5, 8), (90, 0, 4), (45, 0, 8), (60, 0, 6), (30, 0, 12), (45, 0.25, 11), (90, 0.9, 40), (360, 0, 1)],
)
def test_convention_ring_size(hfov: float, overlap: float, count: int) -> None:
    assert ring_size(hfov, overlap) == count


def test_convention_ring_order_starts_at_yaw_0_and_goes_right() -> None:
    ring = yaw_ring(90, 0.5, ring=3, first_index=1)
    assert [view.yaw_deg for view in ring] == [0, 45, 90, 135, -180, -135, -90, -45]
    assert [view.index for view in ring] == list(range(1, 9))
    assert {view.ring for view in ring} == {3}
    assert {(view.hfov_deg, view.vfov_deg, view.pitch_deg) for view in ring} == {(90, 90, 0)}


@pytest.mark.parametrize(("hfov", "overlap"), [(90, 0.5), (45, 0.25), (77, 0.1), (120, 0.7)])
def test_rings_close_in_equal_steps_with_the_overlap_asked_for(hfov: float, overlap: float) -> None:
    yaws = [view.yaw_deg for view in yaw_ring(hfov, overlap)]
    steps = [wrap_yaw_deg(after - before) for before, after in zip(yaws, [*yaws[1:], yaws[0]], strict=True)]
    assert steps == pytest.approx([360 / len(yaws)] * len(yaws))
    assert 1 - steps[0] / hfov >= overlap - 1e-9


def test_a_single_view_is_no_ring() -> None:
    assert even_ring(1, 90, 60)[0].ring is None
    assert even_ring(0, 90, 60) == []
    assert yaw_ring(360, 0, projection="equirectangular", vfov_deg=150)[0].ring is None


@pytest.mark.parametrize(
    ("limits", "rows"),
    [
        ((0, 0), [0]),
        ((20, 20), [20]),
        ((-45, 45), [0]),
        ((-30, 30), [0]),
        ((-90, 90), [-45, 0, 45]),
        ((-90, 45), [-45, 0]),
    ],
)
def test_pitch_rows_of_90_degree_views_at_half_overlap(limits: tuple[float, float], rows: list[float]) -> None:
    assert pitch_rows(*limits, 90, 0.5) == pytest.approx(rows)


def test_pitch_rows_cover_the_band_without_leaving_it() -> None:
    rows = pitch_rows(-80, 70, 50, 0.2)
    assert rows[0] - 25 == pytest.approx(-80)
    assert rows[-1] + 25 == pytest.approx(70)
    gaps = [high - low for low, high in itertools.pairwise(rows)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))
    assert gaps[0] <= 40


def test_rings_lists_members_in_order_and_leaves_single_views_out() -> None:
    views = renumber([*even_ring(1, 90, 90), *yaw_ring(90, 0, ring=1), *yaw_ring(120, 0, ring=0)])
    assert [view.index for view in views] == list(range(8))
    assert rings(views) == [[5, 6, 7], [1, 2, 3, 4]]


def test_convention_kept_height_is_measured_on_the_picture_plane() -> None:
    assert kept_height_deg(90, 0.9) == pytest.approx(83.974, abs=1e-3)
    assert kept_height_deg(90, 1) == pytest.approx(90)


@pytest.mark.parametrize(("hfov", "overlap"), [(0, 0), (-5, 0), (361, 0), (90, 1), (90, -0.1), (float("nan"), 0)])
def test_impossible_rings_are_refused(hfov: float, overlap: float) -> None:
    with pytest.raises(GeometryError):
        yaw_ring(hfov, overlap)


@pytest.mark.parametrize("limits", [(10, -10), (-91, 0), (0, 91)])
def test_impossible_pitch_limits_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(GeometryError, match="pitch_min_deg"):
        pitch_rows(*limits, 90, 0.5)
