"""cora-train: what a user sees of a run, and one clear line for everything that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cora.cli.train import main
from cora.training.trainer import CORATrainer, TrainingResult


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="cora-train")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("data: {csv_train: train.csv}\n")
    return path


def test_prints_where_the_export_is(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def train(self: CORATrainer) -> TrainingResult:
        names.append(self.experiment)
        return TrainingResult(tmp_path / "run", tmp_path / "run/export", {"vision": 1.25, "finetune": None})

    monkeypatch.setattr(CORATrainer, "train", train)
    result = invoke("--config", str(config))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "vision: best loss 1.2500",
        "finetune: done",
        f"run:    {tmp_path}/run",
        f"export: {tmp_path}/run/export",
    ]
    assert names == ["mine"]
    document = json.loads(invoke("--config", str(config), "--json").stdout.splitlines()[-1])
    assert document == {
        "run_dir": f"{tmp_path}/run",
        "export_dir": f"{tmp_path}/run/export",
        "vision": 1.25,
        "finetune": None,
    }


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", ["--set", "data.csv_train=null"], "stage 'vision' has no training data: set data.csv_train"),
        ("", ["--set", "training.sede=1", "--strict"], "did you mean 'seed'"),
        ("training: {stages: [vison]}", [], "unknown stage 'vison' (did you mean 'vision'?)"),
        ("training: {seed: many}", [], "training.seed"),
        ("training: [", [], "mine.yaml"),
        ("{}", ["--set", "image_processing.crop_strategy=e2pp"], "unknown crop strategy 'e2pp' (did you mean 'e2p'?)"),
        ("{}", ["--set", "models.resampler_type=percever"], "unknown resampler 'percever' (did you mean 'perceiver'?)"),
        ("{}", ["--set", "models.vision_name=runs/no/tower"], "runs/no/tower: no such checkpoint directory"),
    ],
)
def test_bad_configurations_are_one_line(tmp_path: Path, content: str, options: list[str], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    result = invoke("--config", str(path), "--set", "data.csv_train=train.csv", *options)
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_configuration_is_one_line(tmp_path: Path) -> None:
    result = invoke("--config", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "none.yaml" in result.stderr
    assert "Traceback" not in result.stderr
