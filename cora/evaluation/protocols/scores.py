"""Counts the verdicts of a test table: accuracy, extraction failures and measures by protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cora.data.table import Row
from cora.evaluation.protocols.base import AnswerProtocol, Extractor, Verdict, spoken
from cora.evaluation.protocols.registry import protocol_name, protocol_of

__all__ = ["ProtocolScore", "judge_rows", "score_protocols"]


@dataclass(frozen=True, slots=True)
class ProtocolScore:
    """What the answers to the questions of one protocol are worth.

    Attributes:
        items: Number of questions.
        answered: Number of questions with an answer.
        correct: Number of right answers.
        unextracted: Number of answers from which nothing could be read; they count as wrong.
        rungs: How many answers each step of the ladder has read.
        measures: What the protocol reports besides; None where there is nothing to compute it from.
    """

    items: int
    answered: int
    correct: int
    unextracted: int
    rungs: dict[str, int]
    measures: dict[str, float | None]

    @property
    def accuracy(self) -> float | None:
        """Share of right answers among those given."""
        return self.correct / self.answered if self.answered else None

    @property
    def extraction_failure_rate(self) -> float | None:
        """Share of answers from which nothing could be read."""
        return self.unextracted / self.answered if self.answered else None

    def to_dict(self) -> dict[str, Any]:
        """Return counts, rates and measures as plain values."""
        return {
            "accuracy": self.accuracy,
            "items": self.items,
            "answered": self.answered,
            "unanswered": self.items - self.answered,
            "correct": self.correct,
            "unextracted": self.unextracted,
            "extraction_failure_rate": self.extraction_failure_rate,
            "read_by": self.rungs,
            **self.measures,
        }


def judge_rows(
    rows: Sequence[Row], answers: Sequence[str | None], extractor: Extractor | None = None
) -> list[Verdict | None]:
    """Return a verdict per row; None for an open question and for one without an answer.

    Args:
        rows: The questions, checked; see `cora.evaluation.protocols.registry.check_rows`.
        answers: An answer per row, or None.
        extractor: Reads answers that rules cannot read.
    """
    verdicts: list[Verdict | None] = []
    unread: list[tuple[int, AnswerProtocol, str]] = []
    for row, answer in zip(rows, answers, strict=True):
        protocol = None if answer is None else protocol_of(row)
        if protocol is None or answer is None:
            verdicts.append(None)
            continue
        verdict = protocol.judge(row, answer)
        if verdict.rung == "none" and (text := spoken(answer)):
            unread.append((len(verdicts), protocol, text))
        verdicts.append(verdict)
    if extractor is None or not unread:
        return verdicts
    found = extractor.read([(rows[index], text) for index, _, text in unread])
    for (index, protocol, _), said in zip(unread, found, strict=True):
        if said is not None:
            verdicts[index] = protocol.judge_extracted(rows[index], said)
    return verdicts


def score_protocols(rows: Sequence[Row], verdicts: Sequence[Verdict | None]) -> dict[str, ProtocolScore]:
    """Return the score of each protocol in order of first appearance; exact match has its own place, see `closed`."""
    groups: dict[str, list[tuple[Row, Verdict | None]]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        name = protocol_name(row)
        if name is not None and name != "exact":
            groups.setdefault(name, []).append((row, verdict))
    return {name: _score(group) for name, group in groups.items()}


def _score(group: Sequence[tuple[Row, Verdict | None]]) -> ProtocolScore:
    verdicts = [verdict for _, verdict in group if verdict is not None]
    protocol = protocol_of(group[0][0])
    assert protocol is not None
    return ProtocolScore(
        items=len(group),
        answered=len(verdicts),
        correct=sum(verdict.is_right for verdict in verdicts),
        unextracted=sum(verdict.rung == "none" for verdict in verdicts),
        rungs=dict(Counter(verdict.rung for verdict in verdicts if verdict.rung != "none")),
        measures=protocol.measures(verdicts),
    )
