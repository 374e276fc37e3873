from __future__ import annotations

import itertools
from typing import Any

import pytest

from cora.errors import GeometryError, RegistryError
from cora.geometry.camera import check_view
from cora.geometry.layouts import rings
from cora.geometry.sphere import wrap_yaw_deg
from cora.processors.strategies import STRATEGIES, CropOptions
from cora.types import ViewSpec

ALL = ["anyres", "anyres_e2p", "anyres_max", "cubemap", "e2p", "resize", "sliding_window"]
EIGHT_YAWS = [0, 45, 90, 135, -180, -135, -90, -45]


def views_of(strategy: str, **options: Any) -> list[ViewSpec]:
    return STRATEGIES.get(strategy)(CropOptions(**options))


def sees(view: ViewSpec) -> tuple[Any, ...]:
    return view.projection, view.yaw_deg, view.pitch_deg, view.hfov_deg, view.vfov_deg


def test_the_registry_holds_all_strategies_and_suggests_names() -> None:
    assert STRATEGIES.names() == ALL
    with pytest.raises(RegistryError, match="did you mean 'cubemap'"):
        STRATEGIES.get("cube_map")


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("max_patches", [1, 2, 3, 4, 9, 20])
@pytest.mark.parametrize(("fov", "overlap"), [(90, 0.5), (45, 0.25), (120, 0)])
def test_every_layout_is_sound(strategy: str, max_patches: int, fov: float, overlap: float) -> None:
    views = views_of(strategy, fov_deg=fov, overlap_ratio=overlap, max_patches=max_patches)
    assert [view.index for view in views] == list(range(len(views)))
    assert not any(view.is_global or view.letterbox for view in views[1:])
    assert len({sees(view) for view in views}) == len(views), "a view is repeated"
    for view in views:
        check_view(view)
    for members in rings(views):
        assert len(members) > 1
        assert len({sees(views[member])[2:] for member in members}) == 1
        yaws = [views[member].yaw_deg for member in members]
        assert yaws == sorted(yaws, key=lambda yaw: yaw % 360)
        steps = [wrap_yaw_deg(after - before) % 360 for before, after in itertools.pairwise([*yaws, yaws[0]])]
        assert steps == pytest.approx([360 / len(members)] * len(members))


def test_e2p() -> None:
    views = views_of("e2p")
    assert [view.yaw_deg for view in views] == EIGHT_YAWS
    assert {(view.projection, view.pitch_deg, view.hfov_deg, view.ring) for view in views} == {
        ("perspective", 0, 90, 0)
    }
    assert views[0].vfov_deg == pytest.approx(83.974, abs=1e-3)
    assert not views[0].is_global


def test_convention_the_yaw_of_a_view_is_its_centre() -> None:
    views = views_of("sliding_window")
    assert [view.yaw_deg for view in views] == EIGHT_YAWS
    assert {sees(view)[:1] + sees(view)[2:] for view in views} == {("equirectangular", 0, 90, 150)}
    assert rings(views) == [list(range(8))]


def test_cubemap_is_front_right_back_left() -> None:
    views = views_of("cubemap", fov_deg=60, overlap_ratio=0.3)
    assert [sees(view) for view in views] == [("perspective", yaw, 0, 90, 90) for yaw in (0, 90, -180, -90)]
    assert rings(views) == [[0, 1, 2, 3]]


def test_anyres_e2p_has_a_letterboxed_global_view_and_a_ring() -> None:
    views = views_of("anyres_e2p")
    assert sees(views[0]) == ("equirectangular", 0, 0, 360, 180)
    assert (views[0].is_global, views[0].letterbox, views[0].ring) == (True, True, None)
    assert [sees(view) for view in views[1:]] == [("perspective", yaw, 0, 90, 90) for yaw in EIGHT_YAWS]
    assert rings(views) == [list(range(1, 9))]


@pytest.mark.parametrize(
    ("fov", "overlap", "count"), [(45, 0, 8), (60, 0, 6), (90, 0, 4), (30, 0, 12), (45, 0.25, 11), (90, 0.5, 8)]
)
def test_anyres_e2p_counts(fov: float, overlap: float, count: int) -> None:
    views = views_of("anyres_e2p", fov_deg=fov, overlap_ratio=overlap)
    assert len(views) == 1 + count
    assert views[1].yaw_deg == 0


def test_anyres_e2p_rows_are_rings_of_their_own() -> None:
    views = views_of("anyres_e2p", pitch_min_deg=-90, pitch_max_deg=90)
    assert [view.pitch_deg for view in views[1::8]] == [-45, 0, 45]
    assert rings(views) == [list(range(1, 9)), list(range(9, 17)), list(range(17, 25))]
    wide = views_of("anyres_e2p", fov_deg=120, pitch_min_deg=-45, pitch_max_deg=45)
    assert {view.pitch_deg for view in wide} == {0}


def test_anyres_9() -> None:
    views = views_of("anyres", max_patches=9)
    assert (views[0].is_global, views[0].letterbox) == (True, False)
    quarters = [0, 90, -180, -90]
    assert [sees(view) for view in views[1:5]] == [("equirectangular", yaw, 0, 90, 90) for yaw in quarters]
    assert [sees(view) for view in views[5:9]] == [("equirectangular", yaw, 0, 90, 180) for yaw in quarters]
    assert views[9].projection == "perspective"
    assert views[9].vfov_deg == pytest.approx(77.32, abs=0.01)
    assert views[9].ring is None


def test_anyres_max_9() -> None:
    views = views_of("anyres_max", max_patches=9)
    assert [sees(view) for view in views[1:9]] == [
        ("equirectangular", yaw, pitch, 90, 90) for pitch in (45, -45) for yaw in (0, 90, -180, -90)
    ]
    assert sees(views[9]) == ("perspective", 0, 0, 90, 90)
    assert rings(views) == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("max_patches", range(1, 30))
@pytest.mark.parametrize("strategy", ["anyres", "anyres_max"])
def test_anyres_views_are_exactly_one_more_than_the_patches(strategy: str, max_patches: int) -> None:
    assert len(views_of(strategy, max_patches=max_patches)) == 1 + max_patches


def test_resize_is_one_squashed_view() -> None:
    (view,) = views_of("resize")
    assert (view.is_global, view.letterbox, view.ring) == (True, False, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fov_deg": 0}, "fov_deg.*got 0"),
        ({"fov_deg": -90}, "fov_deg"),
        ({"fov_deg": 400}, "fov_deg"),
        ({"overlap_ratio": 1.0}, "overlap_ratio.*got 1"),
        ({"overlap_ratio": -0.5}, "overlap_ratio"),
        ({"max_patches": 0}, "max_patches.*got 0"),
        ({"pitch_min_deg": 10, "pitch_max_deg": 0}, "pitch_min_deg"),
        ({"pitch_max_deg": 95}, "pitch_max_deg"),
        ({"fov_deg": float("nan")}, "fov_deg"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        CropOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["e2p", "anyres", "anyres_max", "anyres_e2p"])
def test_perspective_views_are_below_180_degrees(strategy: str) -> None:
    with pytest.raises(GeometryError, match=f"'{strategy}' is below 180, got 180"):
        views_of(strategy, fov_deg=180)


def test_wide_rectangles_are_fine() -> None:
    assert len(views_of("sliding_window", fov_deg=180, overlap_ratio=0.5)) == 4
