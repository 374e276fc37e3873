"""What a judge behind a fake endpoint replies, and the files it is asked about."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_endpoint import Answer, says
from PIL import Image

from cora.config.schema import JudgeConfig
from cora.evaluation.judge.calls import Judge
from cora.evaluation.judge.findings import find_all, summarize
from cora.evaluation.judge.journal import CallRecord, VerdictJournal
from cora.evaluation.judge.protocols import POINTWISE
from cora.evaluation.judge.report import write_report
from cora.evaluation.judge.samples import read_samples
from cora.inference.credentials import Endpoint
from cora.provenance import file_digest

NAMES = ("query_relevance", "factual_accuracy", "spatial_coherence", "completeness", "fluency")


def samples_in(body: dict[str, Any]) -> list[dict[str, Any]]:
    text = body["messages"][1]["content"][-1]["text"]
    samples: list[dict[str, Any]] = json.loads(text)["samples"]
    return samples


def grade(score: int, **other: int) -> dict[str, Any]:
    return {name: {"reason": "so", "score": other.get(name, score)} for name in NAMES}


def prefer(winner: str, **other: str) -> dict[str, Any]:
    return {name: {"reason": "so", "winner": other.get(name, winner)} for name in (*NAMES, "overall")}


def replies(verdict: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Callable[[dict[str, Any]], Answer]:
    """Answer with the verdict on each sample; None leaves it out."""

    def answer(body: dict[str, Any]) -> Answer:
        found = [{"id": sample["id"], **given} for sample in samples_in(body) if (given := verdict(sample)) is not None]
        return says(json.dumps({"verdicts": found}))

    return answer


def write_predictions(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Write predictions of (image, question, answer, reference), and the images."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(sorted({row[0] for row in rows})):
        if "missing" not in name:
            Image.new("RGB", (64, 32), (index, 80, 160)).save(folder / name)
    path = folder / "predictions.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("image_path", "query", "prediction", "reference"), *rows])
    return path


def leave_verdicts(
    predictions: Path,
    verdict: Callable[[str], dict[str, Any] | None],
    *,
    model: str = "org/judge:1",
    limit: int | None = None,
    **config: Any,
) -> Path:
    """Return the folder that ``cora judge`` would leave beside predictions; an answer without a verdict is garbage."""
    judge = Judge(Endpoint(model, "http://host/v1", "key"), POINTWISE, JudgeConfig(send_image=False, **config))
    samples = read_samples(judge, predictions, limit=limit)
    folder = predictions.parent / f"judge-{model.replace('/', '-').replace(':', '-')}"
    with VerdictJournal(folder) as journal:
        for item in (item for sample in samples for item in sample.items):
            found = verdict(item.texts[0])
            verdicts, failures = ({}, {item.key: ("garbage", "no")}) if found is None else ({item.key: found}, {})
            journal.append([CallRecord(judge.digest, verdicts, failures, model="served-model")])
        known = {key: failure for record in journal for key, failure in record.failures.items()}
        findings = find_all(samples, journal.verdicts, known)
        origin = {"predictions": str(predictions), "predictions_sha256": file_digest(predictions)}
        write_report(folder, judge, findings, summarize(findings), journal, origin=origin)
    return folder
