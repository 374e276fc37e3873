from __future__ import annotations

import math

import pytest
import torch

from cora.geometry.sphere import (
    direction_to_lonlat,
    lonlat_to_direction,
    lonlat_to_pixel,
    pixel_to_lonlat,
    wrap_longitude,
    wrap_yaw_deg,
)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_convention_longitude_grows_to_the_right_and_latitude_up() -> None:
    rays = torch.tensor([[0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=torch.float64)
    lon, lat = direction_to_lonlat(rays)
    half_pi = math.pi / 2
    assert lon[:3].tolist() == pytest.approx([0, half_pi, -half_pi])
    assert lat.tolist() == pytest.approx([0, 0, 0, half_pi, -half_pi])


def test_convention_pixel_centres_are_at_half_integers() -> None:
    x, y = lonlat_to_pixel(double(0, -math.pi), double(0, math.pi / 2), 4, 8)
    assert (x.tolist(), y.tolist()) == (pytest.approx([4.0, 0.0]), pytest.approx([2.0, 0.0]))
    lon, lat = pixel_to_lonlat(double(0.5), double(0.5), 4, 8)
    assert math.degrees(lon.item()) == pytest.approx(-157.5)
    assert math.degrees(lat.item()) == pytest.approx(67.5)


def test_convention_longitude_range_is_half_open() -> None:
    assert wrap_longitude(double(math.pi, -math.pi, 1.5 * math.pi)).tolist() == pytest.approx(
        [-math.pi, -math.pi, -0.5 * math.pi]
    )
    assert [wrap_yaw_deg(yaw) for yaw in (180, -180, 270, 540, 0, 359.5)] == [-180, -180, -90, -180, 0, -0.5]


def test_wrapped_yaw_never_reaches_the_excluded_end() -> None:
    assert wrap_yaw_deg(-180 - 1e-14) == -180.0


def test_directions_and_angles_are_inverse_near_the_poles_too() -> None:
    lon, lat = torch.meshgrid(
        torch.linspace(-3.1, 3.1, 13, dtype=torch.float64), double(-1.5707, -1, 0, 0.3, 1.570796), indexing="ij"
    )
    rays = lonlat_to_direction(lon, lat)
    again = direction_to_lonlat(rays)
    torch.testing.assert_close(torch.linalg.vector_norm(rays, dim=-1), torch.ones_like(lon))
    torch.testing.assert_close(again[0], lon)
    torch.testing.assert_close(again[1], lat, rtol=0, atol=1e-12)


def test_directions_need_no_unit_length() -> None:
    assert direction_to_lonlat(double(0, 3, 3))[1].item() == pytest.approx(math.pi / 4)


def test_pixels_and_angles_are_inverse() -> None:
    x, y = double(0, 0.5, 7.25, 1000), double(0, 1.5, 333, 500)
    again = lonlat_to_pixel(*pixel_to_lonlat(x, y, 500, 1000), 500, 1000)
    torch.testing.assert_close(again[0], x)
    torch.testing.assert_close(again[1], y)
