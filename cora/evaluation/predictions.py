"""The predictions file: questions, answers and references in one table, written by a run and scored without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cora.data.records import iterate_records
from cora.data.table import (
    ANSWER_COLUMNS,
    IMAGE_COLUMNS,
    QUERY_COLUMNS,
    Row,
    cell_text,
    choices_cell,
    merge_rows,
    sharing_row,
    stripped_cell,
    target_cells,
)
from cora.errors import DataError, did_you_mean
from cora.evaluation.cells import table_lines, unescape_cell
from cora.files import write_file

__all__ = ["PREDICTIONS_NAME", "PREDICTION_COLUMNS", "Predictions", "read_predictions", "write_predictions"]

PREDICTIONS_NAME = "predictions.csv"
PREDICTION_COLUMNS = ("prediction", "output", "caption")
_COLUMNS = ("sample_id", "image_path", "query", "prediction", "reference")
_OPTIONAL = ("type", "answer", "choices", "protocol", "tolerance", "target_yaw_deg", "target_pitch_deg", "region")
_CHOICE_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Questions with their answers.

    Attributes:
        rows: One row per distinct (image, query, answer), with all references of that image and query.
        answers: An answer per row; None where the file has an empty cell.
    """

    rows: list[Row]
    answers: list[str | None]


def write_predictions(path: Path, rows: Sequence[Row], answers: Iterable[str | None]) -> None:
    """Write one line per reference; an answer that is None becomes an empty cell.

    Cells that a spreadsheet would run as a formula get an apostrophe in front, which `read_predictions` takes off.
    Columns that decide how an answer is judged (type, answer, choices, protocol and so on) are added where a row has a
    value for them.
    """
    present = {name for row in rows for name, text in _optional_cells(row).items() if text}
    optional = [name for name in _OPTIONAL if name in present]
    write_file(path, table_lines((*_COLUMNS, *optional), _lines(rows, answers, optional)))


def _lines(rows: Sequence[Row], answers: Iterable[str | None], optional: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for row, answer in zip(rows, answers, strict=True):
        image, cells = str(row.image.absolute()), _optional_cells(row)
        extra = [cells[name] for name in optional]
        for reference in row.references:
            yield (row.sample_id, image, row.query, answer or "", reference, *extra)


def _optional_cells(row: Row) -> dict[str, str]:
    yaw, pitch = row.target_deg or ("", "")
    choices = f" {_CHOICE_SEPARATOR} ".join(row.choices or ())
    if choices.startswith("[") or any(_CHOICE_SEPARATOR in choice for choice in row.choices or ()):
        choices = json.dumps(row.choices)
    plain = (row.type, row.answer, choices, row.protocol, row.tolerance, yaw, pitch, row.region)
    return {name: "" if value is None else str(value) for name, value in zip(_OPTIONAL, plain, strict=True)}


def read_predictions(*paths: str | Path) -> Predictions:
    """Return the questions and answers of predictions files, written by CORA or by anything else.

    Needed are a prediction (``prediction``, ``output`` or ``caption``) and a reference (``annotation``, ``response``,
    ``reference`` or ``answer``). Rows with the same image and query are references of one question; where a file has no
    such columns, every row is a question of its own. An empty prediction is an answer that is missing, not a bad one.

    Raises:
        DataError: A column or reference is missing, or the file cannot be read; see `cora.data.records.read_records`.
    """
    rows: list[Row] = []
    answers: list[str | None] = []
    same: dict[Any, Any] = {}
    for path in map(Path, paths):
        for row, answer in _read(path, len(rows)):
            rows.append(sharing_row(row, same))
            answers.append(answer)
    same.clear()  # before more is made of the rows
    return _grouped(", ".join(map(str, paths)), rows, answers)


def _read(path: Path, start: int) -> Iterator[tuple[Row, str | None]]:
    """Yield rows with their answers; rows are numbered from `start` where the file gives them no name."""
    prediction_column = reference_column = image_column = query_column = ""
    for index, (line, cells) in enumerate(iterate_records(path), start):
        if index == start:
            prediction_column = _needed(path, cells, "prediction", PREDICTION_COLUMNS)
            reference_column = _needed(path, cells, "reference", (*ANSWER_COLUMNS, "answer"))
            image_column = next((name for name in IMAGE_COLUMNS if name in cells), "")
            query_column = next((name for name in QUERY_COLUMNS if name in cells), "")
        texts = {name: unescape_cell(text) for name, value in cells.items() if (text := cell_text(value)) is not None}
        reference = texts.get(reference_column)
        if reference is None:
            raise DataError(f"{path}, line {line}: column '{reference_column}' is empty")
        texts.setdefault("sample_id", str(index))
        is_alone = not image_column or not query_column
        image = str(index) if is_alone else texts.get(image_column, "")
        query = texts.get(query_column, "")
        try:
            row = replace(_row(texts, line), image=Path(image), query=query, references=(reference,))
        except DataError as error:
            raise DataError(f"{path}, line {line}: {error}") from None
        yield row, texts.get(prediction_column)


def _row(texts: Mapping[str, str], line: int) -> Row:
    """Return what a line says besides its image, query and reference."""
    return Row(
        sample_id=texts["sample_id"],
        image=Path(),
        query="",
        references=(),
        answer=texts.get("answer"),
        type=texts.get("type"),
        choices=choices_cell(texts.get("choices")),
        line=line,
        protocol=stripped_cell(texts, "protocol"),
        tolerance=stripped_cell(texts, "tolerance"),
        target_deg=target_cells(texts),
        region=stripped_cell(texts, "region"),
    )


def _grouped(name: str, rows: Sequence[Row], answers: Sequence[str | None]) -> Predictions:
    references = {(row.image, row.query): row.references for row in merge_rows(rows, name=name)}
    samples: dict[tuple[Path, str, str | None], Row] = {}
    for row, answer in zip(rows, answers, strict=True):
        everything = references[row.image, row.query]
        # A new row for each would cost more than all rows had before.
        full = row if len(everything) == len(row.references) else replace(row, references=everything)
        samples.setdefault((row.image, row.query, answer), full)
    return Predictions(list(samples.values()), [answer for _, _, answer in samples])


def _needed(path: Path, columns: Mapping[str, object], role: str, names: tuple[str, ...]) -> str:
    for name in names:
        if name in columns:
            return name
    found = [name for name in columns if name]
    hint = next((hint for name in found if (hint := did_you_mean(name, names))), "")
    raise DataError(
        f"{path}: no {role} column; expected one of {', '.join(names)}; found {', '.join(found) or 'none'}{hint}"
    )
