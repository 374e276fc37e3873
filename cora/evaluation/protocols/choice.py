"""Multiple choice: which choice an answer names, how the choices are asked for, and their order.

A value is the text of a choice, so it means the same in any order of the choices.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import replace

from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.closed import normalize
from cora.evaluation.protocols.base import AnswerProtocol
from cora.evaluation.protocols.directions import direction_deg
from cora.geometry.sphere import wrap_yaw_deg

__all__ = ["MultipleChoice", "lists_its_choices", "shuffled", "with_choices"]

LETTERS = string.ascii_uppercase
INSTRUCTION = "Answer with the letter of the right choice."

_ALONE = re.compile(r"\W*([A-Za-z])\W*")
_LABELLED = re.compile(r"\W*([A-Z])\s*[).:\]]\s*(.+)", re.DOTALL)
_STATED = (
    # "The answer is B.", "option: (C)"; a letter that begins a phrase ("is A dog") is no letter.
    re.compile(r"(?i:\b(?:answer|option|choice))(?i:\s+is)?\s*:?\s*\(?([A-Z])\)?(?=\s*(?:[.,:;)\n]|$))"),
    re.compile(r"^\s*\(?([A-Z])\s*[).:](?=\s|$)", re.MULTILINE),
    re.compile(r"\(([A-Z])\)"),
)
# Choices that speak of others keep their place.
_REFERS_TO_OTHERS = re.compile(r"\b(?:of the above|of these|both [a-z] and [a-z])\b", re.IGNORECASE)


class MultipleChoice(AnswerProtocol):
    """One of the row's choices is right; it is named by its letter, its text, or both."""

    wanted = "the letter of the choice"

    def check(self, row: Row) -> None:
        """Raise DataError where there are no choices, too many, equal ones, or the answer is none of them."""
        choices = row.choices or ()
        if not 2 <= len(choices) <= len(LETTERS):
            raise DataError(
                f"multiple choice needs 2 to {len(LETTERS)} choices in column 'choices', got {len(choices)}"
            )
        if len({normalize(choice) for choice in choices}) < len(choices):
            raise DataError(f"two of the choices are the same: {' | '.join(choices)}")
        self.expected(row)

    def exact(self, row: Row, text: str) -> str | None:
        """Return the choice that a text is, or whose letter it is, or both."""
        choices = row.choices or ()
        # A label is looked for first: normalisation takes the A of "A. blue" for an article.
        if (labelled := _LABELLED.fullmatch(text)) and text not in choices:
            choice = _lettered(choices, labelled.group(1))
            return choice if choice is not None and normalize(choice) == normalize(labelled.group(2)) else None
        normalized = normalize(text)
        for choice in choices:
            if normalize(choice) == normalized:
                return choice
        alone = _ALONE.fullmatch(text)
        return None if alone is None else _lettered(choices, alone.group(1).upper())

    def pattern(self, row: Row, text: str) -> str | None:
        """Return the choice that a text states by letter, or else the only one whose text occurs in it."""
        choices = row.choices or ()
        for pattern in _STATED:
            stated = {choice for letter in pattern.findall(text) if (choice := _lettered(choices, letter)) is not None}
            if len(stated) == 1:
                return stated.pop()
        mentioned = _mentioned(choices, text)
        return mentioned[0] if len(mentioned) == 1 else None

    def compare(self, row: Row, value: str, expected: str) -> tuple[bool, float | None]:
        """Return whether two choices are the same one."""
        del row
        return value == expected, None

    def turned(self, row: Row, yaw_deg: float) -> Row | None:
        """Return the row with the answer turned, where every choice is a direction and one is the turned answer."""
        if any(direction_deg(choice) is None for choice in row.choices or ()):
            return None
        expected = self.expected(row)
        references = tuple(
            turned for choice in expected if (turned := self.turned_value(row, choice, yaw_deg)) is not None
        )
        if len(references) < len(expected):
            return None
        return replace(row, references=references, answer=None if row.answer is None else references[0])

    def turned_value(self, row: Row, value: str, yaw_deg: float) -> str | None:
        """Return the choice that is `yaw_deg` to the right of a choice, None where there is none.

        Choices that are not all directions stay as they are: nothing about them turns.
        """
        directions = {choice: direction_deg(choice) for choice in row.choices or ()}
        if None in directions.values():
            return value
        wanted = wrap_yaw_deg((directions[value] or 0.0) + yaw_deg)
        return next(
            (choice for choice, deg in directions.items() if abs(wrap_yaw_deg((deg or 0.0) - wanted)) < 1.0), None
        )


def with_choices(row: Row) -> str:
    """Return the question with its choices under it, one line each, and how to answer.

    Convention: choices are lettered from A in the order of the row.
    """
    lines = [f"{LETTERS[index]}. {choice}" for index, choice in enumerate(row.choices or ())]
    return "\n".join([row.query, *lines, INSTRUCTION])


def lists_its_choices(row: Row) -> bool:
    """Return whether the question itself lists the lettered choices, as tables of some benchmarks do."""
    choices = row.choices or ()
    return bool(choices) and all(
        re.search(rf"\b{LETTERS[index]}\W{{1,3}}{re.escape(choice)}", row.query)
        for index, choice in enumerate(choices[: len(LETTERS)])
    )


def shuffled(row: Row, seed: int) -> Row:
    """Return a multiple-choice row with its choices in an order of its own.

    The order is drawn from the seed, the name of the picture and the question. The accepted answers become texts of
    choices, so that a letter in the table goes on meaning the same choice.

    Raises:
        DataError: The question lists its choices itself, so their order cannot be changed.
    """
    if lists_its_choices(row):
        raise DataError("the question lists its choices itself, so they cannot be shuffled")
    choices = list(row.choices or ())
    free = [index for index, choice in enumerate(choices) if not _REFERS_TO_OTHERS.search(choice)]
    drawn = [choices[index] for index in free]
    random.Random(f"{seed} {row.image.name} {row.query}").shuffle(drawn)
    for index, choice in zip(free, drawn, strict=True):
        choices[index] = choice
    accepted = MultipleChoice().expected(row)
    if row.answer is not None:
        return replace(row, choices=tuple(choices), answer=accepted[0])
    return replace(row, choices=tuple(choices), references=tuple(accepted))


def _lettered(choices: Sequence[str], letter: str) -> str | None:
    index = LETTERS.index(letter)
    return choices[index] if index < len(choices) else None


def _mentioned(choices: Sequence[str], text: str) -> list[str]:
    """Return the choices whose words occur in a text, those that only occur inside a longer choice left out."""
    rest = f" {normalize(text)} "
    found = []
    for choice in sorted(choices, key=lambda choice: len(normalize(choice)), reverse=True):
        words = f" {normalize(choice)} "
        # One letter is no mention: "A" is an article in most texts.
        if (len(words) > 3 or words.strip().isdigit()) and words in rest:
            found.append(choice)
            rest = rest.replace(words, "  ")
    return found
