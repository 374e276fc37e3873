"""`cora-bench` prints rows as a table, and as one JSON list in the last line."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from cora.cli.bench import main

COMMON = {"rounds": 3, "device": "a processor", "cores": 2, "torch": "2.13.0"}
ROWS = {
    "crop": {
        "source_width": 1024,
        "size": 256,
        "antialias": True,
        "threads": 1,
        "ms": 1.5,
        "vs_cv2": None,
        "vs_py360": 10.5,
        "vs_research": 40.0,
        "psnr_db": 31.0,
        "research_psnr_db": 25.0,
        "floor_ms": 0.3,
        **COMMON,
    },
    "preprocess": {
        "source_width": 2048,
        "size": 256,
        "antialias": True,
        "threads": 1,
        "ms": 20.5,
        "decode_ms": 18.0,
        "decode_share": 0.88,
        "images_per_s": 48.8,
        "vs_research": 9.0,
        "vs_cv2": 1.2,
        "psnr_db": 34.0,
        **COMMON,
    },
}


@pytest.fixture(params=sorted(ROWS))
def command(request, monkeypatch):
    """A command, and what its benchmark was asked for, instead of running it."""
    calls = []

    def run(*arguments, **options):
        calls.append((arguments, options))
        return [ROWS[request.param]]

    monkeypatch.setattr(f"cora.bench.{request.param}.run", run)
    return request.param, calls


def test_json_is_the_last_line(command):
    name, calls = command
    options = ["--rounds", "3", "--threads", "2", "--width", "2048", "--size", "64", "--json"]
    result = CliRunner().invoke(main, [name, *options])
    assert json.loads(result.stdout.splitlines()[-1]) == [ROWS[name]]
    ((widths, sizes), keywords) = calls[0]
    assert (list(widths), list(sizes), keywords["rounds"]) == ([2048], [64], 3)
    assert keywords["threads"] in (2, (2,))


def test_table_has_a_line_for_each_row(command):
    name, calls = command
    lines = CliRunner().invoke(main, [name]).stdout.splitlines()
    assert len(lines) == 3
    assert str(ROWS[name]["ms"]) in lines[1].split()
    assert lines[2] == "medians of 3 rounds; a processor, 2 cores, torch 2.13.0"
    assert list(calls[0][0][0]) == [1024, 2048, 4096, 8192]
    if name == "crop":
        assert "-" in lines[1].split()
        assert calls[0][1]["threads"] == sorted({1, os.cpu_count()})


EVAL = {
    "backend": "vllm (a processor)",
    "sequential_rps": 10.0,
    "cold_rps": 45.0,
    "repeat_rps": 91.0,
    "cold_ratio": 4.5,
    "repeat_ratio": 9.1,
    "equal_answers": 1.0,
    "max_new_tokens": 64,
    "metrics_s": 3.25,
    "pycocoevalcap_s": 3.5,
    **COMMON,
}


def test_eval_ends_with_one_document(monkeypatch):
    calls = []
    monkeypatch.setattr("cora.bench.eval.run", lambda *arguments, **options: calls.append((arguments, options)) or EVAL)
    lines = CliRunner().invoke(main, ["eval", "--backend", "vllm", "--rounds", "2", "--json"]).stdout.splitlines()
    assert json.loads(lines[-1]) == EVAL
    assert lines[1].split() == ["10.0", "45.0", "91.0", "4.5", "9.1", "1.0", "3.25", "3.5"]
    assert lines[3] == "back end vllm (a processor), 64 new tokens"
    assert [str(path) for path in calls[0][0]] == ["configs/tiny.yaml"]
    assert calls[0][1] == {"backend": "vllm", "rounds": 2}


def test_captions_end_with_one_document(monkeypatch):
    row = {
        "captions": 5349,
        "distinct": 10698,
        "vocabulary": 8000,
        "metrics_s": 4.0,
        "pycocoevalcap_s": 8.0,
        "ratio": 2.0,
        **COMMON,
    }
    monkeypatch.setattr("cora.bench.captions.run", lambda rounds: row if rounds == 2 else None)
    lines = CliRunner().invoke(main, ["captions", "--rounds", "2", "--json"]).stdout.splitlines()
    assert json.loads(lines[-1]) == row
    assert lines[1].split() == ["5349", "10698", "8000", "4.0", "8.0", "2.0", "2"]


def test_a_width_that_is_none_is_refused():
    result = CliRunner().invoke(main, ["crop", "--width", "1000"])
    assert result.exit_code == 2
    assert "1024" in result.stderr
