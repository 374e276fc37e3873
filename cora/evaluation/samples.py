"""The samples of a run: each distinct question once, with its answer and the scores it got (``samples.jsonl``).

What the report shows and what runs are compared by; ``predictions.csv`` has a line per reference and no scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.scoring import Scores
from cora.files import write_file

if TYPE_CHECKING:
    from cora.evaluation.values import Numbers

__all__ = ["SAMPLES_NAME", "Sample", "iterate_samples", "read_samples", "write_samples"]

SAMPLES_NAME = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """A question of a run.

    Attributes:
        sample_id: As in the table.
        image: Path of the panorama.
        query: The question.
        references: Accepted answers.
        prediction: The answer, or None where there is none.
        error: Why there is no answer, or None.
        type: Kind of question, or None.
        choices: The answers to choose from, or None.
        scores: Metric -> score of this answer; a metric without one is absent.
        bleu_sums: What it adds to BLEU, see `cora.evaluation.metrics.bleu_from_sums`; empty without BLEU.
        meteor_sums: What it adds to METEOR, see `cora.evaluation.meteor`; empty without METEOR.
    """

    sample_id: str
    image: str
    query: str
    references: list[str]
    prediction: str | None
    error: str | None
    type: str | None
    choices: list[str] | None
    scores: dict[str, float]
    bleu_sums: list[float]
    meteor_sums: list[float] = field(default_factory=list)


_NAMES = tuple(each.name for each in fields(Sample))


def write_samples(
    folder: Path, rows: Sequence[Row], answers: Sequence[str | None], scores: Scores, errors: Sequence[str | None]
) -> None:
    """Write ``samples.jsonl`` to a run's folder.

    Args:
        folder: Folder of the run.
        rows: The questions that were scored.
        answers: One per row.
        scores: What they came to.
        errors: Why a row has no answer, one per row.
    """
    write_file(folder / SAMPLES_NAME, _lines(rows, answers, scores, errors))


def _lines(
    rows: Sequence[Row], answers: Sequence[str | None], scores: Scores, errors: Sequence[str | None]
) -> Iterator[str]:
    for index, (row, answer, error) in enumerate(zip(rows, answers, errors, strict=True)):
        values = {name: float(each[index]) for name, each in scores.per_sample.items()}
        sample = Sample(
            sample_id=row.sample_id,
            image=str(row.image.absolute() if row.image.is_file() else row.image),
            query=row.query,
            references=list(row.references),
            prediction=answer,
            error=error,
            type=row.type,
            choices=None if row.choices is None else list(row.choices),
            scores={name: value for name, value in values.items() if not math.isnan(value)},
            bleu_sums=_listed(scores.bleu_sums, index, answer),
            meteor_sums=_listed(scores.meteor_sums, index, answer),
        )
        # ASCII, for a lone surrogate has no UTF-8.
        content = {name: getattr(sample, name) for name in _NAMES}
        yield json.dumps(content, ensure_ascii=True, allow_nan=False) + "\n"


def _listed(sums: Numbers | None, index: int, answer: str | None) -> list[float]:
    found: list[float] = [] if sums is None or answer is None else sums[index].tolist()
    return found


def read_samples(folder: str | Path) -> list[Sample]:
    """Return the samples of a run's folder as a list, see `iterate_samples`."""
    return list(iterate_samples(folder))


def iterate_samples(folder: str | Path) -> Iterator[Sample]:
    """Yield the samples of a run's folder, in the order of its table.

    Raises:
        DataError: The folder holds none, or a line is no sample; names the file and the line.
    """
    path = Path(folder) / SAMPLES_NAME
    number = 0
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                number += 1
                yield _parse(json.loads(line))
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise DataError(
            f"{path}: {reason}; cora-eval writes it, also from a predictions file (cora-eval --csv-input)"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}, line {number}: not a sample: {type(error).__name__}: {error}") from None
    if not number:
        raise DataError(f"{path}: the file is empty")


def _parse(values: dict[str, Any]) -> Sample:
    """Return the sample of a line; what later versions add is not looked at."""
    values = {"meteor_sums": [], **values}  # files of versions without METEOR have none
    sample = Sample(**{name: values[name] for name in _NAMES})
    if not isinstance(sample.query, str) or not isinstance(sample.references, list):
        raise TypeError("a sample has a query and a list of references")
    if not all(isinstance(value, float | int) for value in sample.scores.values()):
        raise TypeError("scores are numbers")
    return sample
