"""Confidence intervals by the bootstrap, resampled by image: questions about one panorama stand or fall together.

Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile intervals).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cora.evaluation.values import Numbers

__all__ = ["Bootstrap", "Interval", "percentile_interval"]

Interval = tuple[float, float]

RESAMPLES = 1000
CONFIDENCE = 0.95
# Draws that are in memory at a time.
_DRAWS = 2**22


class Bootstrap:
    """Draws groups of samples with replacement, the same draws for every score.

    Args:
        groups: What each sample belongs to, its image; equal ones are drawn together.
        seed: The same seed gives the same intervals.
        resamples: Number of draws, each of as many groups as there are.
    """

    def __init__(self, groups: Sequence[Hashable], *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        numbers: dict[Hashable, int] = {}
        self._group_of = array("q", (numbers.setdefault(group, len(numbers)) for group in groups))
        self.num_groups = len(numbers)
        self._seed = seed
        self._resamples = resamples

    def draws(
        self, statistics: Any, score: Callable[[Numbers], Numbers], *, among: Sequence[int] | None = None
    ) -> Numbers:
        """Return the scores float[R] of all draws that have one; none at all for fewer than two groups.

        Args:
            statistics: float[N, K], what is summed, of each sample.
            score: Takes sums float[R, K] and returns scores float[R]; NaN where a draw has none.
            among: Positions of the N samples, where not all of them have the score.
        """
        import numpy as np

        if not len(statistics):
            return np.empty(0)
        values = np.asarray(statistics, dtype=np.float64).reshape(len(statistics), -1)
        groups = np.asarray(self._group_of, dtype=np.int64)
        if among is not None:
            groups = groups[np.asarray(among, dtype=np.int64)]
        present, groups = np.unique(groups, return_inverse=True)
        if len(present) < 2:
            return np.empty(0)
        sums = np.zeros((len(present), values.shape[1]))
        np.add.at(sums, groups, values)
        scores = score(self._resampled(sums))
        return np.asarray(scores[np.isfinite(scores)])

    def interval(
        self, statistics: Any, score: Callable[[Numbers], Numbers], *, among: Sequence[int] | None = None
    ) -> Interval | None:
        """Return the interval of a score that is a function of sums over samples, or None where no draw has one.

        The arguments are those of `draws`.
        """
        return percentile_interval(self.draws(statistics, score, among=among))

    def of_mean(self, values: Any, *, among: Sequence[int] | None = None) -> Interval | None:
        """Return the interval of the mean of values float[N], or None for fewer than two groups."""
        import numpy as np

        values = np.asarray(values, dtype=np.float64)
        statistics = np.stack([values, np.ones_like(values)], axis=1)
        return self.interval(statistics, lambda sums: sums[:, 0] / sums[:, 1], among=among)

    def _resampled(self, sums: Numbers) -> Numbers:
        """Return the sums float[R, K] over groups that were drawn."""
        import numpy as np

        rng = np.random.default_rng(self._seed)
        count = len(sums)
        step = max(1, _DRAWS // count)
        totals = []
        for start in range(0, self._resamples, step):
            size = min(step, self._resamples - start)
            drawn = rng.integers(count, size=(size, count))
            drawn += count * np.arange(size)[:, None]
            times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
            totals.append(times @ sums)
        return np.concatenate(totals)


def percentile_interval(draws: Numbers) -> Interval | None:
    """Return the 95 % percentile interval of draws float[R], or None where there is none."""
    import numpy as np

    if not len(draws):
        return None
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)
