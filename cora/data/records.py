"""Reads tables (CSV, JSON lines, Parquet) into records: one plain dict per row, with the line it came from.

Owns file formats and their faults. What the columns mean is decided in `cora.data.table`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cora.errors import BackendUnavailable, DataError, did_you_mean

__all__ = ["Record", "iterate_records", "read_records"]

# (line number from 1, column name in lower case -> cell)
Record = tuple[int, dict[str, Any]]

# A cell larger than this is a quote that was never closed rather than a text.
_MAX_CELL_CHARACTERS = 16 * 2**20
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# Tried, in this order, only to name the encoding a file probably has: nothing is decoded with them.
_LIKELY_ENCODINGS = ("cp949", "shift_jis", "gb18030", "cp1252")


def read_records(path: str | Path) -> list[Record]:
    """Return the rows of a table as a list, see `iterate_records`."""
    return list(iterate_records(path))


def iterate_records(path: str | Path) -> Iterator[Record]:
    """Yield the rows of a table as (line, cells by column name); names are stripped and in lower case.

    One row is in memory at a time. Faults further down a table are raised when it is read that far.

    Args:
        path: A ``.csv`` (UTF-8, with or without byte order mark), ``.jsonl`` / ``.ndjson`` or ``.parquet`` file.

    Raises:
        DataError: The file is missing, empty, has no rows, or a row is malformed; the message names file and line.
        BackendUnavailable: A Parquet file was given and pyarrow is not installed.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".ndjson": _read_json_lines, ".parquet": _read_parquet}
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file():
        raise DataError(f"{path}: not a file")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        hint = did_you_mean(path.suffix.lower(), readers)
        raise DataError(f"{path}: unknown table format '{path.suffix}'{hint}; known: {', '.join(sorted(readers))}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    is_empty = True
    try:
        for record in reader(path):
            is_empty = False
            yield record
    except UnicodeDecodeError:
        raise DataError(_encoding_fault(path)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if is_empty:
        raise DataError(f"{path}: no rows below the header")


def _read_csv(path: Path) -> Iterator[Record]:
    previous_limit = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header: list[str] | None = None
            for cells in reader:
                start, line = line + 1, reader.line_num
                if not cells:
                    continue
                if any("\0" in cell for cell in cells):
                    raise DataError(f"{path}, line {start}: contains a NUL byte; the file is damaged or not text")
                if header is None:
                    header = _column_names(path, cells)
                elif len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {start}: {len(cells)} cells where the header has {len(header)}; "
                        "a text with a comma, quote or line break must stand in double quotes"
                    )
                else:
                    yield start, dict(zip(header, cells, strict=True))
            if header is None:
                raise DataError(f"{path}: the file is empty")
    except csv.Error as error:
        raise DataError(f"{path}, line {line + 1}: not valid CSV: {error}") from None
    finally:
        csv.field_size_limit(previous_limit)


def _column_names(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: column '{repeated[0]}' appears {names.count(repeated[0])} times in the header")
    return names


def _read_json_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, start=1):
            if "\0" in text:
                raise DataError(f"{path}, line {line}: contains a NUL byte; the file is damaged or not text")
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {line}: not valid JSON: {error}") from None
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {line}: expected a JSON object, found {type(record).__name__}")
            yield line, {str(name).strip().lower(): value for name, value in record.items()}


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet as parquet  # an optional package
    except ImportError:
        raise BackendUnavailable(
            f"{path}: reading Parquet needs pyarrow: pip install pyarrow (or convert the file to .csv or .jsonl)"
        ) from None
    try:
        batches = parquet.ParquetFile(path).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for line, row in enumerate(rows, start=1):
            yield line, {str(name).strip().lower(): value for name, value in row.items()}
    except (ValueError, OSError) as error:  # pyarrow's own exceptions derive from these
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None


def _encoding_fault(path: Path) -> str:
    """Return the message for a file that is not UTF-8: where it stops being so, what it probably is, the remedy."""
    content = path.read_bytes()
    likely = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    offset = 0
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start
    line = content.count(b"\n", 0, offset) + 1
    likely = likely or next((name for name in _LIKELY_ENCODINGS if _decodes(content, name)), None)
    guess = f"; it may be {likely}: iconv -f {likely} -t utf-8 IN > OUT" if likely else ""
    byte = content[offset]
    return f"{path}, line {line}: not UTF-8 at byte {offset} (0x{byte:02x}){guess}"


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
