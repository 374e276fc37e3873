"""The data set table: which columns hold the panorama, the question and the answer, and what each row says.

Images are only named here, never opened: a missing picture is the concern of whoever loads it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from cora.data.records import Record, iterate_records
from cora.errors import DataError, did_you_mean

__all__ = [
    "ANSWER_COLUMNS",
    "IMAGE_COLUMNS",
    "QUERY_COLUMNS",
    "Row",
    "cell_text",
    "choices_cell",
    "merge_rows",
    "read_rows",
    "sharing_row",
    "stripped_cell",
    "target_cells",
]

# The first column that exists is used.
IMAGE_COLUMNS = ("url", "image", "image_path", "file_name")
QUERY_COLUMNS = ("query", "instruction", "original_query", "prompt")
ANSWER_COLUMNS = ("annotation", "response", "reference")

_TRUTHS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One question about one panorama.

    Attributes:
        sample_id: Name of the sample; the position among the rows, from 0, where the table gives none.
        image: Path of the panorama; not checked to exist.
        query: The question.
        references: Accepted answers, at least one.
        answer: The short answer of a closed question.
        type: Kind of question, as the table names it.
        choices: The answers to choose from, for multiple choice.
        line: Line of the table the row starts on, from 1.
        is_yaw_equivariant: Whether the references stay right when the panorama is turned; None where the table does not
            say.
        protocol: Name of how answers are read and judged, see `cora.evaluation.protocols`; None leaves it to the type.
        tolerance: How far from the reference an answer may be; what it means is the protocol's concern.
        target_deg: (yaw, pitch) of what the question is about; None where the table does not say.
        region: ``seam``, ``pole`` or another name of a part of the test that is scored apart.
    """

    sample_id: str
    image: Path
    query: str
    references: tuple[str, ...]
    answer: str | None
    type: str | None
    choices: tuple[str, ...] | None
    line: int
    is_yaw_equivariant: bool | None = None
    protocol: str | None = None
    tolerance: str | None = None
    target_deg: tuple[float, float] | None = None
    region: str | None = None


# A table has many questions about a picture, and asks the same about many pictures.
_SHARED = ("image", "query", "references", "answer", "type", "choices")


@dataclass(frozen=True, slots=True)
class _Columns:
    image: str
    query: str
    reference: str


def read_rows(
    path: str | Path,
    *,
    image_root: str | Path | None = None,
    merge_references: bool = False,
    limit: int | None = None,
) -> list[Row]:
    """Return the rows of a data set table in file order; equal cells share their memory.

    Args:
        path: CSV, JSON lines or Parquet, see `cora.data.records.iterate_records`.
        image_root: Folder that relative image paths start from; every image must then lie inside it. Without it they
            start from the folder of the table.
        merge_references: Whether rows with the same (image, query) become one row with several references, see
            `merge_rows`; training wants them apart.
        limit: Read this many rows and no further.

    Raises:
        DataError: A column is missing, a cell is empty or malformed, an image is a web address or lies outside
            `image_root`, a sample id is used twice, or the file cannot be read. Names file and line.
    """
    path = Path(path)
    root = Path(path.parent if image_root is None else image_root)
    if image_root is not None and not root.is_dir():
        raise DataError(f"image root {root}: no such folder")
    rows: list[Row] = []
    columns: _Columns | None = None
    same: dict[Any, Any] = {}
    for index, record in enumerate(islice(iterate_records(path), limit)):
        columns = columns or _find_columns(path, record[1])
        try:
            row = _row(record, index, columns, root, contain=image_root is not None)
            rows.append(sharing_row(row, same))
        except DataError as error:
            raise DataError(f"{path}, line {record[0]}: {error}") from None
    _check_sample_ids(path, rows)
    return merge_rows(rows, name=str(path)) if merge_references else rows


def sharing_row(row: Row, same: dict[Any, Any]) -> Row:
    """Return a row that shares what it has in common with earlier ones; `same` holds one of everything seen."""
    shared = {name: same.setdefault(value, value) for name in _SHARED if (value := getattr(row, name)) is not None}
    return replace(row, **shared)


def merge_rows(rows: Iterable[Row], *, name: str = "rows") -> list[Row]:
    """Return one row per distinct (image, query), in order of first appearance, with all references of its rows.

    Args:
        rows: Rows as read; they may carry several references already.
        name: What the rows came from, for error messages.

    Raises:
        DataError: Rows that ask the same disagree about the answer, the type, the choices, the protocol or its
            tolerance.
    """
    merged: dict[tuple[Path, str], Row] = {}
    for row in rows:
        first = merged.setdefault((row.image, row.query), row)
        if first is row:
            continue
        for field in ("answer", "type", "choices", "protocol", "tolerance"):
            if getattr(first, field) != getattr(row, field):
                raise DataError(
                    f"{name}, line {row.line}: the same image and query as line {first.line}, "
                    f"but {field} is {getattr(row, field)!r} instead of {getattr(first, field)!r}"
                )
        merged[row.image, row.query] = replace(first, references=first.references + row.references)
    return list(merged.values())


def cell_text(value: object) -> str | None:
    """Return a cell as text, or None where it is absent or blank; numbers and truth values are written out."""
    # A number that is not one is how a table of numbers writes an empty cell.
    if value is None or isinstance(value, (list, dict, bytes)) or value != value:
        return None
    text = value if isinstance(value, str) else str(value)
    return text if text.strip() else None


