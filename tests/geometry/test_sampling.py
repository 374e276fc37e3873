from __future__ import annotations

import math

import numpy as np
import py360convert
import pytest
import torch

from cora.geometry.camera import view_rays
from cora.geometry.sampling import (
    bilinear_taps,
    panorama_coordinates,
    pixel_angles,
    pixel_grid,
    sample_bilinear,
)
from cora.geometry.sphere import direction_to_lonlat, lonlat_to_direction, lonlat_to_pixel, pixel_to_lonlat
from cora.types import ViewSpec

HEIGHT, WIDTH = 128, 256


def perspective(yaw: float, pitch: float, hfov: float = 90, vfov: float = 90, roll: float = 0) -> ViewSpec:
    return ViewSpec(0, "perspective", yaw, pitch, hfov, vfov, roll_deg=roll)


def smooth_panorama(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Return float64[H, W, 3], the directions of the pixels: smooth on the whole sphere, seam and poles included."""
    return lonlat_to_direction(*pixel_to_lonlat(*pixel_grid(height, width), height, width))


def test_convention_columns_wrap() -> None:
    panorama = torch.arange(8.0).repeat(4, 1)[..., None]
    x, y = torch.tensor([0.0, 8.0, 0.5, 8.5, -0.5]), torch.full((5,), 1.5)
    assert sample_bilinear(panorama, x, y).squeeze(-1).tolist() == pytest.approx([3.5, 3.5, 0, 0, 7])


def test_convention_over_a_pole_the_column_moves_by_half_the_width() -> None:
    panorama = torch.arange(32.0).view(4, 8, 1)
    # Between row 0 and the row above it, at column centre 1: half of (0, 1) and half of (0, 5).
    x, y = torch.tensor([1.5, 1.5]), torch.tensor([0.0, 4.0])
    assert sample_bilinear(panorama, x, y).squeeze(-1).tolist() == pytest.approx([(1 + 5) / 2, (25 + 29) / 2])
    indices, weights = bilinear_taps(torch.tensor([1.5]), torch.tensor([0.0]), 4, 8)
    assert {index for index, weight in zip(indices[0].tolist(), weights[0].tolist(), strict=True) if weight} == {1, 5}


def test_pixel_centres_are_hit_exactly_and_weights_sum_to_one() -> None:
    panorama = torch.rand(6, 12, 3, dtype=torch.float64)
    x, y = pixel_grid(6, 12)
    torch.testing.assert_close(sample_bilinear(panorama, x, y), panorama)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 500, generator=generator, dtype=torch.float64) * torch.tensor([[12.0], [6.0]])
    indices, weights = bilinear_taps(x, y, 6, 12)
    assert int(indices.min()) >= 0
    assert int(indices.max()) < 72
    torch.testing.assert_close(weights.sum(-1), torch.ones(500, dtype=torch.float64))


def test_heights_and_widths_can_differ_by_position() -> None:
    x, y = torch.tensor([0.2, 3.9]), torch.tensor([0.1, 1.9])
    indices, weights = bilinear_taps(x, y, torch.tensor([4, 2]), torch.tensor([8, 4]))
    for number, (height, width) in enumerate([(4, 8), (2, 4)]):
        alone = bilinear_taps(x[number], y[number], height, width)
        torch.testing.assert_close(indices[number], alone[0])
        torch.testing.assert_close(weights[number], alone[1])


def test_coordinates_of_the_whole_sphere_are_its_pixels() -> None:
    sphere = ViewSpec(0, "equirectangular", 0, 0, 360, 180)
    x, y = panorama_coordinates(sphere, 5, 10, panorama_height=5, panorama_width=10)
    expected = pixel_grid(5, 10)
    torch.testing.assert_close(x, expected[0])
    torch.testing.assert_close(y, expected[1])


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"),
    [(0, 0, 0), (37, 0, 0), (180, 0, 0), (-170, 20, 0), (60, 90, 0), (-20, -90, 0), (10, 75, 0), (45, -30, 35)],
)
@pytest.mark.parametrize("fov", [(90, 90), (100, 60)])
def test_convention_same_directions_as_py360convert(
    yaw: float, pitch: float, roll: float, fov: tuple[float, float]
) -> None:
    height, width = 33, 48
    # py360convert puts the outermost pixel centres on the edge of the field of view; ours lie half a pixel inside.
    ours = [
        math.degrees(2 * math.atan(math.tan(math.radians(angle) / 2) * count / (count - 1)))
        for angle, count in zip(fov, (width, height), strict=True)
    ]
    panorama = smooth_panorama()
    x, y = panorama_coordinates(
        perspective(yaw, pitch, *ours, roll=roll), height, width, panorama_height=HEIGHT, panorama_width=WIDTH
    )
    expected = py360convert.e2p(panorama.numpy(), fov, yaw, pitch, (height, width), in_rot_deg=roll, mode="bilinear")
    difference = np.abs(sample_bilinear(panorama, x, y).numpy() - expected)
    # A turn by one panorama pixel would show as 0.025; the poles are where the two could part.
    assert difference.max() < 2e-3


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (180, 0), (90, 88), (-45, -90)])
def test_views_of_a_panorama_of_directions_show_their_own_rays(yaw: float, pitch: float) -> None:
    spec = perspective(yaw, pitch)
    x, y = panorama_coordinates(spec, 40, 40, panorama_height=HEIGHT, panorama_width=WIDTH)
    seen = sample_bilinear(smooth_panorama(), x, y)
    torch.testing.assert_close(seen, view_rays(spec, 40, 40), rtol=0, atol=5e-4)


def test_convention_angle_of_a_pixel() -> None:
    # Straight ahead, one of 180 view pixels over 90 degrees sees 2 / 180 of a radian.
    along_y, along_x = pixel_angles(perspective(25, 0), 181, 181)
    assert along_x[90, 90].item() == pytest.approx(2 / 181, rel=1e-6)
    assert along_y[90, 90].item() == pytest.approx(2 / 181, rel=1e-6)
    # At 45 degrees to the side, a step outwards sees the square of the cosine of that, a step down the cosine.
    assert along_x[90, 180].item() == pytest.approx(2 / 181 * 0.5, rel=0.02)
    assert along_y[90, 180].item() == pytest.approx(2 / 181 * 0.5**0.5, rel=0.02)


def test_angles_do_not_depend_on_where_the_view_looks() -> None:
    for ahead, up in zip(
        pixel_angles(perspective(0, 0, 90, 60), 16, 5), pixel_angles(perspective(120, 90, 90, 60), 16, 5), strict=True
    ):
        torch.testing.assert_close(ahead, up, rtol=1e-7, atol=0)


def test_angles_of_a_rectangle_are_those_of_its_plane() -> None:
    along_y, along_x = pixel_angles(ViewSpec(0, "equirectangular", 30, 60, 90, 60), 6, 3)
    assert along_y.unique().tolist() == [pytest.approx(math.radians(10))]
    assert along_x.unique().tolist() == [pytest.approx(math.radians(30))]


def test_coordinates_land_in_the_panorama() -> None:
    for pitch in (-90, -60, 0, 60, 90):
        spec = perspective(180, pitch, 120, 120)
        x, y = panorama_coordinates(spec, 64, 64, panorama_height=HEIGHT, panorama_width=WIDTH)
        lon, lat = direction_to_lonlat(view_rays(spec, 64, 64))
        torch.testing.assert_close((x, y), lonlat_to_pixel(lon, lat, HEIGHT, WIDTH))
        assert float(x.min()) >= 0
        assert float(x.max()) <= WIDTH
        assert float(y.min()) >= 0
        assert float(y.max()) <= HEIGHT
