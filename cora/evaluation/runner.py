"""Evaluates a generator on a test table: asks each distinct question once, keeps every answer, scores at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cora.data.table import Row, merge_rows
from cora.errors import DataError
from cora.evaluation.cells import table_text
from cora.evaluation.consistency import yaw_consistency
from cora.evaluation.journal import Journal, JournalEntry, answer_key, image_digest
from cora.evaluation.metrics import CORAEvaluator
from cora.evaluation.predictions import read_predictions, write_predictions
from cora.evaluation.progress import progress_bar
from cora.evaluation.protocols.asking import asked_text, shuffle_choices
from cora.evaluation.protocols.base import Extractor
from cora.evaluation.protocols.registry import check_rows
from cora.evaluation.scoring import METRICS, Scores, score_answers
from cora.evaluation.turns import plan_turns
from cora.files import write_file, write_json
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, Generator
from cora.provenance import file_digest, provenance

__all__ = ["EvaluationResult", "Failure", "evaluate", "score_file", "write_scores"]

logger = logging.getLogger(__name__)

# One panorama with more questions than this many chunks is encoded again rather than risked all at once.
_CHUNKS_PER_PANORAMA = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """A question that got no answer, and why."""

    row: Row
    error: str


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What a run came to.

    Attributes:
        scores: Metrics, accuracies by type, counts.
        failures: Questions without an answer, in the order of the table; then those about turned panoramas.
        output_dir: Holds predictions.csv, predictions.jsonl (after a run), metrics.json and metrics.csv.
        num_reused: Answers that an earlier run had given already.
        num_turned: Questions that were asked about turned panoramas, besides those of the table.
    """

    scores: Scores
    failures: tuple[Failure, ...]
    output_dir: Path
    num_reused: int = 0
    num_turned: int = 0

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
        chunk_size: Questions that are asked, and written to disk, together.
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
    check_rows(rows)
    if choice_seed is not None:
        rows = shuffle_choices(rows, choice_seed)
    questions = merge_rows(rows)
    if not questions:
        raise DataError("there is no row to evaluate")
    with Journal(output_dir) as journal:
        plan = plan_turns(questions, yaw_shifts, output_dir / "turned") if yaw_shifts else None
        asked = [*questions, *(turn.row for turn in (plan.turns if plan else ()))]
        results, num_reused = _answer(generator, asked, settings, journal, chunk_size=chunk_size, progress=progress)
        answers, turned = results[: len(questions)], results[len(questions) :]
        by_question = {(row.image, row.query): answer for row, answer in zip(questions, answers, strict=True)}
        texts = [answer.text for answer in answers]
        write_predictions(
            output_dir / "predictions.csv", rows, [by_question[row.image, row.query].text for row in rows]
        )
        scores = score_answers(questions, texts, evaluator=evaluator, captions=captions, extractor=extractor)
        if plan is not None:
            turned_texts = [answer.text for answer in turned]
            write_predictions(output_dir / "predictions_turned.csv", asked[len(questions) :], turned_texts)
            scores = replace(scores, yaw=yaw_consistency(questions, texts, plan, turned_texts, extractor))
        origin = {
            "backend": generator.name,
            "model_sha256": generator.model_digest,
            "processor_sha256": generator.processor_digest,
            "generation": asdict(settings),
            "choice_seed": choice_seed,
            "reused_answers": num_reused,
            **_table_origin("test_csv", test_csv),
        }
        write_scores(output_dir, scores, rows=len(rows), origin=origin)
    failures = tuple(
        Failure(row, answer.error or "") for row, answer in zip(asked, results, strict=True) if answer.text is None
    )
    return EvaluationResult(scores, failures, output_dir, num_reused, len(turned))


def score_file(path: str | Path, output_dir: str | Path, *, evaluator: CORAEvaluator | None = None) -> EvaluationResult:
    """Score an existing predictions file without a model and write metrics.json and metrics.csv to `output_dir`.

    Raises:
        DataError: The file is no predictions file, or the scores cannot be written.
    """
    output_dir = Path(output_dir)
    predictions = read_predictions(path)
    check_rows(predictions.rows)
    scores = score_answers(predictions.rows, predictions.answers, evaluator=evaluator)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output_dir} cannot be made: {error.strerror or error}") from error
    write_scores(output_dir, scores, rows=len(predictions.rows), origin=_table_origin("predictions", path))
    failures = tuple(
        Failure(row, "the prediction is empty")
        for row, answer in zip(predictions.rows, predictions.answers, strict=True)
        if answer is None
    )
    return EvaluationResult(scores, failures, output_dir)


