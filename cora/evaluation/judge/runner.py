"""Runs a judge over samples: asks what the journal does not know yet, stops where going on is pointless, reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from cora.errors import EndpointError, ImageError
from cora.evaluation.judge.batch import Batches
from cora.evaluation.judge.calls import Call, Judge, group_calls
from cora.evaluation.judge.findings import Finding, find_all, summarize
from cora.evaluation.judge.journal import CallRecord, VerdictJournal
from cora.evaluation.judge.report import write_report
from cora.evaluation.judge.samples import Sample
from cora.evaluation.progress import show_progress
from cora.inference.endpoint import FATAL, ChatClient, Reply, answer_concurrently

__all__ = ["JudgeResult", "collect_batches", "run_judge", "submit_batches"]

logger = logging.getLogger(__name__)

# So many failures with nothing else, and the rest would fail too: a wrong setting, or nobody there.
_PATIENCE = 10

Failures = dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """What a judge came to.

    Attributes:
        findings: One per sample.
        report: What judge.json holds.
        output_dir: Holds judge.json, judge.csv and judge.jsonl.
        num_reused: Samples that an earlier run had judged already.
        num_pending: Batches that are not finished.
        stopped: Why not everything was asked, or None.
    """

    findings: Sequence[Finding]
    report: Mapping[str, Any]
    output_dir: Path
    num_reused: int = 0
    num_pending: int = 0
    stopped: EndpointError | None = None

    @property
    def failed_share(self) -> float:
        """Share of the answers that are there and have no verdict."""
        num_failed, num_judged = (int(self.report["counts"][name]) for name in ("failed", "judged"))
        return num_failed / max(1, num_failed + num_judged)


def run_judge(
    client: ChatClient,
    judge: Judge,
    samples: Sequence[Sample],
    output_dir: Path,
    *,
    origin: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> JudgeResult:
    """Judge samples one request after the other; the files in `output_dir` say the same as the result.

    Verdicts in the journal of `output_dir` under the same key are used again. A failure is null, is counted, and does
    not stop the others, unless no other request can succeed: then what was judged is written, and the result says why
    it stopped.

    Args:
        client: Connection to the judge's endpoint.
        judge: Who judges, and how.
        samples: What is judged.
        output_dir: Made if missing.
        origin: What the samples come from, for the provenance.
        progress: Whether to show a progress bar.

    Raises:
        DataError: The folder is in use, files cannot be written, or a batch of the same judge is under way.
    """
    with VerdictJournal(output_dir) as journal:
        Batches(output_dir, judge).check_none_under_way()
        num_reused = _num_known(samples, journal)
        bad_images, stopped = _ask(client, judge, _open_calls(judge, samples, journal), journal, progress=progress)
        findings, report = _report(judge, samples, journal, bad_images, output_dir, origin)
    return JudgeResult(findings, report, output_dir, num_reused, stopped=stopped)


def submit_batches(client: ChatClient, judge: Judge, samples: Sequence[Sample], output_dir: Path) -> tuple[int, int]:
    """Hand in everything the journal of `output_dir` does not know yet, and return how many batches and requests.

    Raises:
        DataError: The folder is in use, files cannot be written, or a batch of the same judge is under way.
        EndpointError: The server does not take batches.
    """
    with VerdictJournal(output_dir) as journal:
        return Batches(output_dir, judge).submit(client, _open_calls(judge, samples, journal))


def collect_batches(
    client: ChatClient,
    judge: Judge,
    samples: Sequence[Sample],
    output_dir: Path,
    *,
    origin: Mapping[str, Any] | None = None,
) -> JudgeResult:
    """Fetch what finished batches say and report on all samples; see `run_judge`.

    Raises:
        DataError: No batch of this judge was handed in, the folder is in use, or files cannot be written.
        EndpointError: The server does not hand out the results.
    """
    with VerdictJournal(output_dir) as journal:
        num_reused = _num_known(samples, journal)
        pending, num_pending = Batches(output_dir, judge).collect(client, journal)
        findings, report = _report(judge, samples, journal, pending, output_dir, origin)
    return JudgeResult(findings, report, output_dir, num_reused, num_pending)


def _open_calls(judge: Judge, samples: Sequence[Sample], journal: VerdictJournal) -> list[Call]:
    items = {item.key: item for sample in samples for item in sample.items if item.key not in journal.verdicts}
    return list(group_calls(items.values(), judge.config.group_size))


def _num_known(samples: Sequence[Sample], journal: VerdictJournal) -> int:
    known = [all(item.key in journal.verdicts for item in sample.items) for sample in samples if sample.items]
    if any(known):
        logger.info("%d of %d samples have a verdict in %s already", sum(known), len(samples), journal.path)
    return sum(known)


def _ask(
    client: ChatClient, judge: Judge, calls: Sequence[Call], journal: VerdictJournal, *, progress: bool
) -> tuple[Failures, EndpointError | None]:
    """Ask and write down until all is asked or asking is pointless; return bad images, and why it stopped."""
    bad_images: Failures = {}
    stopped: EndpointError | None = None
    num_failed, any_verdict = 0, False
    with show_progress("judging", sum(len(call.items) for call in calls), visible=progress) as shown:
        wanted = takewhile(lambda _: stopped is None, calls)
        for call, reply in answer_concurrently(
            lambda call: _ask_one(client, judge, call), wanted, judge.endpoint.max_concurrent
        ):
            shown.advance(len(call.items))
            if isinstance(reply, ImageError):
                bad_images |= {item.key: ("image", str(reply)) for item in call.items}
                logger.warning("not judged: %s", reply)
                continue
            record = judge.record([item.key for item in call.items], reply)
            journal.append([record])
            any_verdict = any_verdict or bool(record.verdicts)
            num_failed += not record.verdicts
            stopped = stopped or _why_stop(
                client, record, reply, is_hopeless=not any_verdict and num_failed >= _PATIENCE
            )
    return bad_images, stopped


def _ask_one(client: ChatClient, judge: Judge, call: Call) -> Reply | ImageError:
    try:
        request = judge.request(call)
    except ImageError as error:
        return error
    return client.ask(request.pop("messages"), **request)


def _why_stop(client: ChatClient, record: CallRecord, reply: Reply, *, is_hopeless: bool) -> EndpointError | None:
    for reason, error in record.failures.values():
        logger.warning("no verdict: %s: %s", reason, error)
        break
    if reply.failure in FATAL:
        return client.refusal_to_work(reply)
    if is_hopeless:
        reason, error = next(iter(record.failures.values()))
        return EndpointError(
            f"{client.endpoint.base_url}: stopped after {_PATIENCE} requests without a verdict; "
            f"the last: {reason}: {error}"
        )
    return None


def _report(
    judge: Judge,
    samples: Sequence[Sample],
    journal: VerdictJournal,
    failures: Failures,
    output_dir: Path,
    origin: Mapping[str, Any] | None,
) -> tuple[list[Finding], dict[str, Any]]:
    """Write the report on all samples; `failures` are those that are not in the journal."""
    digest = judge.digest
    known: Failures = {}
    for record in journal:
        if record.judge == digest:
            known.update(record.failures)  # what happened last counts
    findings = find_all(samples, journal.verdicts, {**known, **failures})
    report = write_report(output_dir, judge, findings, summarize(findings), journal, origin=origin or {})
    return findings, report
