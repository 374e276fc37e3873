"""`cora-bench throughput` on a tiny checkpoint: rows, and whether what it times is there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_models import make_model

from cora.bench import eval as bench_eval
from cora.bench import throughput
from cora.cli.bench import main

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]


def test_both_ways_are_timed(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = make_model()
    model.export(tmp_path / "export", processor)
    for module in (bench_eval, throughput):
        monkeypatch.setattr(module, "PANORAMAS", 2)
        monkeypatch.setattr(module, "SOURCE_WIDTH", 128)
    options = ["--checkpoint", str(tmp_path / "export"), "--config", str(repository / "configs" / "tiny.yaml")]
    options += ["--rounds", "2", "--chart", str(tmp_path / "chart.png"), "--json"]
    result = CliRunner().invoke(main, ["throughput", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    sequential, engine = json.loads(result.stdout.splitlines()[-1])
    for row in (sequential, engine):
        assert tuple(row) == throughput.COLUMNS
        assert row["requests"] == 6
        assert row["equal_answers"] == 1
        assert 0 < row["preprocessing_share"] < 1
        assert 0 < row["first_token_p50_ms"] <= row["first_token_p90_ms"] <= row["first_token_p99_ms"]
        assert 0 < row["inter_token_p50_ms"] <= row["inter_token_p99_ms"]
        # Random weights rarely end an answer before its limit.
        assert row["tokens_per_s"] > 2 * row["requests_per_s"]
    assert sequential["times_sequential"] == 1
    assert engine["way"] == "vllm (cpu, float32)"
    # Answered together, each waits for the others.
    assert engine["inter_token_p50_ms"] > 0
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_overlapping_spans_count_once() -> None:
    assert throughput._covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.2, 5.4)]) == 4.0
