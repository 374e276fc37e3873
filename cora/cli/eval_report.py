"""What ``cora-eval`` prints about a result, and the exit code that goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cora.evaluation.runner import EvaluationResult, PredictionResult

    Result = EvaluationResult | PredictionResult

__all__ = ["as_document", "as_table", "complaints", "exit_code"]


def exit_code(result: Result) -> int:
    """Return 3 when questions have no answer, else 4 when a metric could not be computed, else 0."""
    if result.failures:
        return 3
    return 4 if hasattr(result, "scores") and result.scores.incomplete else 0


def complaints(result: Result) -> list[str]:
    """Return one line for each thing that the exit code stands for."""
    lines = []
    if hasattr(result, "scores") and (incomplete := result.scores.incomplete):
        metric = result.scores.metrics[incomplete[0]]
        lines.append(f"{', '.join(incomplete)} could not be computed: {metric.why}; {metric.how}")
    if result.failures:
        first = result.failures[0]
        lines.append(
            f"{len(result.failures)} of {result.num_questions} questions have no answer; the first is row "
            f"{first.row.sample_id} (line {first.row.line}): {first.error}"
        )
    return lines


def as_document(result: Result) -> dict[str, Any]:
    """Return the result as plain values."""
    document: dict[str, Any] = {"exit_code": exit_code(result), "output_dir": str(result.output_dir)}
    if not hasattr(result, "scores"):
        unanswered = len(result.failures)
        counts = {"questions": result.num_questions, "answered": result.num_questions - unanswered}
        return {**document, "counts": {**counts, "unanswered": unanswered, "reused": result.num_reused}}
    metrics = result.scores.metrics
    return {
        **document,
        "metrics": {name: metric.value for name, metric in metrics.items()},
        "intervals": {name: metric.interval for name, metric in metrics.items()},
        "exact_match_by_type": {name: found.accuracy for name, found in result.scores.by_type.items()},
        "counts": {**result.scores.counts, "reused": result.num_reused},
    }


def as_table(result: Result) -> str:
    """Return the result as lines of text: metrics with intervals, accuracy by type, counts, where the files are."""
    lines: list[str] = []
    if hasattr(result, "scores"):
        scores = result.scores
        lines = [
            f"{name:<14}{_number(metric.value)}{_interval(metric.interval)}{metric.why}".rstrip()
            for name, metric in scores.metrics.items()
        ]
        lines += [
            f"  {name:<12}{_number(found.accuracy)}{found.correct} of {found.answered}"
            for name, found in scores.by_type.items()
        ]
    reused = f", {result.num_reused} of them by an earlier run" if result.num_reused else ""
    answered = result.num_questions - len(result.failures)
    lines.append(f"{answered} of {result.num_questions} questions answered{reused}")
    lines.append(f"files: {result.output_dir}")
    return "\n".join(lines)


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]  "


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.4f}':<8}"
