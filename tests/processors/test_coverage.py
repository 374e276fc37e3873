"""What the views of every strategy cover, and that their pictures show it: for any options, sizes and directions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cora.geometry.camera import content_mask, project_to_view, view_rays
from cora.geometry.layouts import rings
from cora.geometry.sampling import pixel_grid
from cora.geometry.sphere import lonlat_to_direction, pixel_to_lonlat
from cora.ops.erp_to_views import erp_to_views
from cora.ops.extension import extension_problem
from cora.processors.strategies import STRATEGIES, CropOptions
from cora.types import ViewSpec

SIZE = (24, 32)
IMPLEMENTATIONS = ["reference"] if extension_problem() else ["reference", "cpp"]

fovs = st.floats(20, 150)
overlaps = st.floats(0, 0.75)
yaws = st.one_of(st.floats(-180, 179.99), st.sampled_from([-180.0, -90.0, 0.0, 179.99]))
pitches = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 0.0]))


def views_of(name: str, **options: float) -> list[ViewSpec]:
    return list(STRATEGIES.get(name)(CropOptions(**options)))  # type: ignore[arg-type]


def directions(latitude_deg: float, count: int = 181) -> Tensor:
    lon = torch.linspace(-math.pi, math.pi, count, dtype=torch.float64)
    return lonlat_to_direction(lon, torch.full_like(lon, math.radians(latitude_deg)))


def times_seen(views: list[ViewSpec], rays: Tensor) -> Tensor:
    return torch.stack([project_to_view(rays, view, *SIZE)[2] for view in views]).sum(dim=0)


def direction_panorama(height: int, width: int) -> Tensor:
    """Return float64[H, W, 3] in 0 .. 255, the direction of every pixel."""
    return (lonlat_to_direction(*pixel_to_lonlat(*pixel_grid(height, width), height, width)) + 1) * 127.5


@pytest.mark.parametrize("name", sorted(STRATEGIES.names()))
@given(fov=fovs, overlap=overlaps)
@settings(max_examples=25, deadline=None)
def test_nothing_on_the_horizon_is_missed(name: str, fov: float, overlap: float) -> None:
    views = views_of(name, fov_deg=fov, overlap_ratio=overlap)
    assert int(times_seen(views, directions(0)).min()) >= 1


@pytest.mark.parametrize("name", ["anyres", "anyres_max", "anyres_e2p", "resize"])
@given(fov=fovs, overlap=overlaps, latitude=pitches)
@settings(max_examples=25, deadline=None)
def test_a_global_view_misses_nothing(name: str, fov: float, overlap: float, latitude: float) -> None:
    views = views_of(name, fov_deg=fov, overlap_ratio=overlap)
    assert views[0].is_global
    assert bool(project_to_view(directions(latitude), views[0], *SIZE)[2].all())


@pytest.mark.parametrize("name", ["e2p", "sliding_window", "anyres_e2p"])
@given(fov=fovs, overlap=overlaps)
@settings(max_examples=25, deadline=None)
def test_neighbours_overlap_as_asked(name: str, fov: float, overlap: float) -> None:
    """On the horizon neighbours share the part asked for of their width, also over the seam."""
    views = views_of(name, fov_deg=fov, overlap_ratio=overlap)
    assume(rings(views))
    for members in rings(views):
        step = 360 / len(members)
        for member, neighbour in zip(members, [*members[1:], members[0]], strict=True):
            view = views[member]
            assert view.hfov_deg - step >= overlap * view.hfov_deg - 1e-6
            middle = view.yaw_deg + step / 2
            lon = torch.tensor([math.radians(middle)], dtype=torch.float64)
            ray = lonlat_to_direction(lon, torch.zeros_like(lon))
            for each in (view, views[neighbour]):
                assert bool(project_to_view(ray, each, *SIZE)[2])


@given(fov=st.floats(30, 100), overlap=st.floats(0, 0.7), low=st.floats(-90, 40), height=st.floats(20, 130))
@settings(max_examples=25, deadline=None)
def test_rows_of_pitches_cover_their_band(fov: float, overlap: float, low: float, height: float) -> None:
    high = min(90.0, low + height)
    views = views_of("anyres_e2p", fov_deg=fov, overlap_ratio=overlap, pitch_min_deg=low, pitch_max_deg=high)[1:]
    assume(high - low >= fov)
    # In the middle columns of the views; between them a flat picture's edge bends towards the horizon.
    for view in views[: len(rings(views)[0])]:
        for latitude in torch.linspace(low + 1e-3, high - 1e-3, 9, dtype=torch.float64).tolist():
            lon = torch.tensor([math.radians(view.yaw_deg)], dtype=torch.float64)
            ray = lonlat_to_direction(lon, torch.full_like(lon, math.radians(latitude)))
            assert int(times_seen(views, ray)) >= 1


@pytest.mark.parametrize("name", sorted(STRATEGIES.names()))
@given(fov=st.floats(40, 120), overlap=st.sampled_from([0.0, 0.3, 0.5]), data=st.data())
@settings(max_examples=8, deadline=None)
def test_pictures_of_a_strategy_show_what_its_views_say(
    name: str, fov: float, overlap: float, data: st.DataObject
) -> None:
    """Every pixel of a panorama of directions shows its own ray: no flip, no shift, no seam, for any size."""
    size = data.draw(st.sampled_from([(1, 1), (7, 5), (16, 16)]))
    views = views_of(name, fov_deg=fov, overlap_ratio=overlap)
    pictures = erp_to_views(
        direction_panorama(200, 400), views, size=size, mean=(0.5,) * 3, std=(0.5,) * 3, dtype=torch.float64,
        antialias=False,
    )  # fmt: skip
    for view, picture in zip(views, pictures, strict=True):
        seen = content_mask(view, *size)
        difference = (picture.permute(1, 2, 0) - view_rays(view, *size)).abs()[seen]
        # A column of this panorama is 0.016.
        assert float(difference.max()) < 1e-3


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@given(
    yaw=yaws, pitch=pitches, roll=st.floats(-180, 180), hfov=st.floats(1, 170), vfov=st.floats(1, 170),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    panorama_size=st.sampled_from([(2, 3), (33, 64), (64, 128), (51, 101), (128, 256)]), antialias=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_perspective_view(
    impl: str, yaw: float, pitch: float, roll: float, hfov: float, vfov: float, size: tuple[int, int],
    panorama_size: tuple[int, int], antialias: bool,
) -> None:  # fmt: skip
    """The mean of what is seen stays within the panorama's colours, and implementations agree."""
    view = ViewSpec(0, "perspective", yaw, pitch, hfov, vfov, roll_deg=roll)
    generator = torch.Generator().manual_seed(size[0] * 41 + size[1])
    panorama = torch.randint(0, 256, (*panorama_size, 3), generator=generator, dtype=torch.uint8)
    options = {"size": size, "mean": (0.0,) * 3, "std": (1.0,) * 3, "antialias": antialias}
    picture = erp_to_views(panorama, [view], impl=impl, **options)[0]  # type: ignore[arg-type]
    assert bool(picture.isfinite().all())
    flat = panorama.flatten(0, 1) / 255
    for channel in range(3):
        assert float(picture[channel].min()) >= float(flat[:, channel].min()) - 1e-5
        assert float(picture[channel].max()) <= float(flat[:, channel].max()) + 1e-5
    expected = erp_to_views(panorama, [view], impl="reference", **options)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@given(yaw=yaws, pitch=pitches, fov=st.floats(20, 120), size=st.integers(1, 24))
@settings(max_examples=40, deadline=None)
def test_any_antialiased_view_looks_where_it_should(impl: str, yaw: float, pitch: float, fov: float, size: int) -> None:
    """On a smooth panorama a mean over a pixel is nearly the value at its centre: its own ray."""
    view = ViewSpec(0, "perspective", yaw, pitch, fov, fov)
    panorama = direction_panorama(180, 360).round().byte()
    picture = erp_to_views(panorama, [view], size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3, impl=impl)[0]  # type: ignore[arg-type]
    # The widest pixel of a flat picture is that of its middle.
    pixel = 2 * math.atan(math.tan(math.radians(fov) / 2) / size)
    difference = (picture.permute(1, 2, 0) - view_rays(view, size, size)).abs().max()
    # Curvature over the pixel, and the steps of eight bits.
    assert float(difference) < 0.012 + 0.25 * pixel**2
