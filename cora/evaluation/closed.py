"""Exact match for closed questions: which rows are closed, and when an answer counts as right.

An answer is right when it equals an accepted one after both are normalised, see `normalize`. Nothing is extracted from
longer answers: "It is red." is not "red".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cora.data.table import Row

__all__ = [
    "CLOSED_TYPES",
    "UNTYPED",
    "TypeAccuracy",
    "accepted_answers",
    "exact_match",
    "is_right",
    "most_frequent_answers",
    "normalize",
    "type_name",
]

# Types whose references are their answers where a table has no `answer` column.
CLOSED_TYPES = frozenset(
    {"choice", "closed", "color", "colour", "count", "counting", "mcq", "multiple_choice", "number", "shape", "yes_no"}
)

_ARTICLES = frozenset({"a", "an", "the"})
UNTYPED = "untyped"
# Apostrophes vanish ("don't" is "dont"); a minus stays before a number, a point or comma between two digits.
_APOSTROPHES = re.compile("['\u2019`]")
_SEPARATORS = re.compile(r"(?<=\d)[.,](?=\d)|(?<![^\W_])-(?=\d)|([^\w\s]|_)")


def normalize(text: str) -> str:
    """Return an answer as it is compared: in one case, without punctuation and articles, with single spaces.

    The steps, in order: Unicode compatibility form (NFKC) and case folding; apostrophes removed; all other
    punctuation and symbols become spaces, except a minus before a number and a point or comma between digits; the
    words a, an and the removed, unless nothing else would be left (the choice "A"); white space collapsed. Number words
    and digits stay different.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    text = _APOSTROPHES.sub("", text)
    text = _SEPARATORS.sub(lambda match: " " if match.group(1) else match.group(0), text)
    words = text.split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def type_name(text: str) -> str:
    """Return the name of a type or protocol as it is compared: in lower case, its words joined by ``_``."""
    return text.strip().lower().replace("/", "_").replace(" ", "_").replace("-", "_")


def accepted_answers(row: Row) -> frozenset[str] | None:
    """Return the normalised answers that are right for a closed question, or None where the question is open."""
    if row.answer is not None:
        return frozenset({normalize(row.answer)})
    if type_name(row.type or "") in CLOSED_TYPES or row.choices is not None:
        return frozenset(normalize(reference) for reference in row.references)
    return None


def is_right(row: Row, prediction: str | None) -> bool | None:
    """Return whether an answer is right, or None where the question is open or has no answer."""
    accepted = accepted_answers(row)
    return None if accepted is None or prediction is None else normalize(prediction) in accepted


@dataclass(frozen=True, slots=True)
class TypeAccuracy:
    """Exact match over the closed questions of one type.

    Attributes:
        correct: Number of right answers.
        answered: Number of questions with an answer.
        unanswered: Number of questions whose generation failed; they count neither as right nor as wrong.
        accuracy: ``correct / answered``, or None where nothing was answered.
    """

    correct: int
    answered: int
    unanswered: int

    @property
    def accuracy(self) -> float | None:
        """Share of right answers."""
        return self.correct / self.answered if self.answered else None

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and the accuracy as plain values."""
        return {"accuracy": self.accuracy, **asdict(self)}


def exact_match(rows: Sequence[Row], predictions: Sequence[str | None]) -> dict[str, TypeAccuracy]:
    """Return exact match by question type, in order of first appearance; open questions are left out.

    Args:
        rows: The questions.
        predictions: One answer per row; None where there is none.
    """
    counts: dict[str, Counter[str]] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        accepted = accepted_answers(row)
        if accepted is None:
            continue
        of_type = counts.setdefault(row.type or UNTYPED, Counter())
        if prediction is None:
            of_type["unanswered"] += 1
        else:
            of_type["answered"] += 1
            of_type["correct"] += normalize(prediction) in accepted
    return {
        name: TypeAccuracy(correct=found["correct"], answered=found["answered"], unanswered=found["unanswered"])
        for name, found in counts.items()
    }


def most_frequent_answers(train_rows: Iterable[Row], test_rows: Iterable[Row]) -> list[str]:
    """Return, for each test row, the most frequent training answer to the same question: a baseline without eyes.

    A question never trained on gets the most frequent answer of its type, then of all rows; ties go to the answer
    that came first.

    Raises:
        ValueError: There is no training row.
    """
    by_query: dict[str, Counter[str]] = {}
    by_type: dict[str | None, Counter[str]] = {}
    overall: Counter[str] = Counter()
    for row in train_rows:
        answers = (row.answer,) if row.answer is not None else row.references
        for counter in (by_query.setdefault(row.query, Counter()), by_type.setdefault(row.type, Counter()), overall):
            counter.update(answers)
    if not overall:
        raise ValueError("there is no training row to learn frequent answers from")
    return [(by_query.get(row.query) or by_type.get(row.type) or overall).most_common(1)[0][0] for row in test_rows]
