"""Tables of texts whose cells no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

__all__ = ["escape_cell", "table_lines", "table_text", "unescape_cell"]

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


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a CSV file line by line, with escaped cells and a line feed at every line end."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    for cells in chain([header], ([escape_cell(cell) for cell in row] for row in rows)):
        writer.writerow(cells)
        yield stream.getvalue()
        stream.seek(0)
        stream.truncate()


def table_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a CSV file as a text, see `table_lines`."""
    return "".join(table_lines(header, rows))
