"""What the features of a stage are worth, measured over each validation without labels: do overlapping views agree,
can a token find its partner, and do tokens still differ from each other.

Shapes: P panoramas, V views, S tokens per view, N matched tokens of a pair of views, M tokens, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cora.geometry.overlap import OverlapPair, overlap_pairs, sample_tokens
from cora.types import ViewSpec

__all__ = ["FeatureDiagnostics", "StageDiagnostics", "effective_rank", "is_collapsed", "linear_cka", "spread"]

logger = logging.getLogger(__name__)
GridHW = tuple[int, int]

# Bounds that keep a validation cheap: panoramas in all, tokens of a pair of views, tokens of a panorama.
MAX_PANORAMAS = 64
MAX_PAIR_TOKENS = 64
MAX_PANORAMA_TOKENS = 64
# Telling panoramas apart gets harder with their number, so that it must not depend on the size of the validation set.
MAX_ASSIGNED_PANORAMAS = 8
# Random tokens with a mean cosine of 0.99 have a spread of 0.1.
COLLAPSED_SPREAD = 0.1
COLLAPSED_RANK = 1.5


def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """Return the linear centred kernel alignment float[...] in [0, 1] of float[..., N, D]; 0 where one is constant.

    Reference: Kornblith et al., Similarity of Neural Network Representations Revisited (2019), equation 3.
    """
    kernels = []
    for side in (first, second):
        centred = side - side.mean(dim=-2, keepdim=True)
        kernels.append(centred @ centred.transpose(-1, -2))
    shared = (kernels[0] * kernels[1]).sum(dim=(-1, -2))
    norms = kernels[0].norm(dim=(-1, -2)) * kernels[1].norm(dim=(-1, -2))
    return torch.where(norms > 0, shared / norms.clamp(min=torch.finfo(norms.dtype).tiny), torch.zeros_like(norms))


def effective_rank(tokens: Tensor) -> float:
    """Return how many directions tokens float[M, D] spread over: exp of the entropy of their singular values' shares.

    Around their mean; 0 when all are equal.

    Reference: Roy, Vetterli, The effective rank (2007), definition 1.
    """
    centred = tokens.double() - tokens.double().mean(dim=0)
    # Eigenvalues of the smaller product are the squared singular values, for a fraction of the time.
    products = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(products).clamp(min=0.0).sqrt()
    # What rounding leaves of a constant is no direction.
    if float(values[-1]) <= 1e-6 * float(tokens.double().norm()):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def spread(tokens: Tensor) -> float:
    """Return how far the directions of tokens float[M, D] are apart: 1 when spread evenly, 0 when all agree.

    It is the root mean squared distance of the unit vectors from their mean, whatever the scale of the features.
    """
    mean = F.normalize(tokens.double(), dim=-1).mean(dim=0)
    return float((1.0 - mean.square().sum()).clamp(min=0.0).sqrt())


def is_collapsed(values: Mapping[str, float]) -> bool:
    """Return whether ``spread`` or ``eff_rank`` says that all tokens are nearly the same."""
    return values["spread"] < COLLAPSED_SPREAD or values["eff_rank"] < COLLAPSED_RANK


class FeatureDiagnostics:
    """Measures of one kind of features (patch tokens, latent tokens) over a validation.

    Args:
        views: The views of the layout, in the order of the token tensors.
        grid_hw: Token grid of a view; None for latent tokens without places, which have no measures of overlap.

    Attributes:
        pairs: True correspondences of neighbouring views, a bounded number of tokens each.
        example: float[V, S, D], tokens of the first panorama of the validation; None before it.
    """

    def __init__(self, views: Sequence[ViewSpec], grid_hw: GridHW | None) -> None:
        self.views = views
        self.grid_hw = grid_hw
        self.pairs = [] if grid_hw is None else [_thinned(pair) for pair in overlap_pairs(views, grid_hw)]
        # Views of the whole panorama have letterbox bars, and see everything.
        self.parts = [i for i, view in enumerate(views) if not view.is_global] or list(range(len(views)))
        self.reset()

    def reset(self) -> None:
        """Forget everything seen."""
        self.num_panoramas = 0
        self.example: Tensor | None = None
        self._overlap: dict[str, list[Tensor]] = {}
        self._tokens: list[Tensor] = []
        self._pooled: list[Tensor] = []

    @torch.no_grad()
    def update(self, tokens: Tensor) -> None:
        """Take in tokens float[P, V, S, D]; panoramas above `MAX_PANORAMAS` are left out."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens[: MAX_PANORAMAS - self.num_panoramas].float()
            if len(tokens) == 0:
                return
            if self.example is None:
                self.example = tokens[0].cpu()
            self.num_panoramas += len(tokens)
            parts = tokens[:, self.parts]
            self._pooled.append(parts.mean(dim=2).cpu())
            chosen = _even_choice(parts.shape[1] * parts.shape[2], MAX_PANORAMA_TOKENS).to(tokens.device)
            self._tokens.append(parts.flatten(1, 2)[:, chosen].cpu())
            for pair in self.pairs:
                for name, value in self._pair_measures(tokens, pair).items():
                    self._overlap.setdefault(name, []).append(value.double().cpu())

    def compute(self) -> dict[str, float]:
        """Return the measures by name; those a layout or a validation of one panorama does not allow are left out.

        ``adj_cos``, ``adj_mse``, ``adj_cka``: agreement of matched tokens. ``overlap_ret_acc``: share of tokens whose
        most similar token of the neighbouring view is within one token of the true place. ``hungarian_acc``: share
        whose partner, when partners are assigned one to one, is within half a token of the true one.
        ``view_hungarian_acc``: share of views assigned to the panorama they come from, by the mean of its other views.
        ``feat_std``: mean standard deviation of a component over tokens. ``eff_rank``, ``spread``: see the functions.
        """
        if not self.num_panoramas:
            return {}
        tokens = torch.cat(self._tokens).flatten(0, 1)
        values = {name: float(torch.cat(parts).mean()) for name, parts in self._overlap.items()}
        values["feat_std"] = float(tokens.std(dim=0, unbiased=False).mean())
        values["eff_rank"] = effective_rank(tokens)
        values["spread"] = spread(tokens)
        pooled = torch.cat(self._pooled)[:MAX_ASSIGNED_PANORAMAS]
        if len(pooled) > 1 and pooled.shape[1] > 1:
            values["view_hungarian_acc"] = _view_assignment_accuracy(pooled)
        return values

    def _pair_measures(self, tokens: Tensor, pair: OverlapPair) -> dict[str, Tensor]:
        """Return each measure of one pair of views, float[P]."""
        assert self.grid_hw is not None
        position = pair.target_xy.to(tokens.device)
        source = tokens[:, pair.first][:, pair.source_index.to(tokens.device)]
        target = sample_tokens(tokens[:, pair.second], position, self.grid_hw)
        unit_source, unit_target = F.normalize(source, dim=-1), F.normalize(target, dim=-1)
        neighbour = F.normalize(tokens[:, pair.second], dim=-1)
        nearest = (unit_source @ neighbour.transpose(-1, -2)).argmax(dim=-1)
        width = self.grid_hw[1]
        found = torch.stack([nearest % width, nearest // width], dim=-1) + 0.5
        assigned = _assignments(unit_source @ unit_target.transpose(-1, -2)).to(tokens.device)
        return {
            "adj_cos": (unit_source * unit_target).sum(dim=-1).mean(dim=-1),
            "adj_mse": (source - target).square().mean(dim=(-1, -2)),
            "adj_cka": linear_cka(source, target),
            # The nearest token centre may be half a token away, and the features between two of them like either.
            "overlap_ret_acc": _share_within(1.0, found, position),
            # Partners nearer to each other than that are the same place.
            "hungarian_acc": _share_within(0.5, position[assigned], position),
        }


class StageDiagnostics:
    """Measures of all kinds of features of a stage, and one warning when they collapse.

    Args:
        stage_name: For the warning.
        levels: Measures by the kind of features, such as ``latent``.
    """

    def __init__(self, stage_name: str, levels: Mapping[str, FeatureDiagnostics]) -> None:
        self.stage_name = stage_name
        self.levels = dict(levels)
        self.has_warned = False

    def reset(self) -> None:
        """Begin a validation."""
        for level in self.levels.values():
            level.reset()

    def update(self, **features: Tensor) -> None:
        """Take in tokens float[P, V, S, D] by the kind of features; kinds that are not measured are passed over."""
        for name, level in self.levels.items():
            level.update(features[name])

    def compute(self) -> dict[str, float]:
        """Return the measures of the validation as ``<kind>/<measure>``; a collapse is logged once per stage."""
        measured = {name: level.compute() for name, level in self.levels.items()}
        for name, values in measured.items():
            if values and not self.has_warned and is_collapsed(values):
                self.has_warned = True
                logger.warning(
                    "stage %s: the %s features have collapsed, nearly all tokens are the same: spread %.3g (below %g), "
                    "effective rank %.3g of %d panoramas' tokens (below %g), mean standard deviation %.3g",
                    self.stage_name,
                    name,
                    values["spread"],
                    COLLAPSED_SPREAD,
                    values["eff_rank"],
                    self.levels[name].num_panoramas,
                    COLLAPSED_RANK,
                    values["feat_std"],
                )
        return {f"{name}/{key}": value for name, values in measured.items() for key, value in values.items()}


def _even_choice(number: int, most: int) -> Tensor:
    """Return int64[min(number, most)] distinct indices below `number`, always the same, without a pattern."""
    if number <= most:
        return torch.arange(number)
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))[:most].sort().values


