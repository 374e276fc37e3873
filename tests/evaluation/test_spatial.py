"""Numbers, bearings and boxes: how they are read, and how near is near enough."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import make_row

from cora.data.synthetic.world import PLACES
from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.protocols.bearing import Bearing, angular_error_deg
from cora.evaluation.protocols.grounding import Grounding, box_text
from cora.evaluation.protocols.numeric import Numeric
from cora.evaluation.protocols.registry import check_rows
from cora.evaluation.protocols.scores import judge_rows, score_protocols
from cora.geometry.boxes import SphericalBox


def number_row(answer: str, **fields: Any) -> Row:
    return make_row(answer, protocol="numeric", **fields)


def bearing_row(answer: str, **fields: Any) -> Row:
    return make_row(answer, protocol="bearing", **fields)


def box_row(answer: str, **fields: Any) -> Row:
    return make_row(answer, protocol="grounding", **fields)


@pytest.mark.parametrize(
    ("answer", "value", "rung"),
    [
        ("3", 3.0, "exact"),
        ("Three.", 3.0, "exact"),
        ("3.5 m", 3.5, "exact"),
        ("350 cm", 3.5, "exact"),
        ("10 feet", 3.048, "exact"),
        ("1,200", 1200.0, "exact"),
        ("1,5", 1.5, "exact"),
        ("-4", -4.0, "exact"),
        ("\u22124", -4.0, "exact"),
        ("There are 7 chairs.", 7.0, "pattern"),
        ("There are seven chairs.", 7.0, "pattern"),
        ("2 tables and 4 chairs, so the answer is 6", 6.0, "pattern"),
        ("2 + 4 = 6", 6.0, "pattern"),
        ("4 chairs, yes, 4", 4.0, "pattern"),
        ("about 3.2 metres away", 3.2, "pattern"),
        ("2 or 3", None, "none"),
        ("2-3", None, "none"),
        ("many", None, "none"),
    ],
)
def test_numbers(answer: str, value: float | None, rung: str) -> None:
    verdict = Numeric().judge(number_row("3.5 metres"), answer)
    assert verdict.value == (None if value is None else pytest.approx(value))
    assert verdict.rung == rung


@pytest.mark.parametrize(
    ("tolerance", "nearest", "too_far"),
    [(None, "11", "11.1"), ("2", "12", "12.1"), ("25%", "7.5", "7.4"), ("0", "10", "10.01"), (".5", "9.5", "9.4")],
)
def test_tolerances_of_numbers(tolerance: str | None, nearest: str, too_far: str) -> None:
    row = number_row("10", tolerance=tolerance)
    assert Numeric().judge(row, nearest).is_right
    assert not Numeric().judge(row, too_far).is_right


def test_counts_must_be_equal_by_default() -> None:
    assert not Numeric().judge(number_row("9"), "8").is_right
    assert Numeric().judge(number_row("nine"), "There are 9 of them").is_right


def test_several_accepted_numbers_and_the_errors() -> None:
    rows = [make_row(None, references=("3", "10"), protocol="numeric")] * 4
    found = score_protocols(rows, judge_rows(rows, ["3", "9", "5", "?"]))["numeric"]
    assert (found.correct, found.unextracted) == (2, 1)
    assert found.measures == {"mean_absolute_error": 1.0, "median_absolute_error": 1.0}


@pytest.mark.parametrize(
    ("answer", "value", "rung"),
    [
        *((place, deg, "exact") for place, deg in PLACES.items() if deg != 180.0),
        ("behind", -180.0, "exact"),
        ("ahead on the left", -45.0, "exact"),
        ("Behind you, on the right side.", 135.0, "exact"),
        ("front-left", -45.0, "exact"),
        ("90", 90.0, "exact"),
        ("270°", -90.0, "exact"),
        ("-45 degrees", -45.0, "exact"),
        ("45 degrees to the left", -45.0, "exact"),
        ("3 o'clock", 90.0, "exact"),
        ("The tower is to the left.", -90.0, "pattern"),
        ("It stands at 30° from the centre", 30.0, "pattern"),
        ("Turn left by 120 degrees", -120.0, "pattern"),
        ("You find it at 7 o’clock.", -150.0, "pattern"),
        ("The dog to the left of the tree is behind", None, "none"),
        ("It is to the left", -90.0, "pattern"),
        ("That is right, it is behind", None, "none"),
        ("Right. It stands behind you.", None, "none"),
        ("behind. on the right", None, "none"),
        ("left and right", None, "none"),
        ("30° or 60°", None, "none"),
        ("above", None, "none"),
        ("", None, "none"),
    ],
)
def test_bearings(answer: str, value: float | None, rung: str) -> None:
    verdict = Bearing().judge(bearing_row("0"), answer)
    assert (verdict.value, verdict.rung) == (value, rung)


@given(first=st.floats(-720, 720), second=st.floats(-720, 720))
def test_the_error_of_a_bearing_is_the_angle_between_two_directions(first: float, second: float) -> None:
    a, b = math.radians(first), math.radians(second)
    cosine = math.cos(a) * math.cos(b) + math.sin(a) * math.sin(b)
    expected = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    # acos loses half of the digits near 0 and 180.
    assert angular_error_deg(first, second) == pytest.approx(expected, abs=1e-5)


def test_errors_wrap_at_the_seam_and_the_tolerance_holds() -> None:
    assert angular_error_deg(175, -175) == pytest.approx(10)
    assert angular_error_deg(-180, 180) == 0.0
    rows = [bearing_row("175"), bearing_row("175", tolerance="5"), bearing_row("behind"), bearing_row("0")]
    verdicts = judge_rows(rows, ["-175", "-175", "170 degrees", "to the right"])
    assert [verdict.is_right for verdict in verdicts if verdict] == [True, False, True, False]
    measures = score_protocols(rows, verdicts)["bearing"].measures
    assert measures == {
        "mean_angular_error_deg": pytest.approx((10 + 10 + 10 + 90) / 4),
        "median_angular_error_deg": pytest.approx(10),
    }


@pytest.mark.parametrize(
    ("answer", "rung"),
    [
        ("[10, -5, 30, 20]", "exact"),
        ("(10.0, -5.0, 30, 20)", "exact"),
        ('{"yaw": 10, "pitch": -5, "hfov": 30, "vfov": 20}', "exact"),
        ("yaw=10, pitch=-5, hfov=30, vfov=20", "exact"),
        ("yaw 10°, pitch \u22125°, hfov 30°, vfov 20°", "exact"),
        ("The box is [10, -5, 30, 20].", "pattern"),
        ("[10, -5, 30, 20] or [0, 0, 1, 1]", "none"),
        ("[10, -5, 30, 200]", "none"),
        ("[10, -5, 30]", "none"),
        ("on the left", "none"),
    ],
)
def test_boxes_are_read(answer: str, rung: str) -> None:
    verdict = Grounding().judge(box_row("[10, -5, 30, 20]"), answer)
    assert verdict.rung == rung
    assert verdict.value == (None if rung == "none" else SphericalBox(10, -5, 30, 20))


def test_boxes_are_right_from_half_an_overlap_on() -> None:
    row = box_row("[179, 0, 20, 20]")
    # A third of the width apart, two boxes of the same size share about (1 - 1/3) / (1 + 1/3) = 0.5 of their union.
    near, far = "[-175, 0, 20, 20]", "[-170, 0, 20, 20]"
    rows = [row, row, row, box_row("[179, 0, 20, 20]", tolerance="0.2")]
    verdicts = judge_rows(rows, [near, far, "nowhere", far])
    assert [verdict.is_right for verdict in verdicts if verdict] == [True, False, False, True]
    mean = score_protocols(rows, verdicts)["grounding"].measures["mean_iou"]
    overlaps = [verdict.measure or 0.0 for verdict in verdicts if verdict]
    assert mean == pytest.approx(sum(overlaps) / 4)
    assert overlaps[1] == pytest.approx((20 - 11) / (20 + 11), abs=0.01)


@given(yaw=st.floats(-180, 179), pitch=st.floats(-90, 90), hfov=st.floats(1, 179), vfov=st.floats(1, 179))
def test_a_written_box_is_read_again(yaw: float, pitch: float, hfov: float, vfov: float) -> None:
    box = SphericalBox(yaw, pitch, hfov, vfov)
    row = box_row(box_text(box))
    check_rows([row])
    assert Grounding().judge(row, box_text(box)).measure == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (number_row("many"), "'many' is not one"),
        (number_row("3", tolerance="some"), r"a number or a percentage, such as 0\.5 or 10%, got 'some'"),
        (bearing_row("above"), "'above' is not one"),
        (bearing_row("90", tolerance="10%"), r"column 'tolerance' is a number from 0 up to 180 here, got '10%'"),
        (box_row("[0, 0, 200, 10]"), r"a box is \[yaw, pitch, hfov, vfov\] in degrees"),
        (box_row("[0, 0, 20, 10]", tolerance="2"), "from 0 up to 1 here"),
    ],
)
def test_rows_that_cannot_be_judged(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=rf"row 0 \(line 2\), protocol .*{message}"):
        check_rows([row])


MESSY = st.text(st.sampled_from("0123456789.,-+%°[]():= \\nabAB") | st.characters(), max_size=60)
JUDGED = [
    make_row("blue", choices=("red", "blue"), protocol="multiple_choice"),
    make_row("yes", protocol="yes_no"),
    make_row("no", protocol="absent_object"),
    number_row("3.5 m"),
    bearing_row("behind"),
    box_row("[10, -5, 30, 20]"),
    make_row("red", protocol="exact"),
]


@given(answer=MESSY | st.integers().map(str) | st.just("9" * 400 + "°") | st.just(f"[{'9' * 400}, 0, 1, 1]"))
def test_any_answer_has_a_verdict_that_json_can_hold(answer: str) -> None:
    verdicts = judge_rows(JUDGED, [answer] * len(JUDGED))
    for verdict in verdicts:
        assert verdict is not None
        assert (verdict.value is None) == (verdict.rung == "none")
        assert verdict.measure is None or math.isfinite(verdict.measure)
    for score in score_protocols(JUDGED, verdicts).values():
        json.dumps(score.to_dict(), allow_nan=False)
