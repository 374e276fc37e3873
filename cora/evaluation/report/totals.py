"""What a page says of all samples of a run, whether it shows them or not; they need not be in memory together."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cora.evaluation.labels import LABELS
from cora.evaluation.samples import Sample

__all__ = ["Totals"]

# Of each sample these are not shown; BLEU-1 to 3 say little beside BLEU-4.
_NOT_SHOWN = frozenset({"bleu_1", "bleu_2", "bleu_3"})


@dataclass(slots=True)
class _Type:
    """The samples of a type: how many there are, and by metric how many have a score and what these come to."""

    questions: int = 0
    answered: int = 0
    scored: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class Totals:
    """Takes samples one by one.

    Attributes:
        questions: Number of samples.
        panoramas: Paths of their panoramas.
    """

    def __init__(self) -> None:
        self.questions = 0
        self.panoramas: set[str] = set()
        self._scores: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._types: defaultdict[str, _Type] = defaultdict(_Type)

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        self.questions += 1
        self.panoramas.add(sample.image)
        of_type = self._types[sample.type or "untyped"]
        of_type.questions += 1
        of_type.answered += sample.prediction is not None
        for metric, score in sample.scores.items():
            if metric not in _NOT_SHOWN:
                self._scores[metric].append(score)
                of_type.scored[metric] += 1
                of_type.sums[metric] += score

    @property
    def metrics(self) -> list[str]:
        """The metrics that samples have scores in, in the order of `LABELS`; unknown ones last."""
        order = list(LABELS)
        return sorted(self._scores, key=lambda name: (order.index(name) if name in order else len(order), name))

    def spread(self) -> Iterator[tuple[str, Sequence[float]]]:
        """Yield the metrics that have other values than 0 and 1, with the scores of all samples."""
        for metric in self.metrics:
            if any(score not in (0.0, 1.0) for score in self._scores[metric]):
                yield metric, self._scores[metric]

    def means_by_type(self) -> list[tuple[str, int, int, list[float | None]]]:
        """Return (type, questions, answered, mean of each metric over its samples) in order of first appearance.

        Means of samples compare types; BLEU of a corpus is not such a mean.
        """
        return [
            (
                name,
                each.questions,
                each.answered,
                [each.sums[metric] / each.scored[metric] if each.scored[metric] else None for metric in self.metrics],
            )
            for name, each in self._types.items()
        ]
