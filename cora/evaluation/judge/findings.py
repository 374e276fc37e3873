"""From verdicts to findings: what the judge thinks of each sample, and of all of them; whatever failed is null."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cora.evaluation.intervals import Bootstrap
from cora.evaluation.judge.protocols import CRITERIA, OVERALL, Verdict, weighted_score
from cora.evaluation.judge.samples import Sample

__all__ = ["CRITERION_NAMES", "Finding", "find_all", "mean_with_interval", "summarize"]

CRITERION_NAMES = tuple(criterion.name for criterion in CRITERIA)
_WINNER = {"first": "a", "second": "b", "tie": "tie"}
_SWAPPED = {"first": "b", "second": "a", "tie": "tie"}
_MARGIN = {"a": 1.0, "b": -1.0, "tie": 0.0}


@dataclass(frozen=True, slots=True)
class Finding:
    """What the judge thinks of a sample.

    Attributes:
        sample: The sample.
        values: A grade or winner by criterion, with ``weighted_score``, or with ``overall`` and whether both orders
            ``agree``; None where there is no verdict.
        reason: Why there is none, as a word to count; empty where there is one.
        error: The same as a sentence.
    """

    sample: Sample
    values: Mapping[str, Any] | None
    reason: str = ""
    error: str = ""


def find_all(
    samples: Sequence[Sample], verdicts: Mapping[str, Verdict], failures: Mapping[str, tuple[str, str]]
) -> list[Finding]:
    """Return one finding per sample.

    Args:
        samples: What was to be judged.
        verdicts: Verdict by key of an item.
        failures: (reason, error) by key of an item that was asked about in vain.
    """
    return [_find(sample, verdicts, failures) for sample in samples]


def _find(sample: Sample, verdicts: Mapping[str, Verdict], failures: Mapping[str, tuple[str, str]]) -> Finding:
    if None in sample.answers:
        return Finding(sample, None, "unanswered", "there is no answer to judge")
    for item in sample.items:
        if item.key not in verdicts:
            return Finding(sample, None, *failures.get(item.key, ("not_asked", "the judge was not asked")))
    found = [verdicts[item.key] for item in sample.items]
    if len(sample.answers) == 1:
        grades = {name: found[0][name]["score"] for name in CRITERION_NAMES}
        return Finding(sample, {**grades, "weighted_score": weighted_score(found[0])})
    if not found:  # the same text twice
        return Finding(sample, {**dict.fromkeys((*CRITERION_NAMES, OVERALL), "tie"), "agree": True})
    shown, swapped = found
    winners = {
        name: (_WINNER[shown[name]["winner"]], _SWAPPED[swapped[name]["winner"]])
        for name in (*CRITERION_NAMES, OVERALL)
    }
    merged = {name: first if first == second else "tie" for name, (first, second) in winners.items()}
    return Finding(sample, {**merged, "agree": winners[OVERALL][0] == winners[OVERALL][1]})


def summarize(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return scores over all samples with a verdict, and counts of those without, as plain values."""
    judged = [finding for finding in findings if finding.values is not None]
    reasons = Counter(finding.reason for finding in findings if finding.values is None)
    num_unanswered = reasons.pop("unanswered", 0)
    counts = {
        "samples": len(findings),
        "judged": len(judged),
        "unanswered": num_unanswered,
        "failed": sum(reasons.values()),
    }
    is_pairwise = bool(findings) and len(findings[0].sample.answers) == 2
    scores = _preferences(judged) if is_pairwise else _grades(judged)
    return {**scores, "counts": counts, "failures": dict(sorted(reasons.items()))}


def _grades(judged: Sequence[Finding]) -> dict[str, Any]:
    values = [finding.values for finding in judged if finding.values is not None]
    return {
        "weighted_score": mean_with_interval([value["weighted_score"] for value in values], _images(judged)),
        "criteria": {
            name: sum(value[name] for value in values) / len(values) if values else None for name in CRITERION_NAMES
        },
    }


def _preferences(judged: Sequence[Finding]) -> dict[str, Any]:
    values = [finding.values for finding in judged if finding.values is not None]
    names = (OVERALL, *CRITERION_NAMES)
    shares = {
        name: {
            winner: sum(value[name] == winner for value in values) / len(values) if values else None
            for winner in _MARGIN
        }
        for name in names
    }
    return {
        "overall": shares.pop(OVERALL),
        # Share won by a minus share won by b.
        "margin": mean_with_interval([_MARGIN[value[OVERALL]] for value in values], _images(judged)),
        "orders_agree": sum(value["agree"] for value in values) / len(values) if values else None,
        "criteria": shares,
    }


def _images(judged: Sequence[Finding]) -> list[Hashable]:
    return [finding.sample.row.image for finding in judged]


def mean_with_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """Return a mean with its 95 % interval: bootstrap over whole clusters, whose values are not independent.

    Args:
        values: Any number of values; without one the mean is None.
        clusters: What each value belongs to, such as its image; with fewer than two the interval is None.
    """
    if not values:
        return {"value": None, "interval": None, "why": "there is no verdict"}
    interval = Bootstrap(clusters).of_mean(values)
    return {"value": sum(values) / len(values), "interval": None if interval is None else list(interval), "why": ""}
