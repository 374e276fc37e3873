"""Scores answers, wherever they come from: caption metrics over all, exact match by type, and what protocols count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import TYPE_CHECKING, Any

from cora.data.table import Row
from cora.evaluation.closed import UNTYPED, TypeAccuracy, exact_match, is_right
from cora.evaluation.consistency import YawConsistency
from cora.evaluation.intervals import Bootstrap, Interval
from cora.evaluation.metrics import CAPTION_METRICS, CORAEvaluator
from cora.evaluation.protocols.base import Extractor
from cora.evaluation.protocols.scores import ProtocolScore, judge_rows, score_protocols
from cora.evaluation.regions import RegionScore, score_regions
from cora.evaluation.values import MetricValue

if TYPE_CHECKING:
    from cora.evaluation.values import Numbers

__all__ = ["METRICS", "Scores", "score_answers"]

METRICS = (*CAPTION_METRICS, "exact_match")


@dataclass(frozen=True, slots=True)
class Scores:
    """What a set of answers is worth.

    Attributes:
        metrics: Every name of `METRICS` with its value.
        by_type: Exact match by type of closed question.
        type_intervals: The 95 % confidence interval of each of them; None for fewer than two images.
        counts: ``questions``, ``answered``, ``unanswered``, ``empty`` (answered with nothing) and ``closed``.
        provenance: Tokeniser and Java behind the caption metrics, and the extractor where there is one.
        per_sample: Metric -> float[N], a score per row; NaN where it has no answer or the metric does not apply to it.
        bleu_sums: What each row adds to BLEU, float[N, 10], NaN where it has no answer; None without BLEU. See
            `cora.evaluation.metrics.bleu_from_sums`.
        meteor_sums: What each row adds to METEOR, float[N, 6], likewise; see `cora.evaluation.meteor`.
        protocols: Score of each protocol but exact match; see `cora.evaluation.protocols`.
        regions: Score of each region of the sphere that is known of some question; see `cora.evaluation.regions`.
        yaw: Scores over turned panoramas, where they were asked for.
        requires_spice: Whether SPICE was asked for by name; it needs files that most machines do not have.
    """

    metrics: dict[str, MetricValue]
    by_type: dict[str, TypeAccuracy]
    counts: dict[str, int]
    provenance: dict[str, Any] = field(default_factory=dict)
    type_intervals: dict[str, Interval | None] = field(default_factory=dict)
    per_sample: dict[str, Numbers] = field(default_factory=dict, compare=False)
    bleu_sums: Numbers | None = field(default=None, compare=False)
    meteor_sums: Numbers | None = field(default=None, compare=False)
    protocols: dict[str, ProtocolScore] = field(default_factory=dict)
    regions: dict[str, RegionScore] = field(default_factory=dict)
    yaw: YawConsistency | None = None
    requires_spice: bool = False

    @property
    def accuracy(self) -> float | None:
        """Exact match over all closed questions with an answer."""
        return self.metrics["exact_match"].value

    @property
    def incomplete(self) -> list[str]:
        """The metrics this installation should have computed and could not."""
        missing = [name for name, metric in self.metrics.items() if metric.status in ("unavailable", "failed")]
        is_spice_optional = self.metrics["spice"].status == "unavailable" and not self.requires_spice
        return [name for name in missing if name != "spice" or not is_spice_optional]


def score_answers(
    rows: Sequence[Row],
    answers: Sequence[str | None],
    *,
    evaluator: CORAEvaluator | None = None,
    captions: bool = True,
    seed: int = 0,
    extractor: Extractor | None = None,
) -> Scores:
    """Return the scores of one answer per row.

    Args:
        rows: The questions, one per distinct (image, query); see `cora.data.table.merge_rows`.
        answers: An answer per row, or None where there is none; such rows are counted and otherwise left out.
        evaluator: Computes the caption metrics.
        captions: Whether to compute them at all; they need Java and take seconds.
        seed: Of the confidence intervals.
        extractor: Reads answers that the rules of a protocol cannot read.

    Raises:
        DataError: A row cannot be judged by its protocol; see `cora.evaluation.protocols.registry.check_rows`.
    """
    is_answered = [answer is not None for _, answer in zip(rows, answers, strict=True)]
    texts = [answer for answer in answers if answer is not None]
    metrics: dict[str, MetricValue] = {}
    provenance: dict[str, Any] = {}
    per_sample: dict[str, Numbers] = {}
    bleu_sums = meteor_sums = None
    evaluator = evaluator or CORAEvaluator()
    if captions:
        scores = evaluator.score(texts, [row.references for row in compress(rows, is_answered)])
        bootstrap = Bootstrap([row.image for row in compress(rows, is_answered)], seed=seed)
        metrics, provenance = scores.with_intervals(bootstrap), scores.provenance
        per_sample = {name: _spread(values, is_answered) for name, values in scores.per_sample.items()}
        sums = (scores.bleu_sums, scores.meteor_sums)
        bleu_sums, meteor_sums = (None if each is None else _spread(each, is_answered) for each in sums)
    else:
        metrics = dict.fromkeys(
            CAPTION_METRICS, MetricValue(None, "not_applicable", "caption metrics were not asked for")
        )
    per_sample["exact_match"] = _numbers(map(is_right, rows, answers))
    by_type = exact_match(rows, answers)
    counts = {
        "questions": len(rows),
        "answered": len(texts),
        "unanswered": len(rows) - len(texts),
        "empty": sum(not text.strip() for text in texts),
        "closed": sum(found.answered + found.unanswered for found in by_type.values()),
    }
    overall, type_intervals = _accuracy_intervals(rows, answers, list(by_type), seed)
    metrics = {**metrics, "exact_match": replace(_overall(by_type), interval=overall)}
    verdicts = judge_rows(rows, answers, extractor)
    if extractor is not None:
        provenance = {**provenance, "extraction": extractor.provenance()}
    if protocols := score_protocols(rows, verdicts):
        per_sample["protocol"] = _numbers(None if verdict is None else verdict.is_right for verdict in verdicts)
    return Scores(
        metrics,
        by_type,
        counts,
        provenance,
        type_intervals,
        per_sample,
        bleu_sums,
        meteor_sums,
        protocols,
        score_regions(rows, verdicts),
        requires_spice=evaluator.requires_spice,
    )


def _accuracy_intervals(
    rows: Sequence[Row], answers: Sequence[str | None], types: Sequence[str], seed: int
) -> tuple[Interval | None, dict[str, Interval | None]]:
    """Return the intervals of exact match over all closed questions, and by type."""
    judged = [
        (row, right) for row, answer in zip(rows, answers, strict=True) if (right := is_right(row, answer)) is not None
    ]
    bootstrap = Bootstrap([row.image for row, _ in judged], seed=seed)
    positions: dict[str, list[int]] = {name: [] for name in types}
    for position, (row, _) in enumerate(judged):
        positions[row.type or UNTYPED].append(position)
    by_type = {name: bootstrap.of_mean([judged[p][1] for p in among], among=among) for name, among in positions.items()}
    return bootstrap.of_mean([right for _, right in judged]), by_type


def _numbers(values: Iterable[float | None]) -> Numbers:
    """Return float[N] with NaN for None."""
    import numpy as np

    return np.fromiter((np.nan if value is None else value for value in values), dtype=np.float64)


def _spread(values: Numbers, is_answered: Sequence[bool]) -> Numbers:
    """Return the values of the answered rows where those are, and NaN for the others."""
    import numpy as np

    spread = np.full((len(is_answered), *values.shape[1:]), np.nan)
    spread[np.asarray(is_answered)] = values
    return spread


def _overall(by_type: dict[str, TypeAccuracy]) -> MetricValue:
    if not by_type:
        return MetricValue(
            None,
            "not_applicable",
            "there is no closed question: no row has an answer, choices, or a closed type",
            "add a column 'answer' to the test table",
        )
    answered = sum(found.answered for found in by_type.values())
    if not answered:
        return MetricValue(None, "failed", "no closed question was answered", "see the errors in predictions.jsonl")
    return MetricValue(sum(found.correct for found in by_type.values()) / answered, "ok")