def write_scores(output_dir: Path, scores: Scores, *, rows: int, origin: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` (everything) and ``metrics.csv`` (one row, empty cells for metrics without a value)."""
    write_json(
        output_dir / "metrics.json",
        {
            "metrics": {name: scores.metrics[name].to_dict() for name in METRICS},
            "exact_match_by_type": {name: found.to_dict() for name, found in scores.by_type.items()},
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


@dataclass(frozen=True, slots=True)
class _Run:
    """A generator at work on the questions of a journal; `keys` are the questions' keys in it."""

    generator: Generator
    settings: GenerationSettings
    journal: Journal
    questions: Sequence[Row]
    keys: Sequence[str]

    def recall(self) -> dict[int, GenerationResult]:
        """Return the answers the journal has already, by position of the question."""
        found = ((index, self.journal.find(key)) for index, key in enumerate(self.keys))
        return {index: _recalled(entry) for index, entry in found if entry is not None}

    def ask(self, chunk: Sequence[int]) -> dict[int, GenerationResult]:
        """Return the answers to the questions at some positions, after they were written to the journal."""
        rows = [self.questions[index] for index in chunk]
        requests = [GenerationRequest(row.image, asked_text(row)) for row in rows]
        answers = self.generator.generate(requests, self.settings)
        entries = []
        for index, row, answer in zip(chunk, rows, answers, strict=True):
            entries.append(
                JournalEntry.of(
                    self.keys[index],
                    sample_id=row.sample_id,
                    image=str(row.image),
                    query=asked_text(row),
                    result=answer,
                )
            )
            if answer.text is None:
                logger.warning("row %s (line %d, %s): %s", row.sample_id, row.line, row.image, answer.error)
        self.journal.append(entries)
        return dict(zip(chunk, answers, strict=True))


def _answer(
    generator: Generator,
    questions: Sequence[Row],
    settings: GenerationSettings,
    journal: Journal,
    *,
    chunk_size: int,
    progress: bool,
) -> tuple[list[GenerationResult], int]:
    """Return one result per question, and how many came from the journal."""
    digests = {image: image_digest(image) for image in dict.fromkeys(row.image for row in questions)}
    keys = [answer_key(generator, settings, image=digests[row.image], query=asked_text(row)) for row in questions]
    run = _Run(generator, settings, journal, questions, keys)
    results = run.recall()
    num_reused = len(results)
    if num_reused:
        logger.info("%d of %d answers are in %s already", num_reused, len(questions), journal.path)
    open_questions = [index for index in range(len(questions)) if index not in results]
    with progress_bar("answering", len(questions), visible=progress) as advance:
        advance(num_reused)
        for chunk in _chunks(questions, open_questions, chunk_size):
            results.update(run.ask(chunk))
            advance(len(chunk))
    return [results[index] for index in range(len(questions))], num_reused


def _recalled(entry: JournalEntry) -> GenerationResult:
    finish_reason: Any = entry.finish_reason
    return GenerationResult(entry.prediction, (), finish_reason)


def _chunks(questions: Sequence[Row], indices: Sequence[int], chunk_size: int) -> Iterator[list[int]]:
    """Yield positions in chunks of about `chunk_size`, the questions about one panorama together."""
    by_image: dict[Path, list[int]] = {}
    for index in indices:
        by_image.setdefault(questions[index].image, []).append(index)
    piece_size = _CHUNKS_PER_PANORAMA * chunk_size
    chunk: list[int] = []
    for group in by_image.values():
        for start in range(0, len(group), piece_size):
            chunk += group[start : start + piece_size]
            if len(chunk) >= chunk_size:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _table_origin(role: str, path: str | Path | None) -> dict[str, Any]:
    return {} if path is None else {role: str(path), f"{role}_sha256": file_digest(Path(path))}
