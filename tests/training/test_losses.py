"""Losses on true overlap: equal to formulas written down apart, least for true matches, with correct gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cora.errors import ConfigError
from cora.geometry.camera import project_to_view, view_rays
from cora.geometry.layouts import renumber, yaw_ring
from cora.training.losses import DenseCLLoss, GlobalLocalLoss, PanoContrastiveLoss, VICRegLoss
from cora.training.losses.contrastive import symmetric_info_nce
from cora.training.losses.overlap import OverlapLoss, matched_pairs
from cora.training.losses.vicreg import covariance_term, variance_term
from cora.types import ViewSpec

GRID = (6, 6)
RING = yaw_ring(90.0, 0.5, vfov_deg=90.0)
LOSSES: list[type[Any]] = [VICRegLoss, DenseCLLoss, PanoContrastiveLoss]
WHOLE = ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True, letterbox=True)


def directions(views: list[ViewSpec] = RING, grid: tuple[int, int] = GRID) -> Tensor:
    """Return tokens float[1, V, S, 3] that hold the world direction each of them looks in."""
    return torch.stack([view_rays(view, *grid).reshape(-1, 3) for view in views]).float()[None]


def loop_matches(tokens: Tensor, views: list[ViewSpec] = RING, grid: tuple[int, int] = GRID) -> list[tuple]:
    """Return the matches (float[N, D], float[N, D]) of each pair of neighbours of float[V, S, D], token by token."""
    height, width = grid
    found = []
    for first in range(len(views)):
        second = (first + 1) % len(views)
        x, y, seen = project_to_view(view_rays(views[first], *grid), views[second], *grid)
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for row, column in seen.nonzero().tolist():
            at_x = min(max(float(x[row, column]) - 0.5, 0), width - 1)
            at_y = min(max(float(y[row, column]) - 0.5, 0), height - 1)
            total = torch.zeros(tokens.shape[-1], dtype=tokens.dtype)
            for r in range(height):
                for c in range(width):
                    weight = max(0.0, 1 - abs(at_y - r)) * max(0.0, 1 - abs(at_x - c))
                    total = total + weight * tokens[second, r * width + c]
            sides[0].append(tokens[first, row * width + column])
            sides[1].append(total)
        found.append((torch.stack(sides[0]), torch.stack(sides[1])))
    return found


def loop_vicreg_terms(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """Return similarity, variance and covariance of float[N, D] by their definitions, component by component."""
    number, width = first.shape
    similarity = sum(float((first[i, j] - second[i, j]) ** 2) for i in range(number) for j in range(width))
    variance = covariance = 0.0
    for side in (first, second):
        mean = [float(side[:, j].mean()) for j in range(width)]
        for j in range(width):
            deviation = math.sqrt(sum((float(value) - mean[j]) ** 2 for value in side[:, j]) / number + 1e-4)
            variance += max(0.0, 1 - deviation) / width / 2
            for k in range(width):
                if j != k:
                    shared = sum((float(row[j]) - mean[j]) * (float(row[k]) - mean[k]) for row in side)
                    covariance += (shared / (number - 1)) ** 2 / width / 2
    return similarity / (number * width), variance, covariance


def loop_info_nce(queries: Tensor, keys: Tensor, temperature: float) -> float:
    """Return symmetric InfoNCE of float[N, D] whose rows match, logit by logit."""
    number = len(queries)

    def logit(i: int, j: int) -> float:
        return float(torch.dot(queries[i], keys[j]) / (queries[i].norm() * keys[j].norm())) / temperature

    total = 0.0
    for i in range(number):
        total += math.log(sum(math.exp(logit(i, j)) for j in range(number))) - logit(i, i)
        total += math.log(sum(math.exp(logit(j, i)) for j in range(number))) - logit(i, i)
    return total / (2 * number)


def test_matches_are_those_of_a_loop() -> None:
    tokens = torch.randn(len(RING), 36, 4, dtype=torch.float64)
    found = list(DenseCLLoss(RING, GRID).matches(tokens[None]))
    for (first, second), (own, other) in zip(found, loop_matches(tokens), strict=True):
        torch.testing.assert_close(first[0], own)
        torch.testing.assert_close(second[0], other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["pairwise", "batchwise"])
def test_vicreg_is_its_definition(mode: Any) -> None:
    torch.manual_seed(0)
    views, grid = yaw_ring(150.0, 0.5, vfov_deg=90.0), (2, 3)
    tokens = 0.5 * torch.randn(2, len(views), 6, 3, dtype=torch.float64)
    matched = [loop_matches(panorama, views, grid) for panorama in tokens]
    if mode == "pairwise":
        parts = [loop_vicreg_terms(*sides) for panorama in matched for sides in panorama]
    else:
        joined = [torch.cat([sides[i] for panorama in matched for sides in panorama]) for i in range(2)]
        parts = [loop_vicreg_terms(*joined)]
    expected = sum(3 * s + 5 * v + 7 * c for s, v, c in parts) / len(parts)
    loss = VICRegLoss(views, grid, similarity_weight=3.0, variance_weight=5.0, covariance_weight=7.0, mode=mode)
    assert float(loss(tokens)) == pytest.approx(expected, rel=1e-5)


def test_contrastive_losses_are_their_definitions() -> None:
    torch.manual_seed(0)
    views, grid = yaw_ring(150.0, 0.5, vfov_deg=90.0), (2, 3)
    tokens, other = torch.randn(2, 2, len(views), 6, 4, dtype=torch.float64)
    own = [loop_matches(panorama, views, grid) for panorama in tokens]
    others = [loop_matches(panorama, views, grid) for panorama in other]
    pairs = range(len(views))

    def joined(panoramas: list[list[tuple]], pair: int, side: int) -> Tensor:
        return torch.cat([panorama[pair][side] for panorama in panoramas])

    dense = sum(loop_info_nce(joined(own, p, 0), joined(own, p, 1), 0.3) for p in pairs) / len(views)
    assert float(DenseCLLoss(views, grid, temperature=0.3)(tokens)) == pytest.approx(dense, rel=1e-5)
    between = sum(loop_info_nce(joined(own, p, 0), joined(others, p, 1), 0.3) for p in pairs) / len(views)
    within = sum(loop_info_nce(tokens[b, v], other[b, v], 0.4) for b in range(2) for v in pairs) / (2 * len(views))
    loss = PanoContrastiveLoss(views, grid, temperature=0.3, tile_temperature=0.4, tile_weight=0.6)
    assert float(loss(tokens, other)) == pytest.approx(between + 0.6 * within, rel=1e-5)


def test_the_term_within_a_view_leaves_global_views_out() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 1 + len(RING), 36, 4)
    loss = PanoContrastiveLoss(renumber([WHOLE, *RING]), GRID)
    assert float(loss(tokens)) == pytest.approx(float(PanoContrastiveLoss(RING, GRID)(tokens[:, 1:])), rel=1e-5)


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_global_local_is_its_definition(distance: Any) -> None:
    torch.manual_seed(0)
    views = renumber([WHOLE, *RING])
    tokens = torch.randn(3, len(views), 36, 5)
    whole = tokens[:, 0].unflatten(1, GRID)[:, 1:4].mean(dim=(1, 2))  # rows 1 to 3 are no letterbox bars
    parts = tokens[:, 1:].mean(dim=(1, 2))
    if distance == "mse":
        expected = float((whole - parts).square().mean())
    else:
        expected = float((1 - (whole * parts).sum(1) / whole.norm(dim=1) / parts.norm(dim=1)).mean())
    assert float(GlobalLocalLoss(views, GRID, distance=distance)(tokens)) == pytest.approx(expected, rel=1e-5)
    alike = torch.randn(2, 1, 1, 5).expand(2, len(views), 36, 5)
    assert float(GlobalLocalLoss(views, None, distance=distance)(alike)) == pytest.approx(0, abs=1e-5)


def test_global_local_needs_the_whole_and_its_parts() -> None:
    for views in (RING, [WHOLE]):
        with pytest.raises(ConfigError, match=r"needs a view of the whole panorama.*crop_strategy 'anyres_e2p'"):
            GlobalLocalLoss(views, GRID)


@pytest.mark.parametrize("number", [1, 3, 50])
def test_covariance_term_matches_its_definition(number: int) -> None:
    tokens = torch.randn(2, number, 4, dtype=torch.float64)
    expected = 0.0
    for panorama in tokens:
        matrix = torch.cov(panorama.T) if number > 1 else torch.zeros(4, 4)
        expected += float((matrix - torch.diag(matrix.diagonal())).square().sum()) / 4 / 2
    assert float(covariance_term(tokens)) == pytest.approx(expected, abs=1e-12)


def test_variance_term_is_the_shortfall_of_the_deviation() -> None:
    spread = torch.tensor([[2.0, 0.5], [-2.0, -0.5]])
    assert variance_term(spread, epsilon=0.0) == pytest.approx((0.0 + 0.5) / 2)
    assert variance_term(torch.ones(4, 3)) == pytest.approx(0.99, abs=1e-6)


def test_info_nce_is_its_definition() -> None:
    first, second = torch.nn.functional.normalize(torch.randn(2, 5, 4, dtype=torch.float64), dim=-1)
    assert float(symmetric_info_nce(first, second, 0.1)) == pytest.approx(loop_info_nce(first, second, 0.1))


def codes_of_directions() -> tuple[list[ViewSpec], Tensor]:
    """Return equirectangular views that share whole columns, and tokens that are a one-hot code of their direction."""
    views = yaw_ring(90, 0.5, projection="equirectangular", vfov_deg=90)
    columns = torch.stack([(torch.arange(6) + 3 * view) % 24 for view in range(len(views))])
    codes = (torch.arange(6)[None, :, None] * 24 + columns[:, None, :]).flatten(1)
    return views, torch.eye(6 * 24)[codes][None]


def test_losses_are_least_for_perfect_correspondence() -> None:
    views, tokens = codes_of_directions()
    similarity = VICRegLoss(views, GRID, variance_weight=0.0, covariance_weight=0.0)
    assert float(similarity(tokens)) == pytest.approx(0, abs=1e-9)
    # 18 matches, of which each is like itself and like no other.
    least = math.log(1 + 17 * math.exp(-1 / 0.07))
    assert float(DenseCLLoss(views, GRID)(tokens)) == pytest.approx(least, rel=1e-2)
    within = math.log(1 + 35 * math.exp(-1 / 0.2))
    assert float(PanoContrastiveLoss(views, GRID)(tokens)) == pytest.approx(least + 0.1 * within, rel=1e-2)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_grow_with_the_part_of_the_correspondence_that_is_broken(loss_type: type[OverlapLoss]) -> None:
    views, tokens = codes_of_directions()
    loss = loss_type(views, GRID)
    values = []
    for broken in (0, 6, 12, 18, 36):
        # The same codes, but the first rows of every other view are turned by two columns.
        moved = tokens.clone().unflatten(2, GRID)
        moved[:, ::2, : broken // 6] = moved[:, ::2, : broken // 6].roll(2, dims=3)
        values.append(float(loss(moved.flatten(2, 3))))
    assert values == sorted(set(values))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_prefer_true_neighbours(loss_type: type[OverlapLoss]) -> None:
    loss = loss_type(RING, GRID)
    tokens = directions()
    exchanged = tokens[:, torch.tensor([4, 1, 2, 3, 0, 5, 6, 7])]
    assert float(loss(tokens)) < float(loss(exchanged))


@pytest.mark.parametrize("pitch_deg", [0, 40])
def test_rotation_matches_agree_better_than_columns(pitch_deg: float) -> None:
    views = yaw_ring(90, 0.5, pitch_deg=pitch_deg)
    weights = {"variance_weight": 0.0, "covariance_weight": 0.0, "similarity_weight": 1.0}
    tokens = directions(views, (16, 16))
    true = float(VICRegLoss(views, (16, 16), **weights)(tokens))  # type: ignore[arg-type]
    linear = float(VICRegLoss(views, (16, 16), matching="columns", **weights)(tokens))  # type: ignore[arg-type]
    assert 100 * true < linear


def test_the_last_view_is_compared_with_the_first() -> None:
    loss = VICRegLoss(RING, GRID, similarity_weight=1.0, variance_weight=0.0, covariance_weight=0.0)
    tokens = directions().requires_grad_()
    pairs = [(pair.first, pair.second) for pair in loss.pairs]
    assert (len(RING) - 1, 0) in pairs
    assert len(pairs) == len(RING)
    (gradient,) = torch.autograd.grad(loss(tokens * 2 + 0.1 * torch.randn(tokens.shape)), tokens)
    assert (gradient.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_collapse_is_punished() -> None:
    loss = VICRegLoss(RING, GRID)
    assert loss(torch.ones(2, len(RING), 36, 8)) == pytest.approx(25 * 0.99, rel=1e-3)
    for other in (DenseCLLoss(RING, GRID), PanoContrastiveLoss(RING, GRID)):
        assert float(other(torch.ones(1, len(RING), 36, 8))) > math.log(10)


def test_batches_only_matter_where_they_should() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, len(RING), 36, 8)
    order = torch.tensor([2, 0, 1])
    for loss_type in LOSSES:
        loss = loss_type(RING, GRID)
        assert float(loss(tokens)) == pytest.approx(float(loss(tokens[order])), rel=1e-5)
    pairwise, batchwise = VICRegLoss(RING, GRID), VICRegLoss(RING, GRID, mode="batchwise")
    views = renumber([WHOLE, *RING])
    whole = torch.randn(3, len(views), 36, 8)
    for loss, given in ((pairwise, tokens), (GlobalLocalLoss(views, GRID), whole)):
        alone = torch.stack([loss(item[None]) for item in given]).mean()
        assert float(loss(given)) == pytest.approx(float(alone), rel=1e-5)
    alone = torch.stack([batchwise(item[None]) for item in tokens]).mean()
    assert float(batchwise(tokens)) != pytest.approx(float(alone), rel=1e-3)


@pytest.mark.parametrize("loss_type", [*LOSSES, GlobalLocalLoss])
def test_autocast_does_not_reach_the_losses(loss_type: type[Any]) -> None:
    views = renumber([WHOLE, *RING])
    torch.manual_seed(0)
    tokens = torch.randn(2, len(views), 36, 8)
    loss = loss_type(views, GRID)
    expected = loss(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(tokens)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert loss(tokens.bfloat16()).dtype == torch.float32
    assert torch.equal(loss.bfloat16()(tokens), expected)


@pytest.mark.parametrize("loss_type", [*LOSSES, GlobalLocalLoss])
def test_gradients(loss_type: type[Any]) -> None:
    views = renumber([WHOLE, *yaw_ring(150.0, 0.5, vfov_deg=90.0)])
    torch.manual_seed(3)
    tokens = torch.randn(2, len(views), 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss_type(views, (2, 2)), (tokens,))
    if loss_type is PanoContrastiveLoss:
        other = torch.randn(2, len(views), 4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(loss_type(views, (2, 2)), (tokens, other))


@pytest.mark.parametrize("matching", ["rotation", "columns"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_views_that_share_nothing_are_refused(loss_type: type[Any], matching: str) -> None:
    views = [ViewSpec(index, "perspective", yaw, 0, 60, 60, ring=0) for index, yaw in enumerate((-90.0, 90.0))]
    for apart in (views, yaw_ring(90, 0), [WHOLE]):
        with pytest.raises(ConfigError, match="needs views that overlap physically"):
            loss_type(apart, GRID, matching=matching)


def test_a_ratio_keeps_the_side_of_the_neighbour() -> None:
    for pair, near in zip(matched_pairs(RING, GRID), matched_pairs(RING, GRID, overlap_ratio=0.34), strict=True):
        kept = pair.source_index % 6 >= 4
        assert 0 < len(near.source_index) < len(pair.source_index)
        assert torch.equal(near.source_index, pair.source_index[kept])
        assert torch.equal(near.target_xy, pair.target_xy[kept])
    assert {int(pair.source_index.min()) for pair in matched_pairs(RING, GRID, matching="columns")} == {3}


def test_columns_the_views_do_not_share_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"vicreg_overlap_ratio 0\.75 is more than the 0\.5 of a view"):
        matched_pairs(RING, GRID, matching="columns", overlap_ratio=0.75)
    with pytest.raises(ConfigError, match="'rotation' or 'columns', got 'rows'"):
        matched_pairs(RING, GRID, matching="rows")  # type: ignore[arg-type]
