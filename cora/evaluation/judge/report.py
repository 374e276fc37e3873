"""The files a judge leaves: judge.json (scores, counts, cost, provenance) and judge.csv (one row per sample)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cora.evaluation.cells import table_text
from cora.evaluation.judge.calls import Judge
from cora.evaluation.judge.findings import CRITERION_NAMES, Finding
from cora.evaluation.judge.journal import CallRecord, VerdictJournal
from cora.evaluation.judge.protocols import OVERALL
from cora.files import write_file, write_json
from cora.provenance import provenance

__all__ = ["usage_of", "write_report"]

_TOKENS_PER_PRICE = 1_000_000


def write_report(
    output_dir: Path,
    judge: Judge,
    findings: Sequence[Finding],
    summary: Mapping[str, Any],
    journal: VerdictJournal,
    *,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``judge.json`` and ``judge.csv`` and return what the former holds.

    Args:
        output_dir: Existing folder.
        judge: Who judged.
        findings: One per sample.
        summary: Scores and counts over them.
        journal: All requests of the folder; those of other judges are left out.
        origin: What the samples come from.

    Raises:
        DataError: A file cannot be written.
    """
    digest = judge.digest
    # Only what is counted stays in memory, not what the judge wrote.
    own = [
        replace(record, verdicts={key: {} for key in record.verdicts}) for record in journal if record.judge == digest
    ]
    report = {
        "mode": judge.protocol.name,
        **summary,
        "usage": usage_of(own, judge.config.input_price, judge.config.output_price),
        "provenance": {
            **provenance(),
            **origin,
            "judge": {
                **judge.identity(),
                "answered_as": sorted({record.model for record in own if record.model is not None}),
            },
        },
    }
    write_file(output_dir / "judge.csv", _table(judge, findings))
    write_json(output_dir / "judge.json", report)
    return report


def usage_of(
    records: Sequence[CallRecord], input_price: float | None = None, output_price: float | None = None
) -> dict[str, Any]:
    """Return requests, tokens and cost, failures included.

    Args:
        records: The requests.
        input_price: Price of a million input tokens.
        output_price: Price of a million output tokens. The cost is None without both, and where a verdict came without
            its number of tokens.
    """
    unknown = [record for record in records if record.input_tokens is None or record.output_tokens is None]
    tokens_in = sum(record.input_tokens or 0 for record in records)
    tokens_out = sum(record.output_tokens or 0 for record in records)
    cost = None
    if input_price is not None and output_price is not None and not any(record.verdicts for record in unknown):
        cost = (tokens_in * input_price + tokens_out * output_price) / _TOKENS_PER_PRICE
    return {
        "requests": len(records),
        "requests_in_batches": sum(record.from_batch for record in records),
        "requests_without_token_counts": len(unknown),
        "retries": sum(record.num_retries for record in records),
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "input_price_per_million": input_price,
        "output_price_per_million": output_price,
        "cost": cost,
    }


def _table(judge: Judge, findings: Sequence[Finding]) -> str:
    is_pairwise = judge.protocol.name == "pairwise"
    answers = ("prediction_a", "prediction_b") if is_pairwise else ("prediction",)
    values = (OVERALL, "agree", *CRITERION_NAMES) if is_pairwise else ("weighted_score", *CRITERION_NAMES)
    header = ("sample_id", "image_path", "query", *answers, "reference", *values, "failure", "error")
    lines = []
    for finding in findings:
        row = finding.sample.row
        cells = [row.sample_id, str(row.image), row.query, *(answer or "" for answer in finding.sample.answers)]
        cells.append(" | ".join(row.references))
        cells += ["" if finding.values is None else _cell(finding.values[name]) for name in values]
        lines.append((*cells, finding.reason, finding.error))
    return table_text(header, lines)


def _cell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
