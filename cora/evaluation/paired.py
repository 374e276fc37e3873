"""Compares two runs over the same questions: the difference of a score, its interval, and how likely it is by chance.

A paired bootstrap that draws images: questions about one panorama stand or fall together, and both runs see the same
draw. Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cora.evaluation.intervals import Bootstrap, percentile_interval
from cora.evaluation.meteor import METEOR_SUMS, meteor_from_sums
from cora.evaluation.metrics import bleu_from_sums
from cora.evaluation.samples import Sample

if TYPE_CHECKING:
    from cora.evaluation.values import Numbers

__all__ = ["Difference", "compare", "score_of"]


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better a run is than the baseline.

    Attributes:
        value: Its score minus that of the baseline.
        low: Lower end of the 95 % percentile interval; None for fewer than two images.
        high: Upper end.
        p_value: Two-sided: twice the share of draws on the other side of 0, at least 2 / (draws + 1), at most 1.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None


def score_of(metric: str, samples: Sequence[Sample]) -> float | None:
    """Return the score of a run, or None where no sample has one; BLEU of summed counts, the others are means."""
    value = float(_scores(metric, _statistics(metric, samples).sum(axis=0, keepdims=True))[0])
    return None if value != value else value


def compare(
    metric: str, samples: Sequence[Sample], baseline: Sequence[Sample], *, resamples: int = 2000, seed: int = 0
) -> Difference | None:
    """Return the difference of two runs in a metric, or None where one of them has no score in it.

    Args:
        metric: Name of the metric.
        samples: Of the run.
        baseline: Of the baseline: the same questions in the same order; its images are drawn.
        resamples: Number of draws, each of as many images as there are.
        seed: The same seed gives the same draws.
    """
    import numpy as np

    both = np.concatenate([_statistics(metric, samples), _statistics(metric, baseline)], axis=1)
    value = float(_differences(metric, both.sum(axis=0, keepdims=True))[0])
    if value != value:
        return None
    # A sample that neither run has a score for would only take places in the draws. Sorted by image, so that the draws
    # are the same whatever the order of the questions.
    scored = sorted(np.flatnonzero(both.any(axis=1)), key=lambda index: baseline[index].image)
    bootstrap = Bootstrap([baseline[index].image for index in scored], seed=seed, resamples=resamples)
    drawn = bootstrap.draws(both[scored], lambda sums: _differences(metric, sums))
    interval = percentile_interval(drawn)
    if interval is None:
        return Difference(value, None, None, None)
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value, *interval, min(1.0, 2 * (beyond + 1) / (len(drawn) + 1)))


def _statistics(metric: str, samples: Sequence[Sample]) -> Numbers:
    """Return float[N, K], of which sums over samples decide the score; zeros for a sample without one."""
    import numpy as np

    if metric.startswith("bleu_"):
        return np.array([sample.bleu_sums or [0.0] * 10 for sample in samples], dtype=np.float64)
    if metric == "meteor":
        return np.array([sample.meteor_sums or [0.0] * METEOR_SUMS for sample in samples], dtype=np.float64)
    scores = (sample.scores.get(metric) for sample in samples)
    return np.array([(0.0, 0.0) if score is None else (score, 1.0) for score in scores], dtype=np.float64)


def _scores(metric: str, sums: Numbers) -> Numbers:
    """Return float[R], NaN where nothing was scored, of sums float[R, K]."""
    import numpy as np

    if metric.startswith("bleu_"):
        scores = bleu_from_sums(sums, int(metric.removeprefix("bleu_")))
        return np.asarray(np.where(sums[:, 9] > 0, scores, np.nan))
    if metric == "meteor":
        return np.asarray(np.where(sums[:, 3] > 0, meteor_from_sums(sums), np.nan))
    means: Numbers = np.full(len(sums), np.nan)
    return np.divide(sums[:, 0], sums[:, 1], out=means, where=sums[:, 1] > 0)


def _differences(metric: str, sums: Numbers) -> Numbers:
    half = sums.shape[1] // 2
    return _scores(metric, sums[:, :half]) - _scores(metric, sums[:, half:])
