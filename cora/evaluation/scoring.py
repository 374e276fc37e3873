"""Scores answers, wherever they come from: caption metrics over all, exact match by type, and what protocols count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cora.data.table import Row
from cora.evaluation.closed import UNTYPED, TypeAccuracy, exact_match, is_right
from cora.evaluation.consistency import YawConsistency
from cora.evaluation.intervals import Bootstrap, Interval
from cora.evaluation.metrics import CAPTION_METRICS, CORAEvaluator
from cora.evaluation.protocols.base import Extractor
from cora.evaluation.protocols.scores import ProtocolScore, judge_rows, score_protocols
from cora.evaluation.regions import RegionScore, score_regions
from cora.evaluation.values import MetricValue

__all__ = ["METRICS", "Scores", "score_answers"]

_T = TypeVar("_T")
_U = TypeVar("_U")

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
        per_sample: Metric -> one score per row, None where the row has no answer or the metric does not apply to it.
        bleu_sums: What each row adds to BLEU, see `cora.evaluation.metrics.bleu_from_sums`; empty without BLEU.
        meteor_sums: What each row adds to METEOR, see `cora.evaluation.meteor`; empty without METEOR.
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
    per_sample: dict[str, list[float | None]] = field(default_factory=dict)
    bleu_sums: list[tuple[float, ...]] = field(default_factory=list)
    meteor_sums: list[tuple[float, ...]] = field(default_factory=list)
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
    answered = [(row, answer) for row, answer in zip(rows, answers, strict=True) if answer is not None]
    metrics: dict[str, MetricValue] = {}
    provenance: dict[str, Any] = {}
    per_sample: dict[str, list[float | None]] = {}
    bleu_sums: list[tuple[float, ...]] = []
    meteor_sums: list[tuple[float, ...]] = []
    evaluator = evaluator or CORAEvaluator()
    if captions:
        scores = evaluator.score([answer for _, answer in answered], [row.references for row, _ in answered])
        bootstrap = Bootstrap([row.image for row, _ in answered], seed=seed)
        metrics, provenance = scores.with_intervals(bootstrap), scores.provenance
        per_sample = {name: _spread(values, answers, None) for name, values in scores.per_sample.items()}
        if scores.bleu_sums:
            bleu_sums = _spread(scores.bleu_sums, answers, ())
        if scores.meteor_sums:
            meteor_sums = _spread(scores.meteor_sums, answers, ())
    else:
        metrics = dict.fromkeys(
            CAPTION_METRICS, MetricValue(None, "not_applicable", "caption metrics were not asked for")
        )
    right = [is_right(row, answer) for row, answer in zip(rows, answers, strict=True)]
    per_sample["exact_match"] = [None if each is None else float(each) for each in right]
    by_type = exact_match(rows, answers)
    counts = {
        "questions": len(rows),
        "answered": len(answered),
        "unanswered": len(rows) - len(answered),
        "empty": sum(not answer.strip() for _, answer in answered),
        "closed": sum(found.answered + found.unanswered for found in by_type.values()),
    }
    overall, type_intervals = _accuracy_intervals(rows, answers, list(by_type), seed)
    metrics = {**metrics, "exact_match": replace(_overall(by_type), interval=overall)}
    verdicts = judge_rows(rows, answers, extractor)
    if extractor is not None:
        provenance = {**provenance, "extraction": extractor.provenance()}
    if protocols := score_protocols(rows, verdicts):
        per_sample["protocol"] = [None if verdict is None else float(verdict.is_right) for verdict in verdicts]
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


def _spread(values: Sequence[_T], answers: Sequence[str | None], without: _U) -> list[_T | _U]:
    """Return the values of the answered rows, and `without` for the others."""
    left = iter(values)
    return [without if answer is None else next(left) for answer in answers]


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
