"""A real cora-eval that is told to end: soon, with an exit code that says so, and its answers kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cora

# cora-eval with a model that needs 0.3 s for two answers, and says when it is closed.
PROGRAM = """
import sys, time, types
from pathlib import Path
from cora.inference.protocol import GenerationResult

class Slow:
    name, model_digest, processor_digest, chunk_size = "fake", "m", "p", 2
    def generate(self, requests, settings):
        time.sleep(0.3)
        return [GenerationResult(request.query, (1,), "stop") for request in requests]
    def close(self):
        Path("closed").touch()

class PanoramaGenerator:
    @staticmethod
    def from_checkpoint(*_, **__):
        return Slow()

sys.modules["cora.inference.generator"] = types.SimpleNamespace(PanoramaGenerator=PanoramaGenerator)
from cora.cli.eval import main
main(sys.argv[1:], prog_name="cora-eval")
"""
ARGUMENTS = ("--checkpoint", "model", "--test-csv", "test.csv", "--output-dir", "out", "--predict-only")


@pytest.mark.parametrize(("number", "code", "words"), [("SIGTERM", 143, "ended by SIGTERM"), ("SIGINT", 130, "interr")])
@pytest.mark.abuse(15)
def test_it_ends_within_ten_seconds_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("test.csv").write_text("url,query,annotation\n" + "".join(f"{n}.jpg,q{n},r\n" for n in range(200)))
    environment = {**os.environ, "PYTHONPATH": str(Path(cora.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, *ARGUMENTS]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    journal = Path("out/predictions.jsonl")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.01)
    process.send_signal(signal.Signals[number])
    told = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - told < 10
    assert process.returncode == code, errors
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert words in line
    assert "Traceback" not in errors
    assert Path("closed").exists()
    kept = [json.loads(line)["prediction"] for line in journal.read_text().splitlines()]
    assert 4 <= len(kept) < 200
    again = [sys.executable, "-c", PROGRAM.replace("time.sleep(0.3)", "pass"), *ARGUMENTS, "--json"]
    done = subprocess.run(again, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["counts"] == {
        "questions": 200,
        "answered": 200,
        "unanswered": 0,
        "reused": len(kept),
    }
