"""`cora-bench serve` against a running server: open loop, soak, refusals, memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from served import KEY, Server
from tiny_models import make_panorama

from cora.bench.serve import COLUMNS, drift
from cora.cli.bench import main

pytestmark = pytest.mark.vllm


@pytest.fixture
def table(tmp_path: Path) -> Path:
    lines = ["image,query,answer"]
    for seed in range(3):
        make_panorama(seed).save(tmp_path / f"{seed}.jpg")
        lines += [f"{seed}.jpg,What is ahead?,a cone", f"{seed}.jpg,sky,blue"]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    return path


def bench(server: Server, monkeypatch: pytest.MonkeyPatch, *options: str, key: str = KEY):
    monkeypatch.setenv("CORA_API_KEY", key)
    return CliRunner().invoke(main, ["serve", *options, "--url", f"{server.url}/v1", "--json"])


def test_open_loop(server: Server, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart = tmp_path / "chart.png"
    options = ("--rate", "20", "--requests", "8", "--within", "0.001", "--chart", str(chart))
    result = bench(server, monkeypatch, str(table), *options)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout.splitlines()[-1])
    assert tuple(row) == COLUMNS
    assert (row["load"], row["requests"], row["answered"], row["errors"]) == ("20 requests/s", 8, 8, {})
    assert 0 < row["first_token_p50_ms"] <= row["total_p50_ms"] <= row["total_p99_ms"]
    # Eight requests at twenty a second take 0.4 s, and none is answered in a microsecond.
    assert row["seconds"] >= 0.4
    assert row["goodput_per_s"] == 0 < row["answers_per_s"]
    assert row["memory_mb"] is None
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_soak_counts_refusals_and_watches_memory(
    server: Server, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = str(server.process.pid)
    options = ("--soak", "3", "--concurrent", "40", "--pid", pid, "--chart", str(tmp_path / "chart.png"))
    result = bench(server, monkeypatch, str(table), *options)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout.splitlines()[-1])
    # The server takes twelve at once.
    assert row["errors"]["429"] >= 28
    assert row["answered"] > 0
    assert row["requests"] == row["answered"] + sum(row["errors"].values())
    # Two processes with torch in them.
    assert 500 < row["memory_mb"] <= row["memory_peak_mb"]


def test_a_wrong_key_is_one_line(server: Server, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = bench(server, monkeypatch, str(table), key="sk-another-one")
    assert result.exit_code == 2
    assert "names no model: 401" in result.stderr


def test_drift_is_that_after_the_warm_up() -> None:
    flat = [(float(second), 100.0) for second in range(80)]
    assert drift(flat) == 0
    assert drift([(second, 50.0 if second < 20 else 100.0) for second, _ in flat]) == 0
    assert drift([(second, 100.0 if second < 60 else 110.0) for second, _ in flat]) == pytest.approx(0.1)
    assert drift(flat[:3]) is None
