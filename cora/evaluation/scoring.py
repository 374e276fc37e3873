"""Scores answers, wherever they come from: caption metrics over all, exact match by type, and what protocols count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cora.data.table import Row
from cora.evaluation.closed import TypeAccuracy, exact_match
from cora.evaluation.consistency import YawConsistency
from cora.evaluation.metrics import CAPTION_METRICS, CORAEvaluator
from cora.evaluation.protocols.base import Extractor
from cora.evaluation.protocols.scores import ProtocolScore, judge_rows, score_protocols
from cora.evaluation.regions import RegionScore, score_regions
from cora.evaluation.values import MetricValue

__all__ = ["METRICS", "Scores", "score_answers"]

METRICS = (*CAPTION_METRICS, "exact_match")


@dataclass(frozen=True, slots=True)
class Scores:
    """What a set of answers is worth.

    Attributes:
        metrics: Every name of `METRICS` with its value.
        by_type: Exact match by type of closed question.
        counts: ``questions``, ``answered``, ``unanswered``, ``empty`` (answered with nothing) and ``closed``.
        provenance: Tokeniser and Java behind the caption metrics.
        protocols: Score of each protocol but exact match; see `cora.evaluation.protocols`.
        regions: Score of each region of the sphere that is known of some question; see `cora.evaluation.regions`.
        yaw: Scores over turned panoramas, where they were asked for.
    """

    metrics: dict[str, MetricValue]
    by_type: dict[str, TypeAccuracy]
    counts: dict[str, int]
    provenance: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, ProtocolScore] = field(default_factory=dict)
    regions: dict[str, RegionScore] = field(default_factory=dict)
    yaw: YawConsistency | None = None

    @property
    def accuracy(self) -> float | None:
        """Exact match over all closed questions with an answer."""
        return self.metrics["exact_match"].value

    @property
    def incomplete(self) -> list[str]:
        """The metrics this installation should have computed and could not."""
        left_out = ("meteor", "spice")
        return [
            name
            for name, metric in self.metrics.items()
            if metric.status in ("unavailable", "failed") and name not in left_out
        ]


def score_answers(
    rows: Sequence[Row],
    answers: Sequence[str | None],
    *,
    evaluator: CORAEvaluator | None = None,
    captions: bool = True,
    extractor: Extractor | None = None,
) -> Scores:
    """Return the scores of one answer per row.

    Args:
        rows: The questions, one per distinct (image, query); see `cora.data.table.merge_rows`.
        answers: An answer per row, or None where there is none; such rows are counted and otherwise left out.
        evaluator: Computes the caption metrics.
        captions: Whether to compute them at all; they need Java and take seconds.
        extractor: Reads answers that the rules of a protocol cannot read.

    Raises:
        DataError: A row cannot be judged by its protocol; see `cora.evaluation.protocols.registry.check_rows`.
    """
    answered = [(row, answer) for row, answer in zip(rows, answers, strict=True) if answer is not None]
    metrics: dict[str, MetricValue] = {}
    provenance: dict[str, Any] = {}
    if captions:
        scores = (evaluator or CORAEvaluator()).score(
            [answer for _, answer in answered], [row.references for row, _ in answered]
        )
        metrics, provenance = scores.corpus, scores.provenance
    else:
        metrics = dict.fromkeys(
            CAPTION_METRICS, MetricValue(None, "not_applicable", "caption metrics were not asked for")
        )
    by_type = exact_match(rows, answers)
    counts = {
        "questions": len(rows),
        "answered": len(answered),
        "unanswered": len(rows) - len(answered),
        "empty": sum(not answer.strip() for _, answer in answered),
        "closed": sum(found.answered + found.unanswered for found in by_type.values()),
    }
    verdicts = judge_rows(rows, answers, extractor)
    return Scores(
        {**metrics, "exact_match": _overall(by_type)},
        by_type,
        counts,
        provenance,
        score_protocols(rows, verdicts),
        score_regions(rows, verdicts),
    )


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
