"""Which protocol judges a row: the one it names, else the one its type stands for."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from cora.data.table import Row
from cora.errors import DataError, RegistryError
from cora.evaluation.closed import accepted_answers, type_name
from cora.evaluation.protocols.base import AnswerProtocol
from cora.registry import Registry

__all__ = ["PROTOCOLS", "check_rows", "protocol_name", "protocol_of"]

PROTOCOLS: Registry[type[AnswerProtocol]] = Registry("protocol")
PROTOCOLS.add("exact", "cora.evaluation.protocols.exact:ExactMatch")
PROTOCOLS.add("multiple_choice", "cora.evaluation.protocols.choice:MultipleChoice")
PROTOCOLS.add("yes_no", "cora.evaluation.protocols.yes_no:YesNo")
PROTOCOLS.add("absent_object", "cora.evaluation.protocols.yes_no:AbsentObject")
PROTOCOLS.add("numeric", "cora.evaluation.protocols.numeric:Numeric")
PROTOCOLS.add("bearing", "cora.evaluation.protocols.bearing:Bearing")
PROTOCOLS.add("grounding", "cora.evaluation.protocols.grounding:Grounding")

# Types of tables that name a protocol in other words. Other types say what is asked, not how it is judged.
_BY_TYPE = {
    "choice": "multiple_choice",
    "mcq": "multiple_choice",
    "true_false": "yes_no",
    "negative": "absent_object",
    "negative_object": "absent_object",
}

logger = logging.getLogger(__name__)


def protocol_name(row: Row) -> str | None:
    """Return the name of the protocol that judges a row, or None for an open question.

    The column ``protocol`` decides, then a type that is the name of a protocol; multiple choice by its type needs
    choices too. What is left is judged by exact match where it has a short answer, choices or a closed type.
    """
    if row.protocol is not None:
        return type_name(row.protocol)
    kind = type_name(row.type or "")
    name = _BY_TYPE.get(kind, kind)
    if name in PROTOCOLS and (name != "multiple_choice" or row.choices is not None):
        return name
    return None if accepted_answers(row) is None else "exact"


def protocol_of(row: Row) -> AnswerProtocol | None:
    """Return the protocol that judges a row, or None for an open question.

    Raises:
        DataError: The row names a protocol that does not exist.
    """
    name = protocol_name(row)
    try:
        return None if name is None else PROTOCOLS.get(name)()
    except RegistryError as error:
        raise DataError(f"row {row.sample_id} (line {row.line}): {error}") from None


def check_rows(rows: Iterable[Row]) -> None:
    """Raise DataError, naming the row, where a row cannot be judged by its protocol."""
    unused = 0
    for row in rows:
        protocol = protocol_of(row)
        unused += row.choices is not None and protocol_name(row) != "multiple_choice"
        if protocol is None:
            continue
        try:
            protocol.check(row)
        except DataError as error:
            raise DataError(f"row {row.sample_id} (line {row.line}), protocol {protocol_name(row)}: {error}") from None
    if unused:
        logger.warning(
            "%d rows have choices that nobody is shown: set their column 'protocol' or 'type' to multiple_choice",
            unused,
        )
