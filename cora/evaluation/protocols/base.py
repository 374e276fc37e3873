"""What a protocol is: how an answer is read, in three steps from strict to lenient, and when it counts as right.

Knows one question at a time; `cora.evaluation.protocols.scores` counts.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from cora.data.table import Row
from cora.errors import DataError

__all__ = ["AnswerProtocol", "Extractor", "Rung", "Verdict", "accepted_texts", "spoken"]

Rung = Literal["exact", "pattern", "model", "none"]

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL | re.IGNORECASE)
_MARKED = (
    re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE),
    re.compile(r"\\boxed\{([^{}]*)\}"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one answer.

    Attributes:
        is_right: Whether it counts as right; an answer that could not be read does not.
        value: What the answer was read as, None where it could not be read.
        measure: How near it came, in the protocol's own measure (an error in degrees, an overlap), or None.
        rung: Which step of the ladder read it; ``none`` is an extraction failure.
    """

    is_right: bool
    value: Any = None
    measure: float | None = None
    rung: Rung = "none"


class Extractor(Protocol):
    """Reads answers that no rule could read."""

    def read(self, unread: Sequence[tuple[Row, str]]) -> Sequence[str | None]:
        """Return for each (question, answer) what was answered, in the few words that `exact` reads, or None."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return who reads, as plain values."""
        ...


class AnswerProtocol(ABC):
    """Reads and judges answers of one kind of question.

    A value, as `exact` and `pattern` return it, is whatever the protocol compares: a choice, a number, an angle.

    Attributes:
        wanted: What an answer is called in a request to an extractor, in the form that `exact` reads.
        is_directional: Whether every answer is a place around the camera, so that `turned` needs no mark of the row.
    """

    wanted: ClassVar[str] = "the answer in a few words"
    is_directional: ClassVar[bool] = False

    @abstractmethod
    def exact(self, row: Row, text: str) -> Any | None:
        """Return the value of a text that is nothing but an answer, or None."""

    @abstractmethod
    def pattern(self, row: Row, text: str) -> Any | None:
        """Return the value that a longer text states without doubt, or None."""

    @abstractmethod
    def compare(self, row: Row, value: Any, expected: Any) -> tuple[bool, float | None]:
        """Return whether a value is right, given one accepted value, and the measure of it."""

    def check(self, row: Row) -> None:
        """Raise DataError where the row cannot be judged by this protocol."""
        self.expected(row)

    def expected(self, row: Row) -> list[Any]:
        """Return the accepted values of a row.

        Raises:
            DataError: An accepted answer cannot be read.
        """
        values = []
        for text in accepted_texts(row):
            value, _ = self._read(row, text)
            if value is None:
                raise DataError(f"the accepted answer '{text[:80]}' is not one that this protocol can read")
            values.append(value)
        return values

    def judge(self, row: Row, answer: str) -> Verdict:
        """Return the verdict on an answer: read exactly, else by patterns."""
        value, rung = self._read(row, spoken(answer))
        return self._verdict(row, value, rung)

    def judge_extracted(self, row: Row, said: str) -> Verdict:
        """Return the verdict on what an extractor says was answered, which is read exactly."""
        return self._verdict(row, self.exact(row, spoken(said)), "model")

    def _verdict(self, row: Row, value: Any, rung: Rung) -> Verdict:
        if value is None:
            return Verdict(False)
        found = [self.compare(row, value, expected) for expected in self.expected(row)]
        is_right, measure = self.best(found)
        return Verdict(is_right, value, measure, rung)

    def best(self, found: Sequence[tuple[bool, float | None]]) -> tuple[bool, float | None]:
        """Return the most favourable of the comparisons with each accepted value; small measures are good ones."""
        return min(found, key=lambda pair: (not pair[0], 0.0 if pair[1] is None else pair[1]))

    def measures(self, verdicts: Sequence[Verdict]) -> dict[str, float | None]:
        """Return what this protocol reports beside the accuracy, over the answered questions."""
        del verdicts
        return {}

    def turned(self, row: Row, yaw_deg: float) -> Row | None:
        """Return the row with the answers that are right after the scene has moved to the right by `yaw_deg`.

        None where this protocol does not know them.
        """
        del row, yaw_deg
        return None

    def turned_value(self, row: Row, value: Any, yaw_deg: float) -> Any:
        """Return a value of a `row` as it would be after the scene has moved by `yaw_deg`; as `turned` does it."""
        del row, yaw_deg
        return value

    def agrees(self, row: Row, first: Any, second: Any) -> bool:
        """Return whether two values are the same answer to a row."""
        del row
        return bool(first == second)

    def _read(self, row: Row, text: str) -> tuple[Any, Rung]:
        if (value := self.exact(row, text)) is not None:
            return value, "exact"
        if (value := self.pattern(row, text)) is not None:
            return value, "pattern"
        return None, "none"


def accepted_texts(row: Row) -> tuple[str, ...]:
    """Return the short answer of a row, or its references where it has none."""
    return (row.answer,) if row.answer is not None else row.references


def spoken(answer: str) -> str:
    """Return what an answer says after its reasoning: no ``<think>``, and only what is marked as the answer.

    Marks are ``<answer>…</answer>`` and LaTeX's box; the last one counts. Emphasis by asterisks is taken off.
    """
    text = _THOUGHT.sub("", answer)
    for mark in _MARKED:
        if found := mark.findall(text):
            text = found[-1]
            break
    return text.replace("**", "").strip()