def _thinned(pair: OverlapPair) -> OverlapPair:
    chosen = _even_choice(len(pair.source_index), MAX_PAIR_TOKENS)
    return OverlapPair(pair.first, pair.second, pair.source_index[chosen], pair.target_xy[chosen])


def _share_within(most: float, found: Tensor, expected: Tensor) -> Tensor:
    """Return the share float[P] of positions float[P, N, 2] at most `most` tokens from float[N, 2] on both axes."""
    near = (found - expected).abs().amax(dim=-1) <= most
    return near.float().mean(dim=-1)


def _assignments(similarity: Tensor) -> Tensor:
    """Return the column int64[P, N] of each row in the one-to-one assignment of largest sum, of float[P, N, N]."""
    return torch.stack(
        [torch.from_numpy(linear_sum_assignment(matrix, maximize=True)[1]) for matrix in similarity.cpu().numpy()]
    )


def _view_assignment_accuracy(pooled: Tensor) -> float:
    """Return the share of views assigned to their own panorama by the mean of its others, for float[P, V, D]."""
    num_panoramas, num_views = pooled.shape[:2]
    centroids = (pooled.sum(dim=1, keepdim=True) - pooled) / (num_views - 1)
    views, others = (F.normalize(item, dim=-1).transpose(0, 1) for item in (pooled, centroids))
    assigned = _assignments(views @ others.transpose(-1, -2))
    return float((assigned == torch.arange(num_panoramas)).float().mean())
