"""Yaw consistency: how right, and how much the same, the answers stay when the panorama is turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from cora.data.table import Row
from cora.evaluation.protocols.base import Extractor, Verdict
from cora.evaluation.protocols.registry import protocol_of
from cora.evaluation.protocols.scores import judge_rows
from cora.evaluation.regions import RegionScore, score_regions
from cora.evaluation.turns import TurnPlan

__all__ = ["YawConsistency", "yaw_consistency"]


@dataclass(frozen=True, slots=True)
class YawConsistency:
    """What the answers of questions asked at every shift are worth together.

    Attributes:
        items: Questions with an answer at every shift; all but the counts below are about them.
        unanswered: Questions without an answer at some shift.
        left_out: Questions that were not asked about turned panoramas, by reason.
        accuracy_by_shift: Share of right answers at each shift in degrees.
        worst_case: Share of questions that are right at every shift.
        agreement: Share of pairs of shifts with the same answer, answers about directions turned back.
        all_agree: Share of questions with the same answer at every shift.
        regions: Answers by where the target lies after the turn; see `cora.evaluation.regions`.
    """

    items: int
    unanswered: int
    left_out: dict[str, int]
    accuracy_by_shift: dict[float, float]
    worst_case: float | None
    agreement: float | None
    all_agree: float | None
    regions: dict[str, RegionScore]

    @property
    def mean_accuracy(self) -> float | None:
        """Mean of the accuracies over the shifts."""
        return fmean(self.accuracy_by_shift.values()) if self.accuracy_by_shift else None

    @property
    def worst_shift_accuracy(self) -> float | None:
        """Smallest of the accuracies over the shifts."""
        return min(self.accuracy_by_shift.values(), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "items": self.items,
            "unanswered": self.unanswered,
            "left_out": self.left_out,
            "accuracy_by_shift": {f"{shift:g}": value for shift, value in self.accuracy_by_shift.items()},
            "mean_accuracy": self.mean_accuracy,
            "worst_shift_accuracy": self.worst_shift_accuracy,
            "worst_case": self.worst_case,
            "agreement": self.agreement,
            "all_agree": self.all_agree,
            "regions": {name: found.to_dict() for name, found in self.regions.items()},
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """One answer to a question at one shift; `yaw_deg` is how far the scene had moved."""

    row: Row
    yaw_deg: float
    verdict: Verdict


def yaw_consistency(
    questions: Sequence[Row],
    answers: Sequence[str | None],
    plan: TurnPlan,
    turned_answers: Sequence[str | None],
    extractor: Extractor | None = None,
) -> YawConsistency:
    """Return the consistency of answers.

    Args:
        questions: All questions.
        answers: Their answers, or None.
        plan: What was asked about turned panoramas.
        turned_answers: The answers to it, or None.
        extractor: Reads answers that the rules of a protocol cannot read.
    """
    upright = judge_rows(questions, answers, extractor)
    turned = judge_rows([turn.row for turn in plan.turns], turned_answers, extractor)
    asked: dict[int, dict[float, _Asked | None]] = {}
    for turn, verdict in zip(plan.turns, turned, strict=True):
        own = upright[turn.question]
        of_question = asked.setdefault(
            turn.question, {0.0: None if own is None else _Asked(questions[turn.question], 0.0, own)}
        )
        of_question[turn.shift_deg] = None if verdict is None else _Asked(turn.row, turn.yaw_deg, verdict)
    whole = [
        {shift: found for shift in plan.shifts_deg if (found := of_question[shift]) is not None}
        for of_question in asked.values()
        if None not in of_question.values()
    ]
    every = [found for item in whole for found in item.values()]
    pairs = [[_agree(a, b) for a, b in combinations(item.values(), 2)] for item in whole]
    return YawConsistency(
        items=len(whole),
        unanswered=len(asked) - len(whole),
        left_out=plan.left_out,
        accuracy_by_shift={shift: fmean(item[shift].verdict.is_right for item in whole) for shift in plan.shifts_deg}
        if whole
        else {},
        worst_case=_mean([all(found.verdict.is_right for found in item.values()) for item in whole]),
        agreement=_mean([same for of_item in pairs for same in of_item]),
        all_agree=_mean([all(of_item) for of_item in pairs]),
        regions=score_regions([found.row for found in every], [found.verdict for found in every]),
    )


def _agree(first: _Asked, second: _Asked) -> bool:
    """Return whether two answers are the same once the turns are undone; an unread answer agrees with none."""
    values = [_turned_back(asked) for asked in (first, second)]
    protocol = protocol_of(first.row)
    return None not in values and protocol is not None and protocol.agrees(first.row, *values)


def _turned_back(asked: _Asked) -> Any:
    protocol, value = protocol_of(asked.row), asked.verdict.value
    if value is None or protocol is None or asked.row.is_yaw_equivariant:
        return value
    return protocol.turned_value(asked.row, value, -asked.yaw_deg)


def _mean(truths: Sequence[bool]) -> float | None:
    return fmean(truths) if truths else None
