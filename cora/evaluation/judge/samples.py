"""What is to be judged: the answers of one predictions file, or the pairs of two."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.judge.calls import Item, Judge
from cora.evaluation.predictions import read_predictions

__all__ = ["Sample", "read_pairs", "read_samples"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A question with one answer, or with those of two files.

    Attributes:
        row: Panorama, question and references.
        answers: One or two answers; None where a file has none.
        items: What the judge is asked: one item, both orders of a pair, or nothing where an answer is missing or both
            are the same text.
    """

    row: Row
    answers: tuple[str | None, ...]
    items: tuple[Item, ...]


def read_samples(
    judge: Judge, predictions: Path, *, image_root: Path | None = None, limit: int | None = None
) -> list[Sample]:
    """Return the samples of a predictions file.

    Args:
        judge: Who is to judge them.
        predictions: As `cora.evaluation.predictions.read_predictions` reads it.
        image_root: Folder that relative image paths start from; by default the file's own.
        limit: Use the first so many.

    Raises:
        DataError: The file cannot be used.
    """
    return [
        Sample(row, (answer,), () if answer is None else (judge.item(row, answer),))
        for row, answer in _read(predictions, image_root)[:limit]
    ]


def read_pairs(
    judge: Judge, first: Path, second: Path, *, image_root: Path | None = None, limit: int | None = None
) -> tuple[list[Sample], int]:
    """Return the samples whose image and question both files have, and how many questions only one of them has.

    Raises:
        DataError: A file cannot be used, answers a question twice, or they share no question.
    """
    rows, others = (_by_question(path, image_root) for path in (first, second))
    shared = [question for question in rows if question in others]
    if not shared:
        raise DataError(f"{first} and {second} have no question about the same image in common")
    samples = []
    for question in shared[:limit]:
        (row, ours), (_, theirs) = rows[question], others[question]
        items: tuple[Item, ...] = ()
        if ours is not None and theirs is not None and ours != theirs:
            items = (judge.item(row, ours, theirs), judge.item(row, theirs, ours, is_swapped=True))
        samples.append(Sample(row, (ours, theirs), items))
    return samples, len(rows) + len(others) - 2 * len(shared)


def _read(path: Path, image_root: Path | None) -> Sequence[tuple[Row, str | None]]:
    predictions = read_predictions(path)
    root = (image_root or path.parent).absolute()
    rows = [replace(row, image=Path(os.path.normpath(root / row.image))) for row in predictions.rows]
    return list(zip(rows, predictions.answers, strict=True))


def _by_question(path: Path, image_root: Path | None) -> dict[tuple[Path, str], tuple[Row, str | None]]:
    found: dict[tuple[Path, str], tuple[Row, str | None]] = {}
    for row, answer in _read(path, image_root):
        first, _ = found.setdefault((row.image, row.query), (row, answer))
        if first is not row:
            raise DataError(f"{path}, line {row.line}: another answer to the same question as line {first.line}")
    return found
