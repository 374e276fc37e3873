"""Evaluates a generator on a test table: asks each distinct question once, keeps every answer, scores at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cora.data.table import Row, merge_rows
from cora.errors import DataError
from cora.evaluation.asking import Answers, Asking
from cora.evaluation.cells import table_text
from cora.evaluation.consistency import yaw_consistency
from cora.evaluation.journal import Journal
from cora.evaluation.metrics import CORAEvaluator
from cora.evaluation.predictions import PREDICTIONS_NAME, read_predictions, write_predictions
from cora.evaluation.progress import show_progress
from cora.evaluation.protocols.asking import shuffle_choices
from cora.evaluation.protocols.base import Extractor
from cora.evaluation.protocols.registry import check_rows
from cora.evaluation.samples import write_samples
from cora.evaluation.scoring import METRICS, Scores, score_answers
from cora.evaluation.turns import plan_turns
from cora.files import write_file, write_json
from cora.inference.protocol import GenerationSettings, Generator
from cora.provenance import file_digest, provenance
from cora.types import ViewSpec

__all__ = [
    "EvaluationResult",
    "Failure",
    "PredictionResult",
    "evaluate",
    "predict",
    "score_file",
    "write_scores",
]

logger = logging.getLogger(__name__)

TURNED_NAME = "predictions_turned.csv"


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that got no answer, and why."""

    row: Row
    error: str


@dataclass(frozen=True, slots=True)
class PredictionResult:
    """What a run without scores came to.

    Attributes:
        num_questions: Distinct questions.
        failures: Questions without an answer, in the order of the table.
        output_dir: Holds predictions.csv and predictions.jsonl.
        num_reused: Answers that an earlier run had given already.
    """

    num_questions: int
    failures: tuple[Failure, ...]
    output_dir: Path
    num_reused: int = 0


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What a run came to.

    Attributes:
        scores: Metrics, accuracies by type, counts.
        failures: Questions without an answer, in the order of the table; then those about turned panoramas.
        output_dir: Holds predictions.csv and predictions.jsonl (after a run), samples.jsonl, metrics.json and
            metrics.csv.
        num_reused: Answers that an earlier run had given already.
        num_turned: Questions that were asked about turned panoramas, besides those of the table.
    """

    scores: Scores
    failures: tuple[Failure, ...]
    output_dir: Path
    num_reused: int = 0
    num_turned: int = 0

    @property
    def num_questions(self) -> int:
        """Distinct questions."""
        return self.scores.counts["questions"]

    @property
    def accuracy(self) -> float | None:
        """Exact match over all closed questions with an answer."""
        return self.scores.accuracy


def evaluate(
    generator: Generator,
    rows: Sequence[Row],
    settings: GenerationSettings | None = None,
    output_dir: str | Path = "outputs",
    *,
    evaluator: CORAEvaluator | None = None,
    captions: bool = True,
    chunk_size: int = 32,
    progress: bool = True,
    test_csv: str | Path | None = None,
    choice_seed: int | None = None,
    extractor: Extractor | None = None,
    yaw_shifts: Sequence[float] = (),
) -> EvaluationResult:
    """Answer and score a test table; the files in `output_dir` say the same as the result.

    Answers that are in the journal of `output_dir` under the same key are used again. A question that fails has no
    answer, is counted, and does not stop the others.

    Args:
        generator: Gives the answers.
        rows: The test table, as read; rows with the same (image, query) are references of one question.
        settings: Generation settings; greedy by default.
        output_dir: Made if missing.
        evaluator: Computes the caption metrics.
        captions: Whether to compute caption metrics.
        chunk_size: Questions that are asked, and written to disk, together by a generator that has no `stream`.
        progress: Whether to show a progress bar.
        test_csv: Where the rows come from, for the provenance.
        choice_seed: Draws the order of each question's choices; None keeps that of the table.
        extractor: Reads answers that the rules of a protocol cannot read.
        yaw_shifts: Angles in degrees, 0 among them; each question with a protocol is asked about the panorama turned by
            each of them too, see `cora.evaluation.turns`. Files of turned panoramas stay in `output_dir`.

    Raises:
        DataError: Rows that ask the same disagree, a row cannot be judged by its protocol, the folder is in use, or
            files cannot be written.
    """
    settings = settings or GenerationSettings()
    output_dir = Path(output_dir)
    rows = _as_asked(rows, choice_seed)
    questions = merge_rows(rows)
    with Journal(output_dir) as journal:
        plan = plan_turns(questions, yaw_shifts, output_dir / "turned") if yaw_shifts else None
        turned = [turn.row for turn in plan.turns] if plan else []
        answers = _predict(
            generator, rows, questions, settings, journal, turned=turned, chunk_size=chunk_size, progress=progress
        )
        journal.forget()
        texts, turned_texts = answers.texts[: len(questions)], answers.texts[len(questions) :]
        scores = score_answers(
            questions, texts, evaluator=evaluator, captions=captions, seed=settings.seed, extractor=extractor
        )
        if plan is not None:
            scores = replace(scores, yaw=yaw_consistency(questions, texts, plan, turned_texts, extractor))
        origin = {
            "backend": generator.name,
            "model_sha256": generator.model_digest,
            "processor_sha256": generator.processor_digest,
            "generation": asdict(settings),
            "choice_seed": choice_seed,
            "reused_answers": answers.num_reused,
            **_views(generator),
            **_table_origin("test_csv", test_csv),
        }
        errors = [answers.errors.get(position) for position in range(len(questions))]
        write_samples(output_dir, questions, texts, scores, errors)
        write_scores(output_dir, scores, rows=len(rows), origin=origin)
    return EvaluationResult(
        scores, _failures([*questions, *turned], answers), output_dir, answers.num_reused, len(turned)
    )


def predict(
    generator: Generator,
    rows: Sequence[Row],
    settings: GenerationSettings | None = None,
    output_dir: str | Path = "outputs",
    *,
    chunk_size: int = 32,
    progress: bool = True,
    choice_seed: int | None = None,
) -> PredictionResult:
    """Answer a test table as `evaluate` does, and leave the scores to `score_file`."""
    output_dir = Path(output_dir)
    rows = _as_asked(rows, choice_seed)
    questions = merge_rows(rows)
    with Journal(output_dir) as journal:
        answers = _predict(
            generator,
            rows,
            questions,
            settings or GenerationSettings(),
            journal,
            chunk_size=chunk_size,
            progress=progress,
        )
    return PredictionResult(len(questions), _failures(questions, answers), output_dir, answers.num_reused)


def score_file(
    path: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    evaluator: CORAEvaluator | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
) -> EvaluationResult:
    """Score predictions files without a model and write their scores to `output_dir`.

    Args:
        path: A predictions file, or several (the shards of a table), which are scored as one.
        output_dir: Made if missing.
        evaluator: Computes the caption metrics.
        seed: Of the confidence intervals.
        extractor: Reads answers that the rules of a protocol cannot read.

    Raises:
        DataError: A file is no predictions file, or the scores cannot be written.
    """
    output_dir = Path(output_dir)
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    predictions = read_predictions(*paths)
    check_rows(predictions.rows)
    scores = score_answers(predictions.rows, predictions.answers, evaluator=evaluator, seed=seed, extractor=extractor)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output_dir} cannot be made: {error.strerror or error}") from error
    errors = [None if answer is not None else "the prediction is empty" for answer in predictions.answers]
    write_samples(output_dir, predictions.rows, predictions.answers, scores, errors)
    write_scores(output_dir, scores, rows=len(predictions.rows), origin=_table_origin("predictions", *paths))
    failures = tuple(
        Failure(row, error) for row, error in zip(predictions.rows, errors, strict=True) if error is not None
    )
    return EvaluationResult(scores, failures, output_dir)


def write_scores(output_dir: Path, scores: Scores, *, rows: int, origin: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` (everything) and ``metrics.csv`` (one row, empty cells for metrics without a value)."""
    write_json(
        output_dir / "metrics.json",
        {
            "metrics": {name: scores.metrics[name].to_dict() for name in METRICS},
            "exact_match_by_type": {
                name: {**found.to_dict(), "interval": scores.type_intervals.get(name)}
                for name, found in scores.by_type.items()
            },
            "protocols": {name: found.to_dict() for name, found in scores.protocols.items()},
            "regions": {name: found.to_dict() for name, found in scores.regions.items()},
            "yaw_consistency": None if scores.yaw is None else scores.yaw.to_dict(),
            "counts": {"rows": rows, **scores.counts},
            "provenance": {**provenance(), **origin, "scoring": scores.provenance},
        },
    )
    values = [scores.metrics[name].value for name in METRICS]
    cells = [output_dir.resolve().name, *("" if value is None else f"{value:.6f}" for value in values)]
    counts = [str(rows), str(scores.counts["unanswered"])]
    write_file(output_dir / "metrics.csv", table_text(("experiment", *METRICS, "rows", "unanswered"), [cells + counts]))


