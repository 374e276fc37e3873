"""What ``cora-eval`` prints about a result, and the exit code that goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cora.evaluation.consistency import YawConsistency
    from cora.evaluation.runner import EvaluationResult, PredictionResult
    from cora.evaluation.scoring import Scores

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
            f"{len(result.failures)} of {_num_asked(result)} questions have no answer; the first is row "
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
        "protocols": {name: found.to_dict() for name, found in result.scores.protocols.items()},
        "regions": {name: found.to_dict() for name, found in result.scores.regions.items()},
        "yaw_consistency": None if result.scores.yaw is None else result.scores.yaw.to_dict(),
        "counts": {**result.scores.counts, "reused": result.num_reused},
    }


def as_table(result: Result) -> str:
    """Return the result as lines of text: scores with intervals, by type and protocol, counts, where the files are."""
    lines = _score_lines(result.scores) if hasattr(result, "scores") else []
    reused = f", {result.num_reused} of them by an earlier run" if result.num_reused else ""
    answered = _num_asked(result) - len(result.failures)
    lines.append(f"{answered} of {_num_asked(result)} questions answered{reused}")
    lines.append(f"files: {result.output_dir}")
    return "\n".join(lines)


def _score_lines(scores: Scores) -> list[str]:
    lines = [
        f"{name:<14}{_number(metric.value)}{_interval(metric.interval)}{metric.why}".rstrip()
        for name, metric in scores.metrics.items()
    ]
    lines += [
        f"  {name:<12}{_number(found.accuracy)}{found.correct} of {found.answered}"
        for name, found in scores.by_type.items()
    ]
    lines += [
        f"{name:<16}{_number(found.accuracy)}{found.correct} of {found.answered}, {found.unextracted} could not be read"
        for name, found in scores.protocols.items()
    ]
    lines += [
        f"  {name:<14}{_number(found.correct / found.items)}{found.correct} of {found.items}"
        for name, found in scores.regions.items()
    ]
    return lines if scores.yaw is None else lines + _yaw_lines(scores.yaw)


def _num_asked(result: Result) -> int:
    """Return the number of questions of the table, and about turned panoramas."""
    return result.num_questions + getattr(result, "num_turned", 0)


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.4f}, {interval[1]:.4f}]  "


def _yaw_lines(yaw: YawConsistency) -> list[str]:
    shifts = ", ".join(f"{shift:g}°: {accuracy:.4f}" for shift, accuracy in yaw.accuracy_by_shift.items())
    values = (
        ("mean accuracy", yaw.mean_accuracy, f"over turned panoramas, {yaw.items} questions ({shifts})"),
        ("worst case", yaw.worst_case, "right at every shift"),
        ("agreement", yaw.agreement, "of pairs of shifts"),
    )
    lines = [f"{name:<16}{_number(value)}{what}" for name, value, what in values]
    lines += [
        f"  {name:<14}{_number(found.correct / found.items)}{found.correct} of {found.items}, turned ones too"
        for name, found in yaw.regions.items()
    ]
    return lines + [f"not turned: {count}, {reason}" for reason, count in yaw.left_out.items()]


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.4f}':<8}"
