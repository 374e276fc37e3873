"""Reads the files of published data sets: documents, and fields that must be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cora.errors import DataError

__all__ = ["read_document", "text_field", "turns_of"]


def read_document(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: It cannot be read, or is not UTF-8 or JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def text_field(record: object, name: str, where: str) -> str:
    """Return a field that holds a text or a number, without white space around it.

    Raises:
        DataError: `record` is no object, or the field is missing, blank or something else; begins with `where`.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object, found {type(record).__name__}")
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise DataError(f"{where}: field '{name}' is missing, empty or not a text")
    return str(value).strip()


def turns_of(record: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return question and answer of a record's ``conversations``, written ``from``/``value`` or ``role``/``content``.

    Raises:
        DataError: There are not exactly two turns, or one has no text; begins with `where`.
    """
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2:
        raise DataError(f"{where}: field 'conversations' must hold a question and an answer")
    texts = [
        text_field(
            turn, "content" if isinstance(turn, Mapping) and "content" in turn else "value", f"{where}, turn {n}"
        )
        for n, turn in enumerate(turns)
    ]
    return texts[0], texts[1]
