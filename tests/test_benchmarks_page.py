"""The tables of docs/benchmarks.md are those of the results beside them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from cora.bench import crop, eval, preprocess, resampler, scan, serve, throughput


def test_tables_are_those_of_the_results(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location("benchmarks_page", repository / "docs" / "benchmarks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text()
    assert page.count("\n| 8192 |") >= 4
    assert module.filled(page) == page


def test_results_have_the_columns_of_the_benchmarks(repository: Path) -> None:
    for name, columns in (
        ("crop", crop.COLUMNS),
        ("preprocess", preprocess.COLUMNS),
        ("scan", scan.COLUMNS),
        ("resampler", resampler.COLUMNS),
        ("eval", eval.COLUMNS),
        ("throughput", throughput.COLUMNS),
        ("serve", serve.COLUMNS),
    ):
        result = json.loads((repository / "bench" / "results" / f"{name}.json").read_text())
        assert "commit" in result["provenance"]
        assert {tuple(row) for row in result["rows"]} == {columns}
