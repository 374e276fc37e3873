"""`cora-bench` prints rows as a table or as one JSON list."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cora.cli.bench import main

ROW = {
    "candidate": "cora cpp antialias",
    "antialias": True,
    "panorama": "512x256",
    "views": "8 x 48x48",
    "median_ms": 2.5,
    "p25_ms": 2.0,
    "p75_ms": 3.0,
    "times_fastest": 1.0,
    "psnr_db": 41.0,
    "rounds": 3,
    "threads": 2,
    "device": "a processor",
    "torch": "2.13.0",
    "note": "",
}


@pytest.fixture
def asked(monkeypatch):
    """What the benchmark was asked for, instead of running it."""
    calls = []

    def run(**options):
        calls.append(options)
        return [ROW]

    monkeypatch.setattr("cora.bench.crop.run", run)
    return calls


def test_json_is_the_last_line(asked):
    result = CliRunner().invoke(main, ["crop", "--rounds", "3", "--threads", "2", "--json"])
    assert json.loads(result.stdout.splitlines()[-1]) == [ROW]
    assert asked == [{"rounds": 3, "threads": 2, "device": "cpu"}]


def test_table_has_a_line_for_each_row(asked):
    lines = CliRunner().invoke(main, ["crop"]).stdout.splitlines()
    assert len(lines) == 3
    assert "cora cpp antialias" in lines[1]
    assert "3 rounds, threads: 2, a processor, torch 2.13.0" in lines[2]


def test_cuda_where_there_is_none_is_one_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(main, ["crop", "--device", "cuda"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: --device cuda: torch sees no CUDA device")