def _find_columns(path: Path, cells: Mapping[str, Any]) -> _Columns:
    return _Columns(
        image=_find_column(path, cells, "image", IMAGE_COLUMNS),
        query=_find_column(path, cells, "question", QUERY_COLUMNS),
        # A table of closed questions may hold nothing but their answers.
        reference=_find_column(path, cells, "answer", (*ANSWER_COLUMNS, "answer")),
    )


def _find_column(path: Path, cells: Mapping[str, Any], role: str, names: tuple[str, ...]) -> str:
    for name in names:
        if name in cells:
            return name
    found = [name for name in cells if name]
    hint = next((hint for name in found if (hint := did_you_mean(name, names))), "")
    message = f"{path}: no {role} column; expected one of {', '.join(names)}; found {', '.join(found) or 'none'}{hint}"
    if len(found) == 1 and re.search(r"[;\t]", found[0]):
        message += "; the columns must be separated by commas"
    raise DataError(message)


def _row(record: Record, index: int, columns: _Columns, root: Path, *, contain: bool) -> Row:
    line, cells = record
    return Row(
        sample_id=(cell_text(cells.get("sample_id")) or str(index)).strip(),
        image=_image_path(_required(cells, columns.image), root, contain=contain),
        query=_required(cells, columns.query),
        references=_references(cells, columns.reference),
        answer=cell_text(cells.get("answer")),
        type=stripped_cell(cells, "type") or stripped_cell(cells, "question_type"),
        choices=choices_cell(cells.get("choices")),
        line=line,
        is_yaw_equivariant=_truth(cells, "yaw_equivariant"),
        protocol=stripped_cell(cells, "protocol"),
        tolerance=stripped_cell(cells, "tolerance"),
        target_deg=target_cells(cells),
        region=stripped_cell(cells, "region"),
    )


def stripped_cell(cells: Mapping[str, Any], column: str) -> str | None:
    """Return a cell as text without white space around it, or None where it is absent or blank."""
    return (cell_text(cells.get(column)) or "").strip() or None


def target_cells(cells: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return (yaw, pitch) in degrees of the columns ``target_yaw_deg`` and ``target_pitch_deg``.

    The pitch is 0 where only the yaw is given; None where neither is.

    Raises:
        DataError: A cell is no number, the pitch is outside [-90, 90], or stands there without a yaw.
    """
    yaw, pitch = (stripped_cell(cells, name) for name in ("target_yaw_deg", "target_pitch_deg"))
    if yaw is None:
        if pitch is not None:
            raise DataError("column 'target_pitch_deg' stands there without 'target_yaw_deg'")
        return None
    try:
        target = float(yaw), float(pitch or 0)
    except ValueError:
        raise DataError(
            f"columns 'target_yaw_deg' and 'target_pitch_deg' hold degrees, got '{yaw}', '{pitch}'"
        ) from None
    if not (math.isfinite(target[0]) and -90 <= target[1] <= 90):
        raise DataError(f"the target is at yaw {target[0]:g} and pitch {target[1]:g}; a pitch is in [-90, 90]")
    return target


def _required(cells: Mapping[str, Any], column: str) -> str:
    text = cell_text(cells.get(column))
    if text is None:
        raise DataError(f"column '{column}' is empty or not a text")
    return text


def _truth(cells: Mapping[str, Any], column: str) -> bool | None:
    text = cell_text(cells.get(column))
    if text is None:
        return None
    value = _TRUTHS.get(text.strip().lower())
    if value is None:
        raise DataError(f"column '{column}' is {' or '.join(_TRUTHS)}, got '{text[:80]}'")
    return value


def _references(cells: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = cells.get(column)
    if not isinstance(value, list):
        return (_required(cells, column),)
    texts = tuple(text for item in value if (text := cell_text(item)))
    if not texts or len(texts) != len(value):
        raise DataError(f"column '{column}' must be a text or a list of texts")
    return texts


def _image_path(cell: str, root: Path, *, contain: bool) -> Path:
    cell = cell.strip()
    if _SCHEME.match(cell):
        raise DataError(f"the image is an address ({cell[:80]}); download it first and name the file")
    path = Path(os.path.normpath(root / cell))
    # Compared as written, not on disk: what a link inside the folder points to is its owner's choice.
    if contain and not path.is_relative_to(os.path.normpath(root)):
        raise DataError(f"image {cell} lies outside the image root {root}")
    return path


def choices_cell(value: object) -> tuple[str, ...] | None:
    """Return the choices of a cell: a list, a JSON list as text, or texts separated by ``|``; None where blank."""
    text = None if isinstance(value, list) else cell_text(value)
    items: object = value
    if text is not None and text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except ValueError as error:
            raise DataError(f"column 'choices' is not a JSON list: {error}") from None
    elif text is not None:
        items = [part.strip() for part in text.split("|")]
    if not isinstance(items, list):
        return None
    choices = tuple(choice for item in items if (choice := cell_text(item)))
    if len(choices) < len(items):
        raise DataError("column 'choices' has an empty choice")
    return choices or None


def _check_sample_ids(path: Path, rows: Iterable[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.sample_id, row)
        # The references of one sample may stand on rows of their own, under one id.
        if (first.image, first.query) != (row.image, row.query):
            raise DataError(f"{path}, line {row.line}: sample_id '{row.sample_id}' is taken by line {first.line}")
