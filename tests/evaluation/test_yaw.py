"""Turned panoramas: exact pixels, turned answers, the ordinary journal, and what consistency counts."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_generator import FakeGenerator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rows import make_row

from cora.data.augmentation import turned
from cora.data.table import Row, read_rows
from cora.errors import ConfigError, DataError
from cora.evaluation.protocols.registry import protocol_of
from cora.evaluation.regions import region_of
from cora.evaluation.runner import EvaluationResult, evaluate, score_file
from cora.evaluation.turns import parse_shifts, plan_turns, turned_panoramas
from cora.geometry.sphere import wrap_yaw_deg
from cora.inference.protocol import GenerationRequest, GenerationResult, failed
from cora.processors.loading import load_panorama

SHIFTS = (0.0, 90.0, 180.0, 270.0)
WIDTH = 64


def write_panorama(path: Path, yaw_deg: float, width: int = WIDTH) -> Path:
    """Write noise with one white column at a yaw."""
    pixels = np.random.default_rng(0).integers(0, 200, (width // 2, width, 3), dtype=np.uint8)
    pixels[:, int((yaw_deg / 360 + 0.5) * width) % width] = 255
    Image.fromarray(pixels).save(path)
    return path


class Seeing(FakeGenerator):
    """Finds the white column and answers `say` of its yaw."""

    def __init__(self, say: Callable[[float], str]) -> None:
        super().__init__()
        self.say = say

    def answer(self, request: GenerationRequest) -> GenerationResult:
        if not Path(str(request.image)).is_file():
            return failed(f"{request.image}: no such file")
        pixels = load_panorama(request.image).numpy()
        column = int(np.argmax(pixels.sum(axis=(0, 2), dtype=np.int64)))
        return GenerationResult(self.say(wrap_yaw_deg(((column + 0.5) / pixels.shape[1] - 0.5) * 360)), (1,), "stop")


def run(generator: FakeGenerator, folder: Path, table: str, shifts: tuple[float, ...] = SHIFTS) -> EvaluationResult:
    (folder / "test.csv").write_text(table)
    return evaluate(
        generator,
        read_rows(folder / "test.csv"),
        output_dir=folder / "out",
        captions=False,
        progress=False,
        yaw_shifts=shifts,
    )


@given(width=st.integers(4, 50), shift=st.floats(0, 359.9))
def test_rolling_moves_whole_columns(tmp_path_factory: pytest.TempPathFactory, width: int, shift: float) -> None:
    folder = tmp_path_factory.mktemp("turn")
    image = write_panorama(folder / "a.png", 10.0, 2 * width)
    path, yaw = turned_panoramas(image, [shift], folder / "turned")[shift]
    columns = round(yaw / 360 * 2 * width)
    assert yaw == pytest.approx(columns * 360 / (2 * width))
    assert abs(wrap_yaw_deg(yaw - shift)) <= 180 / (2 * width) + 1e-9
    rolled = np.roll(load_panorama(image).numpy(), columns, axis=1)
    assert np.array_equal(load_panorama(path).numpy(), rolled)


def test_convention_a_quarter_turn_brings_what_was_ahead_to_the_right(tmp_path: Path) -> None:
    image = write_panorama(tmp_path / "a.png", 0.0)
    path, yaw = turned_panoramas(image, [90.0], tmp_path)[90.0]
    assert yaw == 90.0
    assert load_panorama(path)[0, WIDTH // 2 + WIDTH // 4].tolist() == [255, 255, 255]
    # As training turns panoramas.
    assert load_panorama(path).equal(turned(load_panorama(image), 0.25))


def test_answers_that_see_are_right_everywhere(tmp_path: Path) -> None:
    for index, yaw in enumerate((10.0, 100.0, -170.0)):
        write_panorama(tmp_path / f"{index}.png", yaw)
    table = "url,query,answer,protocol\n0.png,q,10,bearing\n1.png,q,to the right,bearing\n2.png,q,-170,bearing\n"
    generator = Seeing(lambda yaw: f"{yaw:.1f}°")
    result = run(generator, tmp_path, table)
    yaw = result.scores.yaw
    assert yaw is not None
    assert (yaw.items, yaw.unanswered, yaw.left_out) == (3, 0, {})
    assert yaw.accuracy_by_shift == dict.fromkeys(SHIFTS, 1.0)
    assert (yaw.worst_case, yaw.agreement, yaw.all_agree, yaw.worst_shift_accuracy) == (1.0, 1.0, 1.0, 1.0)
    # Of twelve answers three are about something within 15 degrees of the seam: each panorama once.
    assert {name: found.items for name, found in yaw.regions.items()} == {"elsewhere": 9, "seam": 3}
    assert {name: found.items for name, found in result.scores.regions.items()} == {"elsewhere": 2, "seam": 1}
    assert (generator.num_asked, result.num_turned) == (12, 9)


def test_the_seam_is_scored_apart(tmp_path: Path) -> None:
    write_panorama(tmp_path / "a.png", 0.0)
    result = run(
        Seeing(lambda yaw: "0" if abs(yaw) > 160 else f"{yaw:.1f}"),
        tmp_path,
        "url,query,answer,protocol\na.png,q,0,bearing\n",
    )
    assert result.scores.yaw is not None
    found = result.scores.yaw.to_dict()
    assert found["accuracy_by_shift"] == {"0": 1.0, "90": 1.0, "180": 0.0, "270": 1.0}
    assert found["regions"]["seam"] == {"accuracy": 0.0, "items": 1, "correct": 0}
    assert found["regions"]["elsewhere"] == {"accuracy": 1.0, "items": 3, "correct": 3}
    assert (found["mean_accuracy"], found["worst_case"], found["worst_shift_accuracy"]) == (0.75, 0.0, 0.0)
    # Three shifts agree with each other: three pairs of six.
    assert (found["agreement"], found["all_agree"]) == (0.5, 0.0)


def test_a_blind_answer_is_right_once_and_agrees_never(tmp_path: Path) -> None:
    write_panorama(tmp_path / "a.png", 0.0)
    result = run(Seeing(lambda yaw: "ahead"), tmp_path, "url,query,answer,protocol\na.png,q,ahead,bearing\n")
    yaw = result.scores.yaw
    assert yaw is not None
    assert (yaw.mean_accuracy, yaw.worst_case, yaw.agreement) == (0.25, 0.0, 0.0)


def place(yaw: float) -> str:
    return ("ahead", "to the right", "behind", "to the left")[round(yaw / 90) % 4]


CHOICES = "ahead|to the right|behind|to the left"


def test_choices_of_directions_turn_and_others_stay(tmp_path: Path) -> None:
    write_panorama(tmp_path / "a.png", 0.0)
    table = (
        "url,query,answer,choices,protocol,yaw_equivariant\n"
        f"a.png,where,A,{CHOICES},multiple_choice,false\n"
        f"a.png,still,A,{CHOICES},multiple_choice,true\n"
        "a.png,half,left,left|right,multiple_choice,false\n"
        "a.png,colour,red,red|blue,multiple_choice,false\n"
        "a.png,same,yes,,yes_no,true\n"
    )
    result = run(Seeing(place), tmp_path, table)
    yaw = result.scores.yaw
    assert yaw is not None
    assert yaw.left_out == {"the answer depends on the direction": 2}
    # "where" is right at every shift; "still" only at 0, because the answer moves; "same" is never read.
    assert yaw.items == 3
    assert yaw.accuracy_by_shift == {0.0: pytest.approx(2 / 3), **dict.fromkeys(SHIFTS[1:], pytest.approx(1 / 3))}
    assert yaw.worst_case == pytest.approx(1 / 3)
    assert yaw.agreement == pytest.approx(1 / 3)


def test_boxes_move_and_their_region_follows(tmp_path: Path) -> None:
    image = write_panorama(tmp_path / "a.png", 0.0)
    rows = [make_row("[170, 0, 40, 20]", protocol="grounding", image=image)]
    plan = plan_turns(rows, (0.0, 90.0), tmp_path)
    (turn,) = plan.turns
    assert (turn.row.answer, turn.yaw_deg, turn.row.sample_id) == ("[-100, 0, 40, 20]", 90.0, "0@90")
    assert [region_of(row) for row in (rows[0], turn.row)] == ["seam", "elsewhere"]


@pytest.mark.parametrize(
    ("row", "region"),
    [
        (make_row("170", protocol="bearing"), "seam"),
        (make_row("-165", protocol="bearing"), "seam"),
        (make_row("-164", protocol="bearing"), "elsewhere"),
        (make_row("x", target_deg=(0.0, 60.0)), "pole"),
        (make_row("x", target_deg=(180.0, -75.0)), "pole"),
        (make_row("x", target_deg=(180.0, 10.0)), "seam"),
        (make_row("x", target_deg=(180.0, 10.0), region="Kitchen"), "kitchen"),
        (make_row("[150, 20, 80, 20]", protocol="grounding"), "seam"),
        (make_row("[0, 50, 20, 90]", protocol="grounding"), "pole"),
        (make_row("[20, 0, 120, 20]", protocol="grounding"), "elsewhere"),
        (make_row("x"), None),
    ],
)
def test_regions(row: Row, region: str | None) -> None:
    assert region_of(row) == region


def test_a_seam_that_is_only_named_is_not_known_after_a_turn(tmp_path: Path) -> None:
    image = write_panorama(tmp_path / "a.png", 0.0)
    fields = {"image": image, "is_yaw_equivariant": True}
    rows = [
        make_row("x", "a", region="seam", **fields),
        make_row("x", "b", region="pole", **fields),
        make_row("x", "c", target_deg=(180.0, 0.0), **fields),
    ]
    plan = plan_turns(rows, (0.0, 90.0), tmp_path)
    assert [region_of(turn.row) for turn in plan.turns] == [None, "pole", "elsewhere"]


@given(
    answer=st.sampled_from(["ahead", "behind on the left", "37", "-179"]), turn=st.floats(-180, 180, allow_nan=False)
)
def test_turning_an_answer_and_back_is_nothing(answer: str, turn: float) -> None:
    row = make_row(answer, protocol="bearing")
    protocol = protocol_of(row)
    assert protocol is not None
    moved = protocol.turned(row, turn)
    assert moved is not None
    (value,) = protocol.expected(moved)
    (start,) = protocol.expected(row)
    assert abs(wrap_yaw_deg(protocol.turned_value(moved, value, -turn) - start)) < 1e-5
    assert protocol.judge(moved, answer).measure == pytest.approx(abs(turn), abs=1e-5)


def test_rows_that_do_not_say_what_a_turn_does_are_refused(tmp_path: Path) -> None:
    write_panorama(tmp_path / "a.png", 0.0)
    generator = Seeing(place)
    with pytest.raises(DataError, match=r"row 0 \(line 2\): column 'yaw_equivariant' is missing or empty"):
        run(generator, tmp_path, "url,query,answer\na.png,q,red\n")
    assert generator.num_asked == 0


def test_a_run_resumes_and_plain_answers_are_shared(tmp_path: Path) -> None:
    image = write_panorama(tmp_path / "a.png", 0.0)
    table = "url,query,answer,protocol\na.png,q,0,bearing\n"
    assert run(Seeing(place), tmp_path, table, ()).num_reused == 0
    generator = Seeing(place)
    first = run(generator, tmp_path, table)
    assert (generator.num_asked, first.num_reused) == (3, 1)
    again = Seeing(place)
    second = run(again, tmp_path, table)
    assert (again.num_asked, second.num_reused) == (0, 4)
    assert second.scores.yaw == first.scores.yaw
    keys = [json.loads(line)["key"] for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert len(set(keys)) == 4
    write_panorama(image, 45.0)
    other = Seeing(place)
    run(other, tmp_path, table)
    assert other.num_asked == 4
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["yaw_consistency"]["items"] == 1
    assert report["counts"]["questions"] == 1
    with (tmp_path / "out/predictions_turned.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["sample_id"] for line in lines] == ["0@90", "0@180", "0@270"]
    scored = score_file(tmp_path / "out/predictions_turned.csv", tmp_path / "scored")
    assert scored.scores.protocols["bearing"].items == 3


def test_a_panorama_that_cannot_be_read_is_counted_and_not_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_panorama(tmp_path / "a.png", 0.0)
    table = "url,query,answer,protocol\na.png,q,0,bearing\nmissing.png,q,0,bearing\n"
    with caplog.at_level(logging.WARNING):
        result = run(Seeing(lambda yaw: f"{yaw}"), tmp_path, table)
    yaw = result.scores.yaw
    assert yaw is not None
    assert (yaw.items, yaw.unanswered, yaw.mean_accuracy) == (1, 1, 1.0)
    assert len(result.failures) == 4
    assert "cannot be turned" in caplog.text


def test_no_question_can_be_turned(tmp_path: Path) -> None:
    write_panorama(tmp_path / "a.png", 0.0)
    result = run(Seeing(place), tmp_path, "url,query,annotation\na.png,q,a text\n")
    assert result.scores.yaw is not None
    assert result.scores.yaw.to_dict() == {
        "items": 0,
        "unanswered": 0,
        "left_out": {"open question": 1},
        "accuracy_by_shift": {},
        "mean_accuracy": None,
        "worst_shift_accuracy": None,
        "worst_case": None,
        "agreement": None,
        "all_agree": None,
        "regions": {},
    }


def test_shifts_as_text() -> None:
    assert parse_shifts("0,90, 180,270") == SHIFTS
    assert parse_shifts("-90,0,360.5") == (270.0, 0.0, 0.5)
    for text in ("", "0", "90,180", "0,0", "0,360", "0,a"):
        with pytest.raises(ConfigError, match="yaw shifts are"):
            parse_shifts(text)
