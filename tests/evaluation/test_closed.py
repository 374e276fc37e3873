"""Exact match: which questions are closed, which answers are the same, and the baseline without eyes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cora.data.table import Row
from cora.evaluation.closed import accepted_answers, exact_match, most_frequent_answers, normalize
from cora.evaluation.scoring import score_answers


def make_row(
    query: str = "q",
    *references: str,
    answer: str | None = None,
    type: str | None = None,
    choices: tuple[str, ...] | None = None,
    image: str = "a.jpg",
) -> Row:
    return Row("0", Path(image), query, references or ("r",), answer, type, choices, 2)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Red.", "red"),
        ("  the  RED\thouse ", "red house"),
        ("a yellow cube", "yellow cube!"),
        ("Don't", "dont"),
        ("Don’t", "dont"),
        ("A", "a"),
        ("(A)", "a"),
        ("\u22125", "-5"),
        ("90°", "90"),
        ("semi-detached", "semi detached"),
        ("STRASSE", "straße"),
        ("ﬁve", "five"),
        ("snake_case", "snake case"),
    ],
)
def test_answers_that_are_the_same(left: str, right: str) -> None:
    assert normalize(left) == normalize(right)


@pytest.mark.parametrize(
    ("left", "right"), [("5", "-5"), ("1.5", "15"), ("1,5", "15"), ("two", "2"), ("it is red", "red"), ("", "a")]
)
def test_answers_that_differ(left: str, right: str) -> None:
    assert normalize(left) != normalize(right)


def test_which_questions_are_closed() -> None:
    assert accepted_answers(make_row("q", "It is red.", answer="Red")) == {"red"}
    assert accepted_answers(make_row("q", "Two", "2", type="Count")) == {"two", "2"}
    assert accepted_answers(make_row("q", "Yes", type="yes/no")) == {"yes"}
    assert accepted_answers(make_row("q", "B", choices=("A", "B"))) == {"b"}
    assert accepted_answers(make_row("q", "A tower.", type="describe")) is None
    assert accepted_answers(make_row("q", "A tower.")) is None


def test_accuracy_by_type_counts_failures_apart() -> None:
    rows = [make_row(answer="red", type="colour")] * 4 + [make_row(type="describe"), make_row(answer="yes")]
    found = exact_match(rows, ["Red", "blue", None, "the red", "a long text", None])
    assert found["colour"].to_dict() == {"accuracy": 2 / 3, "correct": 2, "answered": 3, "unanswered": 1}
    assert found["untyped"].to_dict() == {"accuracy": None, "correct": 0, "answered": 0, "unanswered": 1}
    assert list(found) == ["colour", "untyped"]


def test_scores_leave_failed_rows_out_and_say_so() -> None:
    rows = [make_row("q", "red", answer="red"), make_row("p", "blue", answer="blue"), make_row("o", "a tree")]
    scores = score_answers(rows, ["red", None, ""], captions=False)
    assert scores.accuracy == 1.0
    assert scores.counts == {"questions": 3, "answered": 2, "unanswered": 1, "empty": 1, "closed": 2}
    assert scores.metrics["cider"].status == "not_applicable"
    assert scores.incomplete == []


def test_no_closed_question_and_no_answered_one() -> None:
    assert score_answers([make_row()], ["x"], captions=False).metrics["exact_match"].status == "not_applicable"
    scores = score_answers([make_row(answer="x")], [None], captions=False)
    assert (scores.metrics["exact_match"].status, scores.accuracy) == ("failed", None)
    assert scores.incomplete == ["exact_match"]


def test_the_most_frequent_answer_by_question_then_type_then_overall() -> None:
    train = [make_row("what", answer=answer, type="colour") for answer in ("red", "blue", "blue")]
    train += [make_row("which", answer=answer, type="shape") for answer in ("cube", "ball")]
    train += [make_row("how", "cube", "cube", "cube", type="open")]
    test = [
        make_row("what"),
        make_row("which"),
        make_row("new", type="shape"),
        make_row("new", type="colour"),
        make_row("new"),
    ]
    assert most_frequent_answers(train, test) == ["blue", "cube", "cube", "blue", "cube"]
    with pytest.raises(ValueError, match="no training row"):
        most_frequent_answers([], test)
