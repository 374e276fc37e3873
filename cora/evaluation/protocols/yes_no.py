"""Yes/no questions, and questions about objects that are not there.

A value is a truth value. True and false, 1 and 0 count as yes and no.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.closed import normalize
from cora.evaluation.protocols.base import AnswerProtocol, Verdict, accepted_texts

__all__ = ["AbsentObject", "YesNo"]

_TRUTHS = {"yes": True, "yeah": True, "yep": True, "true": True, "correct": True, "1": True} | {
    "no": False,
    "nope": False,
    "false": False,
    "incorrect": False,
    "0": False,
}
_STATED = re.compile(r"\banswer(?: is|:)? (yes|no|true|false)\b")
_WORD = re.compile(r"\b(yes|no|true|false)\b")
_DENIALS = re.compile(
    r"\b(?:(?:is|are|was|were|do|does|can|could)(?: not|nt)\b|cannot"
    r"|(?:there is|there are|i see|see|contains|has|have) no\b"
    r"|no (?:such|visible)\b|none\b|nothing\b|nowhere\b|nobody\b|zero\b|absent\b|without\b|neither\b"
    r"|not (?:visible|present|in|there|shown|seen|found|any)\b)"
)
_NOTHING = frozenset({"0", "no", "none", "nothing", "nowhere", "zero", "absent", "na", "not present", "not visible"})


class YesNo(AnswerProtocol):
    """The answer is yes or no; `measures` tells how often the model says yes, and how often it does so wrongly."""

    wanted = "the yes or no"

    def exact(self, row: Row, text: str) -> bool | None:
        """Return the truth value that a text is."""
        del row
        return _TRUTHS.get(normalize(text))

    def pattern(self, row: Row, text: str) -> bool | None:
        """Return the truth value a text states, begins with, or is the only one to occur in it."""
        del row
        normalized = normalize(text)
        if stated := {_TRUTHS[word] for word in _STATED.findall(normalized)}:
            return stated.pop() if len(stated) == 1 else None
        first = normalized.split(" ", 1)[0]
        if first in _TRUTHS and not first.isdigit():
            return _TRUTHS[first]
        found = {_TRUTHS[word] for word in _WORD.findall(normalized)}
        return found.pop() if len(found) == 1 else None

    def compare(self, row: Row, value: bool, expected: bool) -> tuple[bool, float | None]:
        """Return whether two truth values are the same."""
        del row
        return value == expected, None

    def measures(self, verdicts: Sequence[Verdict]) -> dict[str, float | None]:
        """Return ``yes_share`` of the answers that could be read, and ``false_positive_rate`` where no was right."""
        read = [verdict for verdict in verdicts if verdict.value is not None]
        # Of two truth values, what was answered and whether it was right tell what was expected.
        negative = [verdict for verdict in read if verdict.value != verdict.is_right]
        return {
            "yes_share": _share([bool(verdict.value) for verdict in read]),
            "false_positive_rate": _share([bool(verdict.value) for verdict in negative]),
        }


class AbsentObject(AnswerProtocol):
    """The question is about something that is not in the scene; right is an answer that says so.

    A value is whether the answer takes the object for present: an answer that denies nothing does. The table's own
    answer is only checked to be a denial.
    """

    def check(self, row: Row) -> None:
        """Raise DataError where the accepted answer claims that the object is there."""
        if True in self.expected(row):
            raise DataError("the object of a negative question is absent, but an accepted answer does not say so")

    def exact(self, row: Row, text: str) -> bool | None:
        """Return whether a short text claims or denies; None where it is neither yes, no nor none."""
        del row
        normalized = normalize(text)
        return False if normalized in _NOTHING else _TRUTHS.get(normalized)

    def pattern(self, row: Row, text: str) -> bool | None:
        """Return False for a text that denies, True for any other, None for an empty one."""
        del row
        normalized = normalize(text)
        if not normalized:
            return None
        first = normalized.split(" ", 1)[0]
        if first in ("yes", "no"):
            return first == "yes"
        return _DENIALS.search(normalized) is None

    def expected(self, row: Row) -> list[bool]:
        """Return what the accepted answers say; longer ones are read by patterns too."""
        return [bool(value) for text in accepted_texts(row) if (value := self._read(row, text)[0]) is not None] or [
            False
        ]

    def compare(self, row: Row, value: bool, expected: bool) -> tuple[bool, float | None]:
        """Return whether the answer denies."""
        del row, expected
        return not value, None

    def measures(self, verdicts: Sequence[Verdict]) -> dict[str, float | None]:
        """Return ``false_positive_rate``, the share of read answers that take the object for present."""
        return {"false_positive_rate": _share([bool(v.value) for v in verdicts if v.value is not None])}


def _share(truths: Sequence[bool]) -> float | None:
    return sum(truths) / len(truths) if truths else None
