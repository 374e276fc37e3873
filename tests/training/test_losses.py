"""Losses on true overlap: zero where they must be, sensitive to what they are about, with correct gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cora.errors import ConfigError
from cora.geometry.camera import view_rays
from cora.geometry.layouts import yaw_ring
from cora.training.losses import DenseCLLoss, PanoContrastiveLoss, VICRegLoss
from cora.training.losses.contrastive import symmetric_info_nce
from cora.training.losses.vicreg import covariance_term, variance_term
from cora.types import ViewSpec

GRID = (6, 6)
RING = yaw_ring(90.0, 0.5, vfov_deg=90.0)


def directions() -> Tensor:
    """Return tokens float[1, V, S, 3] that hold the world direction each of them looks in."""
    return torch.stack([view_rays(view, *GRID).reshape(-1, 3) for view in RING]).float()[None]


def test_tokens_that_know_their_direction_agree_with_their_neighbours() -> None:
    loss = VICRegLoss(RING, GRID, similarity_weight=1.0, variance_weight=0.0, covariance_weight=0.0)
    agreeing = loss(directions())
    # Sampling between tokens bends a field of unit vectors a little.
    assert agreeing < 2e-3
    rolled = directions().roll(1, dims=1)
    assert loss(rolled) == pytest.approx(float(agreeing), rel=1e-3)  # neighbours still differ by one step
    exchanged = directions()[:, torch.tensor([1, 0, *range(2, len(RING))])]
    assert loss(exchanged) > 50 * agreeing


def test_the_last_view_is_compared_with_the_first() -> None:
    loss = VICRegLoss(RING, GRID, similarity_weight=1.0, variance_weight=0.0, covariance_weight=0.0)
    tokens = directions().requires_grad_()
    pairs = [(pair.first, pair.second) for pair in loss.pairs]
    assert (len(RING) - 1, 0) in pairs
    assert len(pairs) == len(RING)
    (gradient,) = torch.autograd.grad(loss(tokens * 2 + 0.1 * torch.randn(tokens.shape)), tokens)
    assert (gradient.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_variance_term_is_the_shortfall_of_the_deviation() -> None:
    spread = torch.tensor([[2.0, 0.5], [-2.0, -0.5]])
    assert variance_term(spread, epsilon=0.0) == pytest.approx((0.0 + 0.5) / 2)
    assert variance_term(torch.ones(4, 3)) == pytest.approx(0.99, abs=1e-6)


def test_covariance_term_matches_its_definition() -> None:
    tokens = torch.randn(50, 4, dtype=torch.float64)
    matrix = torch.cov(tokens.T)
    expected = (matrix - torch.diag(matrix.diagonal())).square().sum() / 4
    torch.testing.assert_close(covariance_term(tokens), expected)


def test_collapse_is_punished() -> None:
    loss = VICRegLoss(RING, GRID)
    assert loss(torch.ones(2, len(RING), 36, 8)) == pytest.approx(25 * 0.99, rel=1e-3)


@pytest.mark.parametrize("mode", ["pairwise", "batchwise"])
def test_vicreg_modes_agree_on_similarity_and_differ_in_statistics(mode: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, len(RING), 36, 8)
    loss = VICRegLoss(RING, GRID, mode=mode)  # type: ignore[arg-type]
    matched = [(a.flatten(0, 1), b.flatten(0, 1)) for a, b in loss.matches(tokens)]
    if mode == "pairwise":
        expected = torch.stack([loss._terms(a, b) for a, b in matched]).mean()
    else:
        expected = loss._terms(torch.cat([a for a, _ in matched]), torch.cat([b for _, b in matched]))
    torch.testing.assert_close(loss(tokens), expected)


def test_info_nce_equals_a_loop() -> None:
    torch.manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1) for _ in range(2))
    logits = (first @ second.T / 0.1).tolist()
    total = 0.0
    for index in range(5):
        row = torch.tensor(logits[index], dtype=torch.float64)
        column = torch.tensor([logits[other][index] for other in range(5)], dtype=torch.float64)
        total += float(torch.logsumexp(row, 0) - row[index]) + float(torch.logsumexp(column, 0) - column[index])
    assert symmetric_info_nce(first, second, 0.1) == pytest.approx(total / 10)


@pytest.mark.parametrize("loss_type", [DenseCLLoss, PanoContrastiveLoss])
def test_contrastive_losses_prefer_true_matches(loss_type: type[DenseCLLoss]) -> None:
    loss = loss_type(RING, GRID)
    swapped = directions()[:, torch.tensor([1, 0, *range(2, len(RING))])]
    assert loss(directions()) < loss(swapped)


@pytest.mark.parametrize("loss_type", [VICRegLoss, DenseCLLoss, PanoContrastiveLoss])
def test_gradients(loss_type: type[DenseCLLoss], monkeypatch: pytest.MonkeyPatch) -> None:
    views = yaw_ring(150.0, 0.5, vfov_deg=90.0)
    loss = loss_type(views, (2, 2))
    # The losses compute in float32; here they must not, for finite differences.
    monkeypatch.setattr(Tensor, "float", lambda tensor: tensor)
    for pair in loss.pairs:
        object.__setattr__(pair, "target_xy", pair.target_xy.to(torch.float64))
    torch.manual_seed(3)
    tokens = torch.randn(2, len(views), 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (tokens,))


@pytest.mark.parametrize("loss_type", [VICRegLoss, DenseCLLoss, PanoContrastiveLoss])
def test_views_that_share_nothing_are_refused(loss_type: type[DenseCLLoss]) -> None:
    views = [ViewSpec(index, "perspective", yaw, 0, 60, 60, ring=0) for index, yaw in enumerate((-90.0, 90.0))]
    with pytest.raises(ConfigError, match="needs views that overlap physically"):
        loss_type(views, GRID)
