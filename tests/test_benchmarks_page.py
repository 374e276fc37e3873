"""The tables of docs/benchmarks.md are those of the results beside them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from cora.bench import captions, crop, eval, preprocess, resampler, scan, serve, throughput, train


@pytest.fixture
def module(repository: Path) -> Any:
    """docs/benchmarks.py."""
    spec = importlib.util.spec_from_file_location("benchmarks_page", repository / "docs" / "benchmarks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_results(module: Any) -> None:
    page = module.PAGE.read_text()
    assert page.count("\n| 8192 |") >= 4
    assert module.filled(page) == page


def test_a_row_takes_the_place_of_the_one_it_repeats(module: Any, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    for backend, cores, rate in (("a", 1, 10), ("a", 2, 20), ("b", 1, 30), ("a", 1, 40)):
        row = {"backend": backend, "cores": cores, "rate": rate}
        module.add_row(path, row, ("backend", "cores"), f"commit {rate}")
    found = json.loads(path.read_text())
    assert [row["rate"] for row in found["rows"]] == [40, 20, 30]
    assert found["provenance"] == "commit 40"


def test_results_have_the_columns_of_the_benchmarks(repository: Path) -> None:
    for name, columns in (
        ("crop", crop.COLUMNS),
        ("preprocess", preprocess.COLUMNS),
        ("scan", scan.COLUMNS),
        ("resampler", resampler.COLUMNS),
        ("eval", eval.COLUMNS),
        ("throughput", throughput.COLUMNS),
        ("serve", serve.COLUMNS),
        ("captions", captions.COLUMNS),
        ("train", train.COLUMNS),
    ):
        result = json.loads((repository / "bench" / "results" / f"{name}.json").read_text())
        assert "commit" in result["provenance"]
        assert {tuple(row) for row in result["rows"]} == {columns}
