"""Bearings: where something is, in words, degrees or by the clock; judged by the angle between.

A value is a yaw in degrees in [-180, 180), positive to the right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median

from cora.data.table import Row
from cora.evaluation.protocols.base import AnswerProtocol, Verdict
from cora.evaluation.protocols.directions import clock_deg, direction_deg, directions_in
from cora.evaluation.protocols.numeric import NUMBER, absolute_tolerance, number_text, plain_number
from cora.geometry.sphere import wrap_yaw_deg

__all__ = ["Bearing", "angular_error_deg"]

# Half of the eighth of a circle that a phrase such as "ahead on the left" stands for.
DEFAULT_TOLERANCE_DEG = 22.5

_UNIT = r"(?:°|deg(?:rees?)?\b)"
_SIDE = r"(?:\s+(?:to|on|towards?)(?:\s+(?:the|your|my))?)?\s+(left|right)\b"
_ANGLE = re.compile(rf"(?:\b(left|right)(?:\s+by)?\s+)?({NUMBER})\s*{_UNIT}(?:{_SIDE})?", re.IGNORECASE)
_NUMBER = re.compile(NUMBER)


def angular_error_deg(first_deg: float, second_deg: float) -> float:
    """Return the angle between two yaws, in [0, 180] degrees; 175 and -175 are 10 apart."""
    return abs(wrap_yaw_deg(first_deg - second_deg))


class Bearing(AnswerProtocol):
    """Right is a yaw at most the tolerance (degrees, 22.5 by default) away from the accepted one."""

    wanted = "the direction, in degrees to the right of straight ahead (negative to the left),"
    is_directional = True

    def check(self, row: Row) -> None:
        """Raise DataError where the tolerance is no angle up to 180 or an accepted answer is no bearing."""
        absolute_tolerance(row, DEFAULT_TOLERANCE_DEG, largest=180.0)
        self.expected(row)

    def exact(self, row: Row, text: str) -> float | None:
        """Return the yaw of a text that is a direction in words, an angle, a number of degrees, or an hour."""
        del row
        text = text.strip().rstrip(".")
        if (yaw := direction_deg(text)) is not None:
            return yaw
        if found := _ANGLE.fullmatch(text):
            return _angle(found)
        if _NUMBER.fullmatch(text):
            return wrap_yaw_deg(plain_number(text))
        return clock_deg(text) if re.fullmatch(r"(?i)(?:at )?\d{1,2}\s*o.?clock", text) else None

    def pattern(self, row: Row, text: str) -> float | None:
        """Return the only angle of a text, else its only hour of the clock, else its only direction in words."""
        del row
        if angles := {_angle(found) for found in _ANGLE.finditer(text)}:
            return angles.pop() if len(angles) == 1 else None
        if (yaw := clock_deg(text)) is not None:
            return yaw
        directions = directions_in(text)
        yaw = directions.pop() if len(directions) == 1 else math.nan
        return None if math.isnan(yaw) else yaw

    def compare(self, row: Row, value: float, expected: float) -> tuple[bool, float | None]:
        """Return whether the yaws are near enough, and the angle between them in degrees."""
        error = angular_error_deg(value, expected)
        return error <= absolute_tolerance(row, DEFAULT_TOLERANCE_DEG) + 1e-9, error

    def measures(self, verdicts: Sequence[Verdict]) -> dict[str, float | None]:
        """Return the mean and the median angle between, in degrees, of the answers that could be read."""
        errors = [verdict.measure for verdict in verdicts if verdict.measure is not None]
        return {
            "mean_angular_error_deg": fmean(errors) if errors else None,
            "median_angular_error_deg": median(errors) if errors else None,
        }

    def turned(self, row: Row, yaw_deg: float) -> Row:
        """Return the row with the accepted yaws moved by `yaw_deg`, in degrees."""
        texts = tuple(number_text(self.turned_value(row, value, yaw_deg)) for value in self.expected(row))
        return replace(row, references=texts, answer=texts[0] if row.answer is not None else None)

    def turned_value(self, row: Row, value: float, yaw_deg: float) -> float:
        """Return a yaw moved by `yaw_deg`, wrapped."""
        del row
        return wrap_yaw_deg(value + yaw_deg)

    def agrees(self, row: Row, first: float, second: float) -> bool:
        """Return whether two yaws are at most the tolerance apart."""
        return self.compare(row, first, second)[0]


def _angle(found: re.Match[str]) -> float:
    """Return the yaw of a match of `_ANGLE`; "to the left" turns a positive angle around."""
    before, number, after = found.groups()
    side = (after or before or "right").lower()
    yaw = plain_number(number)
    return wrap_yaw_deg(-yaw if side == "left" and yaw > 0 else yaw)
