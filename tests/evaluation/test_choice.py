"""Multiple choice and yes/no: which answers are read as what, and which are not read at all."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fake_generator import FakeGenerator
from hypothesis import given
from hypothesis import strategies as st
from rows import make_row

from cora.data.table import Row, read_rows
from cora.errors import DataError
from cora.evaluation.protocols.asking import asked_text, shuffle_choices
from cora.evaluation.protocols.base import spoken
from cora.evaluation.protocols.choice import MultipleChoice, with_choices
from cora.evaluation.protocols.registry import PROTOCOLS, check_rows, protocol_name, protocol_of
from cora.evaluation.protocols.scores import judge_rows, score_protocols
from cora.evaluation.protocols.yes_no import AbsentObject, YesNo
from cora.evaluation.runner import evaluate, score_file
from cora.inference.protocol import GenerationRequest, GenerationResult

COLOURS = ("red", "blue", "dark blue", "a green one")


def choice_row(answer: str = "blue", choices: Sequence[str] = COLOURS, **fields: Any) -> Row:
    return make_row(answer, "Which colour?", choices=tuple(choices), protocol="multiple_choice", **fields)


READ = [
    ("blue", "blue", "exact"),
    ("Blue.", "blue", "exact"),
    ("B", "blue", "exact"),
    ("(b)", "blue", "exact"),
    ("B. blue", "blue", "exact"),
    ("C) Dark blue", "dark blue", "exact"),
    ("the green one", "a green one", "exact"),
    ("<think>A? No, red is wrong.</think> B", "blue", "exact"),
    ("Work: ... <answer>C</answer>", "dark blue", "exact"),
    (r"so \boxed{A}", "red", "exact"),
    ("**D**", "a green one", "exact"),
    ("The answer is B.", "blue", "pattern"),
    ("The correct option is: (C)", "dark blue", "pattern"),
    ("Answer: A\nbecause the roof is blue", "red", "pattern"),
    ("A. It is the roof that is blue", "red", "pattern"),
    ("It is dark blue.", "dark blue", "pattern"),
    ("I would say it is red", "red", "pattern"),
]
UNREAD = [
    "",
    "none of them",
    "red or blue",
    "The answer is A dog",
    "A. red\nB. blue\nC. dark blue",
    "E",
    "The answer is F.",
    "a roof",
]


@pytest.mark.parametrize(("answer", "value", "rung"), READ)
def test_the_ladder_reads(answer: str, value: str, rung: str) -> None:
    verdict = MultipleChoice().judge(choice_row(), answer)
    assert (verdict.value, verdict.rung, verdict.is_right) == (value, rung, value == "blue")


@pytest.mark.parametrize("answer", UNREAD)
def test_what_names_no_single_choice_is_an_extraction_failure(answer: str) -> None:
    verdict = MultipleChoice().judge(choice_row(), answer)
    assert (verdict.value, verdict.rung, verdict.is_right) == (None, "none", False)


def test_a_label_with_the_text_of_another_choice_is_not_exact() -> None:
    assert MultipleChoice().exact(choice_row(), "A. blue") is None


def test_a_model_reads_only_what_rules_cannot_and_its_word_is_read_exactly() -> None:
    class Reader:
        asked: ClassVar[list[str]] = []

        def read(self, unread: Sequence[tuple[Row, str]]) -> list[str | None]:
            self.asked += [text for _, text in unread]
            words = {"like the sea": "<think>sea</think> B", "like rust": "perhaps A", "the A one": "A"}
            return [words.get(text) for _, text in unread]

        def provenance(self) -> dict[str, Any]:
            return {}

    answers = ["like the sea", "B", None, "like rust", "I say blue", "no idea", "**the A one**"]
    rows = [choice_row(sample_id=str(n)) for n in range(len(answers))]
    verdicts = judge_rows(rows, answers, Reader())
    assert [verdict and verdict.rung for verdict in verdicts] == [
        "model",
        "exact",
        None,
        "none",
        "pattern",
        "none",
        "model",
    ]
    assert [verdict and verdict.is_right for verdict in verdicts] == [True, True, None, False, True, False, False]
    assert Reader.asked == ["like the sea", "like rust", "no idea", "the A one"]
    assert score_protocols(rows, verdicts)["multiple_choice"].rungs == {"model": 2, "exact": 1, "pattern": 1}


def test_scores_count_failures_as_wrong_and_name_their_rate() -> None:
    rows = [choice_row(sample_id=str(n)) for n in range(5)]
    answers = ["B", "I say blue", "no idea", "A", None]
    found = score_protocols(rows, judge_rows(rows, answers))["multiple_choice"].to_dict()
    assert found == {
        "accuracy": 0.5,
        "items": 5,
        "answered": 4,
        "unanswered": 1,
        "correct": 2,
        "unextracted": 1,
        "extraction_failure_rate": 0.25,
        "read_by": {"exact": 2, "pattern": 1},
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (make_row("a", protocol="multiple_choice"), "needs 2 to 26 choices"),
        (choice_row(choices=("red", "Red.")), "two of the choices are the same"),
        (choice_row("yellow"), "'yellow' is not one"),
        (make_row("a", protocol="multiple_choise"), r"unknown protocol 'multiple_choise' \(did you mean"),
        (make_row("perhaps", type="yes/no"), "'perhaps' is not one"),
        (make_row("Yes, two.", protocol="absent_object"), "the object of a negative question is absent"),
    ],
)
def test_rows_that_cannot_be_judged_are_named(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=rf"row 0 \(line 2\).*{message}"):
        check_rows([row])


def test_which_protocol_a_row_has(caplog: pytest.LogCaptureFixture) -> None:
    assert protocol_name(make_row("x", protocol="Multiple Choice")) == "multiple_choice"
    assert protocol_name(make_row("x", type="MCQ", choices=("x", "y"))) == "multiple_choice"
    assert protocol_name(make_row("x", type="MCQ")) == "exact"
    assert protocol_name(make_row("x", type="true/false")) == "yes_no"
    assert protocol_name(make_row("x", type="colour")) == "exact"
    assert protocol_name(make_row(None, type="describe")) is None
    assert protocol_name(make_row("x", type="yes_no", protocol="exact")) == "exact"
    check_rows([make_row("x", choices=("x", "y"))])
    assert "1 rows have choices that nobody is shown" in caplog.text
    for name in PROTOCOLS.names():
        assert protocol_of(make_row("x", protocol=name)) is not None


def test_choices_stand_under_the_question_unless_it_lists_them() -> None:
    row = choice_row(choices=("red", "blue"))
    assert asked_text(row) == "Which colour?\nA. red\nB. blue\nAnswer with the letter of the right choice."
    listing = make_row("A", "Which? A) red B) blue", choices=("red", "blue"), type="mcq")
    assert asked_text(listing) == listing.query
    assert asked_text(make_row("red", choices=("red", "blue"))) == "q"
    with pytest.raises(DataError, match=r"row 0 \(line 2\): the question lists its choices itself"):
        shuffle_choices([listing], 0)


texts = st.lists(st.text(string.ascii_lowercase, min_size=3, max_size=8), min_size=2, max_size=8, unique=True)


@given(choices=texts, seed=st.integers(0, 99), position=st.integers(0, 7), by_letter=st.booleans())
def test_a_letter_of_the_shuffled_order_means_the_choice_it_stands_for(
    choices: list[str], seed: int, position: int, by_letter: bool
) -> None:
    right = position % len(choices)
    row = choice_row(string.ascii_uppercase[right] if by_letter else choices[right], choices, type=None)
    (mixed,) = shuffle_choices([row], seed)
    assert sorted(mixed.choices or ()) == sorted(choices)
    assert shuffle_choices([row], seed) == [mixed]
    lines = with_choices(mixed).splitlines()
    letter = next(line[0] for line in lines if line[1:] == f". {choices[right]}")
    assert MultipleChoice().judge(mixed, letter).is_right
    wrong = next(line[0] for line in lines[1:-1] if line[0] != letter)
    verdict = MultipleChoice().judge(mixed, wrong)
    assert not verdict.is_right
    assert verdict.value in choices


def test_orders_differ_by_item_and_seed_and_references_to_others_stay() -> None:
    rows = [make_row("a", f"q{n}", choices=tuple("abcdef"), protocol="multiple_choice") for n in range(20)]
    orders = {row.choices for row in shuffle_choices(rows, 0)}
    assert len(orders) > 10
    assert [row.choices for row in shuffle_choices(rows, 0)] != [row.choices for row in shuffle_choices(rows, 1)]
    others = [choice_row("red", ("red", "blue", "none of the above"), sample_id=str(seed)) for seed in range(9)]
    assert {row.choices[-1] for seed in range(9) for row in shuffle_choices(others, seed) if row.choices} == {
        "none of the above"
    }


def test_position_bias_shows_when_choices_are_shuffled() -> None:
    rows = [make_row("one", f"q{n}", choices=("one", "two"), protocol="multiple_choice") for n in range(200)]
    always_first = ["A"] * 200
    assert score_protocols(rows, judge_rows(rows, always_first))["multiple_choice"].accuracy == 1.0
    mixed = shuffle_choices(rows, 0)
    accuracy = score_protocols(mixed, judge_rows(mixed, always_first))["multiple_choice"].accuracy
    assert accuracy == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
    ("answer", "value", "rung"),
    [
        ("Yes", True, "exact"),
        ("no.", False, "exact"),
        ("True", True, "exact"),
        ("No, there is none.", False, "pattern"),
        ("The answer is yes.", True, "pattern"),
        ("I think so, yes", True, "pattern"),
        ("yes or no, hard to say", True, "pattern"),
        ("It is either yes or no", None, "none"),
        ("nothing", None, "none"),
        ("", None, "none"),
    ],
)
def test_yes_and_no(answer: str, value: bool | None, rung: str) -> None:
    verdict = YesNo().judge(make_row("yes", protocol="yes_no"), answer)
    assert (verdict.value, verdict.rung, verdict.is_right) == (value, rung, value is True)


def test_yes_no_measures() -> None:
    rows = [make_row(answer, protocol="yes_no") for answer in ("yes", "no", "No.", "no, none", "false")]
    verdicts = judge_rows(rows, ["yes", "yes", "no", "yes", "hm"])
    found = score_protocols(rows, verdicts)["yes_no"]
    assert found.accuracy == 0.4
    assert found.measures == {"yes_share": 0.75, "false_positive_rate": pytest.approx(2 / 3)}
    unread = judge_rows(rows[:1], ["hm"])
    assert score_protocols(rows[:1], unread)["yes_no"].measures == {"yes_share": None, "false_positive_rate": None}


@pytest.mark.parametrize(
    ("answer", "claims"),
    [
        ("No", False),
        ("0", False),
        ("There is no dog.", False),
        ("I cannot see a dog in this picture", False),
        ("There isn't any dog", False),
        ("The dog is not visible.", False),
        ("Yes", True),
        ("On the left", True),
        ("3", True),
        ("Yes, it is not far away", True),
        ("The dog stands behind the car", True),
        ("", None),
    ],
)
def test_absent_objects(answer: str, claims: bool | None) -> None:
    verdict = AbsentObject().judge(make_row("no", protocol="absent_object"), answer)
    assert (verdict.value, verdict.is_right) == (claims, claims is False)


def test_false_positives_are_counted_among_what_could_be_read() -> None:
    rows = [make_row("There is no dog.", type="negative")] * 4
    found = score_protocols(rows, judge_rows(rows, ["no", "yes", "behind you", ""]))["absent_object"]
    assert (found.items, found.accuracy, found.unextracted) == (4, 0.25, 1)
    assert found.measures == {"false_positive_rate": pytest.approx(2 / 3)}


def test_spoken_takes_the_last_mark() -> None:
    assert spoken("<answer>A</answer> no: <answer> B </answer>") == "B"
    assert spoken("plain **bold**") == "plain bold"


def test_a_run_asks_with_choices_and_its_file_scores_the_same(tmp_path: Path) -> None:
    class Second(FakeGenerator):
        def answer(self, request: GenerationRequest) -> GenerationResult:
            return GenerationResult("B", (1,), "stop")

    (tmp_path / "a.jpg").write_bytes(b"a")
    lines = [f"a.jpg,q{n},x{n},x{n}|y{n}|[z{n}],multiple_choice" for n in range(30)]
    table = tmp_path / "test.csv"
    table.write_text("\n".join(["url,query,answer,choices,protocol", *lines]))
    generator = Second()
    plain = evaluate(generator, read_rows(table), output_dir=tmp_path / "out", captions=False, progress=False)
    assert plain.scores.protocols["multiple_choice"].accuracy == 0.0
    mixed = evaluate(
        generator, read_rows(table), output_dir=tmp_path / "out", captions=False, progress=False, choice_seed=1
    )
    found = mixed.scores.protocols["multiple_choice"]
    assert found.accuracy == pytest.approx(1 / 3, abs=0.25)
    assert 0 < found.correct < 30
    # Another order is another question: nearly nothing of the first run is used again.
    assert mixed.num_reused < 15
    again = score_file(tmp_path / "out/predictions.csv", tmp_path / "scored")
    assert again.scores.protocols == mixed.scores.protocols
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["protocols"]["multiple_choice"] == found.to_dict()
    assert report["provenance"]["choice_seed"] == 1
