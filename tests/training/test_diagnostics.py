"""Measures of features: right where the answer is known, cheap, and a warning once when features collapse."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from cora.geometry.camera import view_rays
from cora.geometry.layouts import renumber, yaw_ring
from cora.training import diagnostics
from cora.training.diagnostics import FeatureDiagnostics, StageDiagnostics, effective_rank, linear_cka, spread
from cora.types import ViewSpec

GRID = (8, 8)
RING = yaw_ring(90.0, 0.5)
VIEWS = renumber([ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True, letterbox=True), *RING])


def directions(number: int = 1, views: list[ViewSpec] = VIEWS, grid: tuple[int, int] = GRID) -> Tensor:
    """Return tokens float[number, V, S, 3] that hold the direction they look in."""
    return torch.stack([view_rays(view, *grid).reshape(-1, 3) for view in views]).float().repeat(number, 1, 1, 1)


def measure(*batches: Tensor, grid: tuple[int, int] | None = GRID) -> dict[str, float]:
    measures = FeatureDiagnostics(VIEWS, grid)
    for batch in batches:
        measures.update(batch)
    return measures.compute()


def test_tokens_that_know_their_direction_find_their_partners() -> None:
    values = measure(directions(2))
    assert values["adj_cos"] > 0.999
    assert values["adj_mse"] < 1e-3
    assert values["adj_cka"] > 0.999
    assert values["overlap_ret_acc"] == 1.0
    assert values["hungarian_acc"] > 0.95


def test_random_tokens_find_them_by_chance() -> None:
    torch.manual_seed(0)
    values = measure(torch.randn(4, len(VIEWS), 64, 64))
    assert abs(values["adj_cos"]) < 0.05
    assert values["overlap_ret_acc"] < 0.15
    assert values["hungarian_acc"] < 0.15
    assert values["feat_std"] == pytest.approx(1.0, abs=0.05)
    assert values["spread"] == pytest.approx(1.0, abs=0.05)
    assert values["eff_rank"] > 50


def test_correspondences_are_those_of_the_rotation() -> None:
    """Tokens whose linearly shifted columns agree perfectly are not perfect."""
    grid = (24, 24)
    turn = 2 * torch.pi * (12 * torch.arange(len(RING))[:, None] + torch.arange(24)) / 96
    columns = torch.stack([turn.cos(), turn.sin()], dim=-1)[:, None].expand(-1, 24, -1, -1)
    rows = torch.linspace(-1, 1, 24).view(1, 24, 1, 1).expand(len(RING), 24, 24, 1)
    linear = torch.cat([columns, rows], dim=-1).flatten(1, 2)
    values = measure(torch.cat([torch.zeros(1, 576, 3), linear])[None], grid=grid)
    true = measure(directions(grid=grid), grid=grid)
    assert values["overlap_ret_acc"] < 0.6
    assert true["overlap_ret_acc"] == 1.0
    assert values["adj_mse"] > 100 * true["adj_mse"]


def test_broken_correspondence_shows() -> None:
    tokens = directions()
    crossed = tokens[:, [0, 5, 2, 3, 4, 1, 6, 7, 8]]
    assert measure(crossed)["adj_cos"] < 0.8
    assert measure(crossed)["overlap_ret_acc"] < 0.8


def test_views_of_a_panorama_are_told_from_those_of_others() -> None:
    torch.manual_seed(0)
    own = torch.randn(5, 1, 1, 32)
    assert measure(own + 0.1 * torch.randn(5, len(VIEWS), 64, 32))["view_hungarian_acc"] == 1.0
    assert measure(torch.randn(8, len(VIEWS), 64, 32))["view_hungarian_acc"] < 0.5
    assert "view_hungarian_acc" not in measure(torch.randn(1, len(VIEWS), 64, 32))


def test_batches_do_not_matter() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(6, len(VIEWS), 64, 16)
    assert measure(tokens) == pytest.approx(measure(*tokens.split([1, 3, 2])), rel=1e-4)


def test_tokens_without_places_have_no_overlap() -> None:
    values = measure(torch.randn(3, len(VIEWS), 5, 16), grid=None)
    assert set(values) == {"feat_std", "eff_rank", "spread", "view_hungarian_acc"}
    assert set(measure()) == set()


def test_cost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    views = yaw_ring(90, 0.5)
    measures = FeatureDiagnostics(views, (24, 24))
    assert {len(pair.source_index) for pair in measures.pairs} == {diagnostics.MAX_PAIR_TOKENS}
    monkeypatch.setattr(diagnostics, "MAX_PANORAMAS", 3)
    for _ in range(4):
        measures.update(torch.randn(2, len(views), 576, 8))
    assert measures.num_panoramas == 3
    assert sum(len(part) for part in measures._tokens) == 3
    assert measures._tokens[0].shape[1] == diagnostics.MAX_PANORAMA_TOKENS


def test_effective_rank() -> None:
    assert effective_rank(torch.ones(10, 4)) == 0.0
    line = torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-4)
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(corners) == pytest.approx(4.0)
    assert effective_rank(corners.T.repeat(1, 1)) == pytest.approx(effective_rank(corners.T + 5), rel=1e-3)
    # Singular values 2 and 1 around the mean: entropy of thirds.
    two = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    shares = (2 / 3, 1 / 3)
    assert effective_rank(two) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_spread() -> None:
    assert spread(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-6)
    assert spread(torch.cat([torch.eye(3), -torch.eye(3)])) == pytest.approx(1.0)
    assert spread(7 * torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(math.sqrt(0.5))


def test_linear_cka() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(30, 6, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    x, y = first - first.mean(0), second - second.mean(0)
    expected = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    torch.testing.assert_close(linear_cka(first, second), expected)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert float(linear_cka(first, 3 * first @ rotation + 1)) == pytest.approx(1.0)
    assert float(linear_cka(first, torch.ones_like(second))) == 0.0


def test_a_collapse_is_told_once_with_its_numbers(caplog: pytest.LogCaptureFixture) -> None:
    stage = StageDiagnostics("vision", {"latent": FeatureDiagnostics(VIEWS, GRID)})
    torch.manual_seed(0)
    alike = torch.ones(2, len(VIEWS), 64, 16) + 0.01 * torch.randn(2, len(VIEWS), 64, 16)
    with caplog.at_level(logging.WARNING):
        for tokens in (torch.randn(2, len(VIEWS), 64, 16), alike, alike):
            stage.reset()
            stage.update(latent=tokens, vision=tokens)
            values = stage.compute()
    (record,) = caplog.records
    assert "stage vision: the latent features have collapsed" in record.message
    assert f"spread {values['latent/spread']:.3g} (below 0.1)" in record.message
    assert f"effective rank {values['latent/eff_rank']:.3g} of 2 panoramas" in record.message


def test_a_line_is_a_collapse_too(caplog: pytest.LogCaptureFixture) -> None:
    stage = StageDiagnostics("vision", {"latent": FeatureDiagnostics(VIEWS, None)})
    stage.update(latent=torch.randn(2, len(VIEWS), 64, 1) * torch.ones(16))
    stage.compute()
    assert "effective rank 1 " in caplog.text
