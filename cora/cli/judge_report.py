"""What ``cora judge`` prints about a result, and the exit code that goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cora.config.schema import JudgeConfig
    from cora.evaluation.judge.runner import JudgeResult

__all__ = ["as_document", "as_table", "complaints", "exit_code"]


def exit_code(result: JudgeResult, config: JudgeConfig) -> int:
    """Return 2 where the endpoint refused to go on, 3 where too little has a verdict, else 0."""
    if result.stopped is not None:
        return 2
    return 3 if result.num_pending or _has_too_few(result, config) else 0


def complaints(result: JudgeResult, config: JudgeConfig) -> list[str]:
    """Return one line for each thing a reader must know beside the scores."""
    counts, lines = result.report["counts"], []
    if result.num_pending:
        lines.append(f"error: {result.num_pending} batches are not finished; run this again later")
    if counts["failed"]:
        reasons = ", ".join(f"{reason} {number}" for reason, number in result.report["failures"].items())
        first = next(finding for finding in result.findings if finding.reason in result.report["failures"])
        kind = "error" if _has_too_few(result, config) else "warning"
        lines.append(
            f"{kind}: {counts['failed']} of {counts['failed'] + counts['judged']} answers have no verdict ({reasons}; "
            f"allowed are {config.max_failed_share:.0%}); the first is row {first.sample.row.sample_id} "
            f"(line {first.sample.row.line}): {first.error}"
        )
    if result.report["counts"]["unanswered"]:
        lines.append(f"warning: {counts['unanswered']} questions have no answer to judge")
    return lines


def as_document(result: JudgeResult, config: JudgeConfig) -> dict[str, Any]:
    """Return the result as plain values."""
    kept = {name: value for name, value in result.report.items() if name != "provenance"}
    return {
        "exit_code": exit_code(result, config),
        "output_dir": str(result.output_dir),
        **kept,
        "reused": result.num_reused,
    }


def as_table(result: JudgeResult) -> str:
    """Return the result as lines of text: scores, criteria, counts, tokens, where the files are."""
    report = result.report
    counts, usage = report["counts"], report["usage"]
    lines = _pairwise_lines(report) if report["mode"] == "pairwise" else _pointwise_lines(report)
    reused = f", {result.num_reused} of them by an earlier run" if result.num_reused else ""
    lines.append(f"{counts['judged']} of {counts['samples']} questions judged{reused}")
    cost = "" if usage["cost"] is None else f", cost {usage['cost']:.4f}"
    lines.append(
        f"{usage['requests']} requests, {usage['input_tokens']} tokens in, {usage['output_tokens']} tokens out{cost}"
    )
    lines.append(f"files: {result.output_dir}")
    return "\n".join(lines)


def _pointwise_lines(report: Any) -> list[str]:
    lines = [
        f"{'weighted_score':<20}{_number(report['weighted_score']['value'], 1)}{_interval(report['weighted_score'])}"
    ]
    return lines + [f"  {name:<18}{_number(mean, 2)}" for name, mean in report["criteria"].items()]


def _pairwise_lines(report: Any) -> list[str]:
    rows = {"overall": report["overall"], **{f"  {name}": shares for name, shares in report["criteria"].items()}}
    lines = [f"{'':<20}{'a':>7}{'b':>7}{'tie':>7}"]
    lines += [
        f"{name:<20}" + "".join(f"{_number(shares[key], 3):>7}" for key in shares) for name, shares in rows.items()
    ]
    lines.append(f"{'a minus b':<20}{_number(report['margin']['value'], 3):>7}{_interval(report['margin'])}")
    lines.append(f"{'both orders agree':<20}{_number(report['orders_agree'], 3):>7}")
    return lines


def _has_too_few(result: JudgeResult, config: JudgeConfig) -> bool:
    return result.failed_share > config.max_failed_share


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(score: Any) -> str:
    if score["interval"] is None:
        return ""
    low, high = score["interval"]
    return f"  (95 %: {low:.4g} … {high:.4g})"
