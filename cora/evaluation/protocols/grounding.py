"""Grounding: a box around something on the sphere, judged by intersection over union; see `cora.geometry.boxes`.

A value is a `SphericalBox`, written as four numbers of degrees: yaw, pitch, horizontal and vertical field of view, in
this order in brackets or each behind its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from cora.data.table import Row
from cora.errors import DataError, GeometryError
from cora.evaluation.protocols.base import AnswerProtocol, Verdict
from cora.evaluation.protocols.numeric import absolute_tolerance, number_text
from cora.geometry.boxes import SphericalBox, box_iou
from cora.geometry.sphere import wrap_yaw_deg

__all__ = ["Grounding", "box_text"]

DEFAULT_IOU = 0.5

_NUMBER = r"([-+\u2212]?\d+(?:\.\d+)?)\s*°?"
_LIST = re.compile(rf"[\[(]\s*{_NUMBER}" + rf"\s*,\s*{_NUMBER}" * 3 + r"\s*[\])]")
_NAMED = re.compile(
    r"[\s,;{\"']*".join(rf"{name}(?:_deg)?[\"']?\s*[:=]?\s*{_NUMBER}" for name in ("yaw", "pitch", "hfov", "vfov")),
    re.IGNORECASE,
)


class Grounding(AnswerProtocol):
    """Right is a box whose intersection over union with the accepted one is at least ``tolerance``, 0.5 by default."""

    wanted = "the box, as [yaw, pitch, hfov, vfov] in degrees,"
    is_directional = True

    def check(self, row: Row) -> None:
        """Raise DataError where the tolerance is no share or an accepted answer is no box."""
        absolute_tolerance(row, DEFAULT_IOU, largest=1.0)
        self.expected(row)

    def expected(self, row: Row) -> list[SphericalBox]:
        """Return the accepted boxes; DataError says what a box is."""
        try:
            return super().expected(row)
        except DataError as error:
            raise DataError(
                f"{error}: a box is [yaw, pitch, hfov, vfov] in degrees, the fields of view below 180"
            ) from None

    def exact(self, row: Row, text: str) -> SphericalBox | None:
        """Return the box that a text is."""
        del row
        found = _LIST.fullmatch(text.strip()) or _NAMED.fullmatch(text.strip(" \n\t{}\"'"))
        return None if found is None else _box(found)

    def pattern(self, row: Row, text: str) -> SphericalBox | None:
        """Return the only box in a text."""
        del row
        found = [match for pattern in (_LIST, _NAMED) for match in pattern.finditer(text)]
        return _box(found[0]) if len({match.groups() for match in found}) == 1 else None

    def compare(self, row: Row, value: SphericalBox, expected: SphericalBox) -> tuple[bool, float | None]:
        """Return whether the boxes overlap enough, and their intersection over union."""
        overlap = box_iou(value, expected)
        return overlap >= absolute_tolerance(row, DEFAULT_IOU) - 1e-9, overlap

    def best(self, found: Sequence[tuple[bool, float | None]]) -> tuple[bool, float | None]:
        """Return the comparison with the accepted box that overlaps most."""
        return max(found, key=lambda pair: pair[1] or 0.0)

    def measures(self, verdicts: Sequence[Verdict]) -> dict[str, float | None]:
        """Return the mean intersection over union; an answer without a box has none in common."""
        return {"mean_iou": fmean(verdict.measure or 0.0 for verdict in verdicts) if verdicts else None}

    def turned(self, row: Row, yaw_deg: float) -> Row:
        """Return the row with the accepted boxes moved by `yaw_deg`."""
        texts = tuple(box_text(self.turned_value(row, box, yaw_deg)) for box in self.expected(row))
        return replace(row, references=texts, answer=texts[0] if row.answer is not None else None)

    def turned_value(self, row: Row, value: SphericalBox, yaw_deg: float) -> SphericalBox:
        """Return a box moved by `yaw_deg`."""
        del row
        return replace(value, yaw_deg=wrap_yaw_deg(value.yaw_deg + yaw_deg))

    def agrees(self, row: Row, first: SphericalBox, second: SphericalBox) -> bool:
        """Return whether two boxes overlap as much as a right answer must."""
        return self.compare(row, first, second)[0]


def box_text(box: SphericalBox) -> str:
    """Return a box as `Grounding` reads it."""
    angles = (box.yaw_deg, box.pitch_deg, box.hfov_deg, box.vfov_deg)
    return f"[{', '.join(map(number_text, angles))}]"


def _box(found: re.Match[str]) -> SphericalBox | None:
    """Return the box of a match, or None where the angles describe none."""
    yaw, pitch, hfov, vfov = (float(number.replace("\u2212", "-")) for number in found.groups())
    try:
        return SphericalBox(yaw, pitch, hfov, vfov)
    except GeometryError:
        return None
