"""The quickstart from beginning to end, shortened: every step is real, only the numbers are small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHORT = [
    "--train-scenes=64",
    "--test-scenes=4",
    "--tower-steps=30",
    "--set=training.stage_configs.vision.max_steps=2",
    "--set=training.stage_configs.resampler.max_steps=2",
    "--set=training.stage_configs.finetune.max_steps=8",
    "--set=training.stage_configs.finetune.epochs=1",
    "--set=generation.max_new_tokens=12",
]


def quickstart(runs_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cora.cli.main", "quickstart", f"--runs-dir={runs_dir}", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def first(runs_dir: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("vllm", exc_type=ImportError)
    return quickstart(runs_dir, "--backend=vllm", *SHORT)


@pytest.mark.vllm
@pytest.mark.slow
def test_quickstart_ends_with_one_json_document(first: subprocess.CompletedProcess[str], runs_dir: Path) -> None:
    assert first.returncode == 0, first.stderr[-2000:]
    document = json.loads(first.stdout.splitlines()[-1])
    assert set(document) == {"accuracy", "blind", "black_image", "untrained", "seconds", "run_dir"}
    for name in ("accuracy", "blind", "black_image", "untrained"):
        assert 0.0 <= document[name] <= 1.0
    assert document["seconds"] > 0
    assert Path(document["run_dir"]).parent == runs_dir / "tiny"


@pytest.mark.vllm
@pytest.mark.slow
def test_quickstart_leaves_a_complete_run(first: subprocess.CompletedProcess[str]) -> None:
    run_dir = Path(json.loads(first.stdout.splitlines()[-1])["run_dir"])
    for name in ("config.yaml", "provenance.json", "stage_state.json", "learning_curve.png", "quickstart.json"):
        assert (run_dir / name).stat().st_size > 0, name
    state = json.loads((run_dir / "stage_state.json").read_text())
    assert state["completed_stages"] == ["vision", "resampler", "finetune"]
    metrics = json.loads((run_dir / "evaluation" / "trained" / "metrics.json").read_text())
    assert "vllm" in json.dumps(metrics)
    assert '"yaw_deg":' in (run_dir / "evaluation" / "trained" / "report.html").read_text()
    answers = (run_dir / "evaluation" / "trained" / "predictions.csv").read_text().splitlines()
    assert len(answers) > 4 * 8


@pytest.mark.vllm
@pytest.mark.slow
def test_a_second_quickstart_reuses_everything(first: subprocess.CompletedProcess[str], runs_dir: Path) -> None:
    again = quickstart(runs_dir, "--backend=vllm", *SHORT)
    assert again.returncode == 0, again.stderr[-2000:]
    before, after = (json.loads(run.stdout.splitlines()[-1]) for run in (first, again))
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    assert "trained already" in again.stderr


def test_a_mistyped_key_is_one_line(tmp_path: Path) -> None:
    result = quickstart(tmp_path, *SHORT, "--set=training.sede=1")
    assert result.returncode == 2
    assert "training.sede" in result.stderr
    assert "seed" in result.stderr
    assert "Traceback" not in result.stderr
