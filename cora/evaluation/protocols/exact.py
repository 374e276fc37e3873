"""Exact match as a protocol: an answer is what it is after normalisation, see `cora.evaluation.closed`."""

from __future__ import annotations

from cora.data.table import Row
from cora.evaluation.closed import normalize
from cora.evaluation.protocols.base import AnswerProtocol

__all__ = ["ExactMatch"]


class ExactMatch(AnswerProtocol):
    """Nothing is extracted from a longer answer."""

    def exact(self, row: Row, text: str) -> str:
        """Return the normalised text."""
        del row
        return normalize(text)

    def pattern(self, row: Row, text: str) -> None:
        """Return None: there is nothing to look for."""
        del row, text

    def compare(self, row: Row, value: str, expected: str) -> tuple[bool, float | None]:
        """Return whether the texts are the same."""
        del row
        return value == expected, None