def _as_asked(rows: Sequence[Row], choice_seed: int | None) -> Sequence[Row]:
    """Return rows that can be judged, with their choices in the order in which they are shown."""
    if not rows:
        raise DataError("there is no row to evaluate")
    check_rows(rows)
    return rows if choice_seed is None else shuffle_choices(rows, choice_seed)


def _predict(
    generator: Generator,
    rows: Sequence[Row],
    questions: Sequence[Row],
    settings: GenerationSettings,
    journal: Journal,
    *,
    chunk_size: int,
    progress: bool,
    turned: Sequence[Row] = (),
) -> Answers:
    """Return the answers to the questions of some rows, and then those about turned panoramas.

    They are then in ``predictions.csv`` and ``predictions_turned.csv``.
    """
    asked = [*questions, *turned]
    with show_progress("answering", len(asked), visible=progress) as shown:
        answers = Asking(generator, settings, journal, asked).run(shown, chunk_size=chunk_size)
    if answers.num_reused:
        logger.info("%d of %d answers were in %s already", answers.num_reused, len(asked), journal.path)
    positions = {(row.image, row.query): position for position, row in enumerate(questions)}
    texts = (answers.texts[positions[row.image, row.query]] for row in rows)
    write_predictions(journal.path.with_name(PREDICTIONS_NAME), rows, texts)
    if turned:
        write_predictions(journal.path.with_name(TURNED_NAME), turned, answers.texts[len(questions) :])
    return answers


def _failures(questions: Sequence[Row], answers: Answers) -> tuple[Failure, ...]:
    return tuple(Failure(questions[position], error) for position, error in sorted(answers.errors.items()))


def _views(generator: Generator) -> dict[str, Any]:
    """Return what a generator that cuts views looks at, for the report."""
    views: Sequence[ViewSpec] = getattr(generator, "views", ())
    return {"views": [view.to_dict() for view in views]} if views else {}


def _table_origin(role: str, *paths: str | Path | None) -> dict[str, Any]:
    """Return names and digests of the files, as lists where there are several."""
    files = [Path(path) for path in paths if path is not None]
    if len(files) < 2:
        return {role: str(files[0]), f"{role}_sha256": file_digest(files[0])} if files else {}
    return {role: [str(path) for path in files], f"{role}_sha256": [file_digest(path) for path in files]}
