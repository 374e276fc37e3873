"""What judges said about the answers of a run, from the folders they left beside its predictions.

A verdict counts for the very answer it was given on; those on other answers are left out, counted and said. Comparisons
of two files (``--against``) are not read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cora.data.records import iterate_records
from cora.errors import DataError
from cora.evaluation.cells import escape_cell, unescape_cell
from cora.evaluation.judge.findings import CRITERION_NAMES, mean_with_interval
from cora.evaluation.labels import JUDGE_PREFIX
from cora.evaluation.samples import Sample, iterate_samples

__all__ = ["Judged", "name_judges", "read_judged", "with_verdicts"]

# Where a judge stands says nothing about its verdicts, and what it calls itself is no choice of the reader's.
_NO_IDENTITY = ("base_url", "answered_as")
_SCORE = "weighted_score"

# Sample, file name of the panorama, question, answer, references.
_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge said about the answers of a run.

    Attributes:
        folder: Where it left that.
        judge: Who judged and how, see `cora.evaluation.judge.calls.Judge.identity`.
        origin: What was judged, and when.
        scores: Weighted score of each sample, 20 to 100; None where there is no verdict on its answer.
        score: Their mean as `mean_with_interval` gives it.
        criteria: Mean grade by criterion, 1 to 5; None without a verdict.
        num_answers: Answers of the run.
        failures: How many of those that were to be judged have no verdict, by reason.
        num_shown: Answers that were to be judged.
        num_foreign: Those among them that are not answers of the run.
    """

    folder: Path
    judge: Mapping[str, Any]
    origin: Mapping[str, Any]
    scores: Sequence[float | None]
    score: Mapping[str, Any]
    criteria: Mapping[str, float | None]
    num_answers: int
    failures: Mapping[str, int]
    num_shown: int
    num_foreign: int

    @property
    def num_verdicts(self) -> int:
        """Answers of the run with a verdict."""
        return sum(score is not None for score in self.scores)

    @property
    def digest(self) -> str:
        """SHA-256 over everything about the judge that its verdicts depend on, but its address."""
        identity = {name: value for name, value in self.judge.items() if name not in _NO_IDENTITY}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def coverage(self) -> str:
        """How many answers have a verdict and why the others have none, as a sentence."""
        text = f"{self.num_verdicts} of {self.num_answers} answers have a verdict"
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.failures.items()))
        return f"{text}; no verdict: {reasons}" if reasons else text

    @property
    def warning(self) -> str:
        """What is wrong with the judged file, as a sentence; empty where it is that of the run."""
        if not self.num_foreign:
            return ""
        return (
            f"{self.num_foreign} of the {self.num_shown} judged answers are not those of this run; "
            "their verdicts are left out (cora judge judges what is new)"
        )


def read_judged(folder: Path) -> list[Judged]:
    """Return what each judge said about the answers of a run, sorted by folder; nothing where none was asked.

    Of the same judge asked twice, the folder with more verdicts counts.

    Args:
        folder: Folder of the run; its own ``judge.json`` and those of the folders in it are read, and its samples.

    Raises:
        DataError: What a judge left, or a sample, is damaged; names the file.
    """
    found: dict[str, Judged] = {}
    for path in sorted([*folder.glob("judge.json"), *folder.glob("*/judge.json")]):
        document = _read_document(path)
        if document["mode"] == "pointwise":
            judged = _match(path.parent, document, iterate_samples(folder))
            best = found.get(judged.digest)
            if best is None or judged.num_verdicts > best.num_verdicts:
                found[judged.digest] = judged
    return list(found.values())


def name_judges(judges: Iterable[Judged]) -> dict[str, str]:
    """Return a name by digest: ``judge:<model>``, with a part of the digest where one model judged in several ways."""
    models = {judged.digest: str(judged.judge["model"]) for judged in judges}
    times = Counter(models.values())
    return {
        digest: f"{JUDGE_PREFIX}{model}" if times[model] == 1 else f"{JUDGE_PREFIX}{model}/{digest[:8]}"
        for digest, model in models.items()
    }


def with_verdicts(samples: Iterable[Sample], judged: Mapping[str, Judged]) -> Iterator[Sample]:
    """Yield the samples of a run with the scores of judges among theirs, under the names that are given."""
    for index, sample in enumerate(samples):
        verdicts = {name: score for name, each in judged.items() if (score := each.scores[index]) is not None}
        yield replace(sample, scores={**sample.scores, **verdicts}) if verdicts else sample


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        judge = document["provenance"]["judge"]
        if not all(isinstance(text, str) for text in (document["mode"], judge["model"], judge["prompt_sha256"])):
            raise TypeError("mode, model and prompt are no texts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the results of a judge: {type(error).__name__}: {error}") from None
    return dict(document)


def _match(folder: Path, document: Mapping[str, Any], samples: Iterable[Sample]) -> Judged:
    rows = dict(_read_rows(folder / "judge.csv"))
    keyed = [(_key_of(sample), sample.image) for sample in samples]
    matched = [rows.get(key) for key, _ in keyed]
    grades = [row if isinstance(row, dict) else None for row in matched]
    judged = [(image, row) for (_, image), row in zip(keyed, grades, strict=True) if row is not None]
    provenance = document["provenance"]
    return Judged(
        folder=folder,
        judge=provenance["judge"],
        origin={name: provenance.get(name) for name in ("predictions", "predictions_sha256", "created")},
        scores=[None if row is None else row[_SCORE] for row in grades],
        score=mean_with_interval([row[_SCORE] for _, row in judged], [image for image, _ in judged]),
        criteria={
            name: sum(row[name] for _, row in judged) / len(judged) if judged else None for name in CRITERION_NAMES
        },
        num_answers=sum(key[3] != "" for key, _ in keyed),
        failures=Counter(row for row in matched if isinstance(row, str)),
        num_shown=len(rows),
        num_foreign=len(rows.keys() - {key for key, _ in keyed}),
    )


def _read_rows(path: Path) -> Iterator[tuple[_Key, dict[str, float] | str]]:
    """Yield grades, or the reason why there are none, of each answer that was put before the judge."""
    for line, cells in iterate_records(path):
        try:
            texts = {name: unescape_cell(text) for name, text in cells.items()}
            reason = texts["failure"]
            key = _key(*(texts[name] for name in ("sample_id", "image_path", "query", "prediction", "reference")))
            grades = {} if reason else {name: float(texts[name]) for name in (_SCORE, *CRITERION_NAMES)}
            if not all(1 <= grade <= 100 for grade in grades.values()):
                raise ValueError(f"grades are out of range: {grades}")
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}, line {line}: not a row of a judge: {type(error).__name__}: {error}") from None
        if reason != "unanswered":
            yield key, reason or grades


def _key_of(sample: Sample) -> _Key:
    references = " | ".join(sample.references)
    texts = (sample.sample_id, sample.image, sample.query, sample.prediction or "", references)
    return _key(*(_as_written(text) for text in texts))


def _key(sample_id: str, image: str, query: str, answer: str, references: str) -> _Key:
    # The folder of a panorama may differ between machines; a blank answer is none.
    return sample_id, Path(image).name, query, answer if answer.strip() else "", references


def _as_written(text: str) -> str:
    """Return a text as it comes back from a CSV file."""
    return unescape_cell(escape_cell(text)).encode("utf-8", "replace").decode()
