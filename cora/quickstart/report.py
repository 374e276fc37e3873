"""What the quickstart shows: exact match of the trained model beside what it must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cora.config.schema import CORAConfig
from cora.data.synthetic import SplitFiles
from cora.data.table import Row, read_rows
from cora.evaluation.closed import most_frequent_answers
from cora.evaluation.report import write_report
from cora.evaluation.runner import evaluate
from cora.evaluation.scoring import Scores, score_answers
from cora.files import write_json
from cora.inference.blind import BlackImageGenerator
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationSettings, Generator

__all__ = ["Report", "evaluate_run"]

COLUMNS = ("trained", "blind", "black_image", "untrained")


@dataclass
class Report:
    """Exact match by question type, of the trained model and of what it must beat."""

    run_dir: Path
    by_type: dict[str, dict[str, float | None]]
    counts: dict[str, int]
    overall: dict[str, float | None]
    seconds: float = 0.0

    def as_document(self) -> dict[str, Any]:
        """Return what the last line says."""
        return {
            "accuracy": self.overall["trained"],
            **{name: self.overall[name] for name in COLUMNS[1:]},
            "seconds": self.seconds,
            "run_dir": str(self.run_dir),
        }

    def as_table(self) -> str:
        """Return the table, and where the files are."""

        def line(label: str, count: Any, values: Sequence[Any]) -> str:
            cells = [f"{value:.1%}" if isinstance(value, float) else str(value) for value in values]
            return f"{label:<10}{count!s:>11}" + "".join(f"{cell:>13}" for cell in cells)

        rows = [line(kind, self.counts[kind], [self.by_type[kind][c] for c in COLUMNS]) for kind in self.by_type]
        total = line("all", sum(self.counts.values()), [self.overall[c] for c in COLUMNS])
        header = line("type", "questions", [name.replace("_", " ") for name in COLUMNS])
        files = ("export", "evaluation", "learning_curve.png")
        where = [f"{name:<20}{self.run_dir / name}" for name in files]
        return "\n".join(
            ["Exact match on held-out panoramas", header, *rows, total, "", *where, f"took {self.seconds:.0f} s"]
        )


def evaluate_run(run_dir: Path, splits: dict[str, SplitFiles], config: CORAConfig, *, backend: str) -> Report:
    """Score the trained model, the same model looking at black, the untrained model, and the most frequent answers."""
    rows = read_rows(splits["test"].csv)
    settings = GenerationSettings(max_new_tokens=config.generation.max_new_tokens)
    scores: dict[str, Scores] = {}

    def answer(name: str, generator: Generator) -> None:
        folder = run_dir / "evaluation" / name
        is_main = name == "trained"
        result = evaluate(generator, rows, settings, folder, captions=is_main, test_csv=splits["test"].csv)
        scores[name] = result.scores

    trained = PanoramaGenerator.from_checkpoint(run_dir / "export", backend)
    try:
        answer("trained", trained)
        answer("black_image", BlackImageGenerator(trained))
    finally:
        trained.close()
    # A second engine would take longer to start than Transformers takes to answer.
    untrained = PanoramaGenerator.from_checkpoint(run_dir / "untrained", "transformers", batch_size=32)
    answer("untrained", untrained)
    untrained.close()
    write_report(run_dir / "evaluation" / "trained")
    scores["blind"] = _most_frequent(read_rows(splits["train"].csv), rows)
    report = _report(run_dir, scores)
    write_json(run_dir / "quickstart.json", {**asdict(report), "run_dir": str(run_dir)})
    return report


def _most_frequent(train: Sequence[Row], test: Sequence[Row]) -> Scores:
    return score_answers(test, most_frequent_answers(train, test), captions=False)


def _report(run_dir: Path, scores: dict[str, Scores]) -> Report:
    trained = scores["trained"].by_type
    by_type = {kind: {name: scores[name].by_type[kind].accuracy for name in COLUMNS} for kind in trained}
    counts = {kind: accuracy.answered for kind, accuracy in trained.items()}
    return Report(run_dir, by_type, counts, {name: scores[name].accuracy for name in COLUMNS})
