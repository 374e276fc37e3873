from __future__ import annotations

import math

import pytest
import torch

from cora.errors import GeometryError
from cora.geometry.camera import (
    check_view,
    content_box,
    content_mask,
    project_to_view,
    rays_at,
    rotation_matrix,
    view_rays,
)
from cora.geometry.sphere import direction_to_lonlat
from cora.types import Projection, ViewSpec


def view(
    projection: Projection = "perspective",
    yaw: float = 0,
    pitch: float = 0,
    hfov: float = 90,
    vfov: float = 90,
    roll: float = 0,
    letterbox: bool = False,
) -> ViewSpec:
    return ViewSpec(0, projection, yaw, pitch, hfov, vfov, roll_deg=roll, letterbox=letterbox)


def turned(yaw_deg: float, pitch_deg: float, roll_deg: float, ray: tuple[float, float, float]) -> list[float]:
    rotation = rotation_matrix(math.radians(yaw_deg), math.radians(pitch_deg), math.radians(roll_deg))
    return (rotation @ torch.tensor(ray, dtype=torch.float64)).tolist()


def test_convention_yaw_turns_right_pitch_up_roll_clockwise() -> None:
    forward, up = (0, 0, 1), (0, 1, 0)
    assert turned(90, 0, 0, forward) == pytest.approx([1, 0, 0])
    assert turned(0, 90, 0, forward) == pytest.approx([0, 1, 0])
    assert turned(0, 0, 90, up) == pytest.approx([1, 0, 0])


def test_convention_roll_then_pitch_then_yaw() -> None:
    assert turned(90, 45, 0, (0, 0, 1)) == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), 0])
    assert turned(30, 20, 77, (0, 0, 1)) == pytest.approx(turned(30, 20, 0, (0, 0, 1)))


def test_convention_perspective_view_is_gnomonic() -> None:
    rays = view_rays(view(), 2, 4)
    # Column centres of a 90 degree view lie at -0.75, -0.25, 0.25, 0.75 of the half width tan(45 degrees) = 1.
    torch.testing.assert_close((rays[..., 0] / rays[..., 2])[0], torch.tensor([-0.75, -0.25, 0.25, 0.75]).double())
    torch.testing.assert_close((rays[..., 1] / rays[..., 2])[:, 0], torch.tensor([0.5, -0.5]).double())


def test_convention_equirectangular_view_is_linear_in_angles() -> None:
    lon, lat = direction_to_lonlat(view_rays(view("equirectangular", yaw=30, pitch=10, hfov=40, vfov=20), 2, 4))
    torch.testing.assert_close(torch.rad2deg(lon[0]), torch.tensor([15, 25, 35, 45]).double())
    torch.testing.assert_close(torch.rad2deg(lat[:, 0]), torch.tensor([15, 5]).double())


def test_convention_letterbox_keeps_degrees_square_and_centres() -> None:
    sphere = view("equirectangular", hfov=360, vfov=180, letterbox=True)
    assert content_box(sphere, 224, 224) == (56, 0, 112, 224)
    assert content_box(sphere, 100, 400) == (0, 100, 100, 200)
    assert content_box(sphere, 9, 9) == (2, 0, 4, 9)
    assert content_box(view("equirectangular", hfov=360, vfov=180), 224, 224) == (0, 0, 224, 224)
    mask = content_mask(sphere, 8, 8)
    assert mask[:, 0].tolist() == [False, False, True, True, True, True, False, False]


def test_letterboxed_rays_are_those_of_the_content_alone() -> None:
    boxed = view("equirectangular", hfov=360, vfov=180, letterbox=True)
    plain = view("equirectangular", hfov=360, vfov=180)
    torch.testing.assert_close(view_rays(boxed, 16, 16)[4:12], view_rays(plain, 8, 16))


@pytest.mark.parametrize(
    "spec",
    [
        view(yaw=170, pitch=-35, hfov=100, vfov=60, roll=25),
        view(pitch=90),
        view(yaw=-120, pitch=-90, hfov=20, vfov=30),
        view("equirectangular", yaw=-175, pitch=15, hfov=90, vfov=120),
        view("equirectangular", hfov=360, vfov=180, letterbox=True),
    ],
)
def test_projection_inverts_rays(spec: ViewSpec) -> None:
    height, width = 24, 31
    mask = content_mask(spec, height, width)
    x, y, visible = project_to_view(view_rays(spec, height, width), spec, height, width)
    assert visible[mask].all()
    expected_y, expected_x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    torch.testing.assert_close(x[mask], expected_x[mask].double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(y[mask], expected_y[mask].double(), rtol=0, atol=1e-8)


def test_rays_outside_or_behind_are_invisible() -> None:
    rays = torch.tensor([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0.99, 0, 1], [1.01, 0, 1], [0, 1.01, 1]])
    assert project_to_view(rays, view(), 8, 8)[2].tolist() == [True, False, False, True, False, False]
    strip = view("equirectangular", hfov=90, vfov=90)
    assert project_to_view(rays, strip, 8, 8)[2].tolist() == [True, False, False, True, False, False]


def test_edge_rays_are_visible() -> None:
    spec = view(yaw=33, pitch=12, hfov=70)
    corners = rays_at(spec, torch.tensor([0.0, 8.0]), torch.tensor([0.0, 8.0]), 8, 8)
    assert project_to_view(corners, spec, 8, 8)[2].all()


def test_dtype_is_honoured() -> None:
    assert view_rays(view(), 2, 2, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (view(hfov=180), "hfov_deg.*below 180"),
        (view(vfov=0), "vfov_deg.*above 0"),
        (view(hfov=float("nan")), "hfov_deg"),
        (view("equirectangular", hfov=361), "hfov_deg.*at most 360"),
        (view("equirectangular", vfov=181), "vfov_deg.*at most 180"),
        (view(pitch=91), "pitch_deg"),
        (view("equirectangular", roll=5), "roll_deg 5"),
    ],
)
def test_impossible_views_are_refused(spec: ViewSpec, words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        check_view(spec)
