"""Comparisons of runs as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cora.errors import DataError
from cora.evaluation.cells import escape_cell
from cora.evaluation.comparison import DIGITS, Cell, Comparison, Line
from cora.evaluation.labels import label_of
from cora.files import write_file

__all__ = ["as_csv", "as_latex", "as_markdown", "as_rows", "write_tables"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def write_tables(folder: Path, comparison: Comparison) -> None:
    """Write ``comparison.md``, ``comparison.tex`` and ``comparison.csv`` to a folder, made if missing.

    Raises:
        DataError: The folder cannot be made, or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror or error}") from error
    for ending, form in (("md", as_markdown), ("tex", as_latex), ("csv", as_csv)):
        write_file(folder / f"comparison.{ending}", form(comparison))


def as_markdown(comparison: Comparison) -> str:
    """Return two tables, scores with the best in bold and differences to the baseline, and then the remarks."""
    labels = [label_of(metric) for metric in comparison.metrics]
    scores = [
        [_plain(line.name), f"{line.answered} of {line.questions}", *(_bold(cell, "**{}**") for cell in _cells(line))]
        for line in comparison.lines
    ]
    text = _markdown_table(["run", "answered", *labels], scores)
    others = [line for line in comparison.lines if line.name != comparison.baseline]
    if others:
        differences = [[_plain(line.name), *(_difference(cell) for cell in _cells(line))] for line in others]
        text += f"\n{_about(comparison, _plain(comparison.baseline))}\n\n"
        text += _markdown_table(["run", *labels], differences)
    return text + "".join(f"\n{_plain(remark)}\n" for remark in comparison.remarks)


def as_latex(comparison: Comparison) -> str:
    """Return a table for the package booktabs: scores, the best in bold, differences to the baseline below them."""
    metrics = comparison.metrics
    lines = [
        f"% {_about(comparison, ' '.join(comparison.baseline.split()))}",
        *(f"% {' '.join(remark.split())}" for remark in comparison.remarks),
        rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
        r"\toprule",
        " & ".join(["run", *(_latex(label_of(metric)) for metric in metrics)]) + r" \\",
        r"\midrule",
    ]
    for line in comparison.lines:
        lines.append(
            " & ".join([_latex(line.name), *(_bold(cell, r"\textbf{{{}}}") for cell in _cells(line))]) + r" \\"
        )
        if line.name != comparison.baseline:
            small = [rf"\scriptsize {_latex(_difference(cell))}".rstrip() for cell in _cells(line)]
            lines.append(" & ".join(["", *small]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def as_csv(comparison: Comparison) -> str:
    """Return one line for each run and metric, numbers in full."""
    rows = as_rows(comparison)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        # Only texts can be taken for formulas: a negative difference is a number.
        writer.writerow([escape_cell(value) if isinstance(value, str) else value for value in row.values()])
    return stream.getvalue()


def as_rows(comparison: Comparison) -> list[Mapping[str, Any]]:
    """Return one flat row of plain values for each run and metric."""
    return [
        {
            "run": line.name,
            "metric": metric,
            "score": cell.score,
            "is_best": cell.is_best,
            "baseline": comparison.baseline,
            "difference": cell.difference.value if cell.difference else None,
            "low": cell.difference.low if cell.difference else None,
            "high": cell.difference.high if cell.difference else None,
            "p_value": cell.difference.p_value if cell.difference else None,
            "answered": line.answered,
            "questions": line.questions,
        }
        for line in comparison.lines
        for metric, cell in line.cells.items()
    ]


def _cells(line: Line) -> list[Cell]:
    return list(line.cells.values())


def _about(comparison: Comparison, baseline: str) -> str:
    return (
        f"Difference to {baseline}, 95 % interval and p-value of a paired bootstrap: {comparison.resamples} draws of "
        f"{comparison.num_images} panoramas, seed {comparison.seed}, not corrected for the number of comparisons."
    )


def _bold(cell: Cell, form: str) -> str:
    if cell.score is None:
        return "–"
    text = f"{cell.score:.{DIGITS}f}"
    return form.format(text) if cell.is_best else text


def _difference(cell: Cell) -> str:
    found = cell.difference
    if found is None:
        return "–"
    text = f"{found.value:+.{DIGITS}f}"
    if found.low is None or found.high is None or found.p_value is None:
        return text
    p_value = "< 0.001" if found.p_value < 0.001 else f"= {found.p_value:.3f}"
    return f"{text} [{found.low:+.{DIGITS}f}, {found.high:+.{DIGITS}f}], p {p_value}"


def _markdown_table(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in " ".join(text.split()).replace("–", "--")).replace("< ", "$<$ ")
