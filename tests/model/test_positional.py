from __future__ import annotations

import math

import pytest
import torch

from cora.errors import ConfigError
from cora.geometry.camera import project_to_view, view_rays
from cora.geometry.layouts import yaw_ring
from cora.geometry.sphere import direction_to_lonlat
from cora.model.positional import PanoramaPositionalEncoding

ENCODING = PanoramaPositionalEncoding(100)


def encode(lon_deg: float, lat_deg: float) -> torch.Tensor:
    return ENCODING(torch.tensor(math.radians(lon_deg)), torch.tensor(math.radians(lat_deg)))


def test_convention_first_components_are_the_direction() -> None:
    torch.testing.assert_close(encode(90.0, 0.0)[:3], torch.tensor([1.0, 0.0, 0.0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(encode(0.0, 0.0)[:3], torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(encode(0.0, 90.0)[:3], torch.tensor([0.0, 0.0, 1.0]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("lat_deg", [-70.0, 0.0, 33.0])
def test_it_closes_at_the_seam(lat_deg: float) -> None:
    lat = torch.tensor(math.radians(lat_deg), dtype=torch.float64)
    right, left = torch.tensor(math.pi, dtype=torch.float64), torch.tensor(-math.pi, dtype=torch.float64)
    torch.testing.assert_close(ENCODING(right, lat), ENCODING(left, lat), atol=1e-12, rtol=0)
    near = torch.tensor(math.pi - 1e-4, dtype=torch.float64)
    assert (ENCODING(near, lat) - ENCODING(-near, lat)).abs().max() < 32 * 2e-4 + 1e-9


@pytest.mark.parametrize("sign", [-1, 1])
def test_it_is_continuous_at_the_poles(sign: int) -> None:
    lon = torch.linspace(-math.pi, math.pi, 13, dtype=torch.float64)
    at_pole = ENCODING(lon, torch.full_like(lon, sign * math.pi / 2))
    torch.testing.assert_close(at_pole, at_pole[:1].expand_as(at_pole), atol=1e-12, rtol=0)
    near_pole = ENCODING(lon, torch.full_like(lon, sign * (math.pi / 2 - 1e-3)))
    assert (near_pole - at_pole).abs().max() < 0.05


def test_tokens_of_different_views_that_look_the_same_way_get_the_same_vector() -> None:
    first, second = yaw_ring(90.0, 0.5)[:2]
    rays = view_rays(first, 8, 8)
    x, y, visible = project_to_view(rays, second, 64, 64)
    assert visible.any()
    dense = view_rays(second, 64, 64)
    seen = dense[y[visible].long().clamp(max=63), x[visible].long().clamp(max=63)]
    difference = ENCODING(*direction_to_lonlat(rays[visible])) - ENCODING(*direction_to_lonlat(seen))
    # The nearest of 64 columns is up to a degree away; the highest frequency turns 32 times as fast.
    assert difference.abs().max() < 32 * math.radians(1.5)
    exact = ENCODING(*direction_to_lonlat(rays[visible])) - ENCODING(*direction_to_lonlat(rays[visible].clone()))
    assert not exact.any()


def test_neighbouring_tokens_differ() -> None:
    lon = torch.arange(64, dtype=torch.float64) * 2 * math.pi / 64
    vectors = ENCODING(lon, torch.zeros_like(lon))
    distances = torch.cdist(vectors, vectors) + 10 * torch.eye(64)
    assert distances.min() > 1.0


@pytest.mark.parametrize("dim", [3, 7, 24, 25, 100])
def test_any_width_is_filled(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    lon, lat = torch.rand(2, 5, 4, generator=generator)
    vectors = PanoramaPositionalEncoding(dim)(lon, lat)
    assert vectors.shape == (5, 4, dim)
    assert (vectors.abs().amax(dim=(0, 1)) > 0).all()


def test_it_has_no_parameters_and_no_state() -> None:
    assert not list(ENCODING.parameters())
    assert not ENCODING.state_dict()


def test_too_narrow_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 3"):
        PanoramaPositionalEncoding(2)
    with pytest.raises(ConfigError, match="num_frequencies"):
        PanoramaPositionalEncoding(8, num_frequencies=0)
