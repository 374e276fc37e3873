"""Numbers with a tolerance, and the tolerances of other protocols.

A value is a number in the unit of the accepted answer, where both have a unit of length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean, median

from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.closed import normalize
from cora.evaluation.protocols.base import AnswerProtocol, Verdict, accepted_texts

__all__ = ["NUMBER", "Numeric", "absolute_tolerance", "number_text", "plain_number"]

DEFAULT_TOLERANCE = "10%"

# "1,200" has a separator of thousands, "1,5" a decimal comma. A minus inside a range or a word is no sign. More than 18
# digits are noise, and enough of them no finite number.
NUMBER = r"(?:(?<![\w.,])[-+\u2212])?(?<![\w.])(?:\d{1,3}(?:,\d{3}){1,5}(?:\.\d+)?|\d{1,18}(?:[.,]\d+)?|\.\d+)(?![\d])"
_METRES = {
    "mm": 0.001,
    "cm": 0.01,
    "m": 1.0,
    "km": 1000.0,
    "ft": 0.3048,
    "millimeter": 0.001,
    "centimeter": 0.01,
    "meter": 1.0,
    "kilometer": 1000.0,
    "millimetre": 0.001,
    "centimetre": 0.01,
    "metre": 1.0,
    "kilometre": 1000.0,
    "foot": 0.3048,
    "feet": 0.3048,
}
_QUANTITY = re.compile(rf"({NUMBER})\s*(%|°|[A-Za-z]+)?")
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b")
_STATED = re.compile(r"(?i)(?:\banswer(?: is|:)?|\btotal(?: of| is|:)|=)(.*)")
_TOLERANCE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(%|°)?")


def plain_number(text: str) -> float:
    """Return the number that a match of `NUMBER` writes."""
    text = text.replace("\u2212", "-")
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        return float(text.replace(",", ""))
    return float(text.replace(",", "."))


def number_text(number: float) -> str:
    """Return a number to six decimals without an exponent, so that `NUMBER` matches all of it."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def absolute_tolerance(row: Row, default: float, *, largest: float = math.inf) -> float:
    """Return the number in a row's tolerance, or the default.

    Raises:
        DataError: It is no number, negative, a percentage, or above `largest`.
    """
    if row.tolerance is None:
        return default
    found = _TOLERANCE.fullmatch(row.tolerance)
    if found is None or found.group(2) == "%" or float(found.group(1)) > largest:
        bound = "" if math.isinf(largest) else f" up to {largest:g}"
        raise DataError(f"column 'tolerance' is a number from 0{bound} here, got '{row.tolerance}'")
    return float(found.group(1))


class Numeric(AnswerProtocol):
    """The answer is a number, in digits or as a word up to twelve, with or without a unit.

    ``tolerance`` is absolute (``0.5``) or relative to the accepted answer (``25%``); 10 % by default, which for counts
    below ten means equal.
    """

    wanted = "the number, in digits and with its unit"

    def check(self, row: Row) -> None:
        """Raise DataError where the tolerance or an accepted answer is no number."""
        for expected in self.expected(row):
            _allowed(row, expected)

    def exact(self, row: Row, text: str) -> float | None:
        """Return the number that a text is, with or without a unit."""
        word = normalize(text)
        if word in _WORDS:
            return float(_WORDS.index(word))
        found = _QUANTITY.fullmatch(text.strip().rstrip("."))
        return None if found is None else _in_unit_of(row, found)

    def pattern(self, row: Row, text: str) -> float | None:
        """Return the number that a text states after "answer" or "=", or the only one in it."""
        # An equation's result stands behind its last sign.
        rest = text
        while stated := _STATED.search(rest):
            rest = stated.group(1)
            if (value := _only_number(row, rest)) is not None:
                return value
        return _only_number(row, text)

    def compare(self, row: Row, value: float, expected: float) -> tuple[bool, float | None]:
        """Return whether the numbers differ by the tolerance at most, and by how much they differ."""
        error = abs(value - expected)
        return error <= _allowed(row, expected) * (1 + 1e-9) + 1e-12, error

    def best(self, found: Sequence[tuple[bool, float | None]]) -> tuple[bool, float | None]:
        """Return the comparison with the nearest accepted number."""
        return min(found, key=lambda pair: (not pair[0], pair[1] or 0.0))

    def measures(self, verdicts: Sequence[Verdict]) -> dict[str, float | None]:
        """Return the mean and the median absolute error of the answers that could be read."""
        errors = [verdict.measure for verdict in verdicts if verdict.measure is not None]
        return {
            "mean_absolute_error": fmean(errors) if errors else None,
            "median_absolute_error": median(errors) if errors else None,
        }

    def agrees(self, row: Row, first: float, second: float) -> bool:
        """Return whether two numbers differ by the tolerance at most, taken of the first."""
        return self.compare(row, second, first)[0]


def _allowed(row: Row, expected: float) -> float:
    found = _TOLERANCE.fullmatch(row.tolerance or DEFAULT_TOLERANCE)
    if found is None or found.group(2) == "°":
        raise DataError(f"column 'tolerance' is a number or a percentage, such as 0.5 or 10%, got '{row.tolerance}'")
    number = float(found.group(1))
    return number / 100 * abs(expected) if found.group(2) else number


def _only_number(row: Row, text: str) -> float | None:
    values = {value for found in _QUANTITY.finditer(text) if (value := _in_unit_of(row, found)) is not None}
    if not values:
        values = {float(_WORDS.index(word)) for word in _WORD.findall(normalize(text))}
    return values.pop() if len(values) == 1 else None


def _in_unit_of(row: Row, found: re.Match[str]) -> float:
    """Return the number of a match, converted where it and the accepted answer have different units of length."""
    number = plain_number(found.group(1))
    accepted = _QUANTITY.search(accepted_texts(row)[0])
    factors = [_METRES.get(_singular(match.group(2))) if match else None for match in (found, accepted)]
    if factors[0] is None or factors[1] is None:
        return number
    return number * factors[0] / factors[1]


def _singular(unit: str | None) -> str:
    unit = (unit or "").lower()
    return unit.removesuffix("s") if unit not in _METRES else unit
