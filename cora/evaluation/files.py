"""Writes files so that a reader never sees half of one, and cells so that a spreadsheet never runs one."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cora.errors import DataError

__all__ = ["escape_cell", "table_text", "unescape_cell", "write_file", "write_json"]

# A spreadsheet takes such a cell for a formula. Cells that look escaped already are escaped once more, so that
# `unescape_cell` undoes exactly what `escape_cell` did.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")


def escape_cell(text: str) -> str:
    """Return a text with an apostrophe in front where a spreadsheet would take it for a formula."""
    # NUL is no character of a CSV file; the journal keeps the text as it was.
    text = text.replace("\0", "\ufffd")
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_cell(text: str) -> str:
    """Return the text that `escape_cell` was given."""
    return text[1:] if _ESCAPED.match(text) else text


def table_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a CSV file with escaped cells and a line feed at every line end."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([escape_cell(cell) for cell in row] for row in rows)
    return stream.getvalue()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON document of plain values; NaN and infinity are refused, because JSON has none."""
    write_file(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_file(path: Path, text: str) -> None:
    """Write a UTF-8 file under a temporary name, sync it and rename it, so that it is whole or as it was before.

    Raises:
        DataError: It cannot be written, for instance because the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(text.encode("utf-8", "replace"))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
