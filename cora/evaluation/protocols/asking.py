"""How questions are put to a model: choices stand under their question, in the table's order or in a drawn one."""

from __future__ import annotations

from collections.abc import Iterable

from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.protocols.choice import lists_its_choices, shuffled, with_choices
from cora.evaluation.protocols.registry import protocol_name

__all__ = ["asked_text", "shuffle_choices"]


def asked_text(row: Row) -> str:
    """Return what a model is asked: the question, with lettered choices unless it lists them itself."""
    is_choice = protocol_name(row) == "multiple_choice"
    return with_choices(row) if is_choice and not lists_its_choices(row) else row.query


def shuffle_choices(rows: Iterable[Row], seed: int) -> list[Row]:
    """Return the rows, those of multiple choice with their choices in an order of their own.

    Args:
        rows: Checked rows; see `cora.evaluation.protocols.registry.check_rows`.
        seed: Together with the name of the picture and the question, decides the order.

    Raises:
        DataError: A question lists its choices itself; names the row.
    """
    found = []
    for row in rows:
        try:
            found.append(shuffled(row, seed) if protocol_name(row) == "multiple_choice" else row)
        except DataError as error:
            raise DataError(f"row {row.sample_id} (line {row.line}): {error}") from None
    return found
