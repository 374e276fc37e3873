"""CSV and TensorBoard always; Weights & Biases when a project is named, and an error when it is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from cora.config.schema import CORAConfig
from cora.errors import BackendUnavailable
from cora.training import loggers
from cora.training.loggers import check_loggers, stage_loggers
from cora.training.metrics_file import MetricsFile


def make_config(**sections: Any) -> CORAConfig:
    return CORAConfig.model_validate(sections)


def test_nothing_leaves_the_machine_unless_asked(tmp_path: Path) -> None:
    assert [type(item) for item in stage_loggers(make_config(), "vision", tmp_path)] == [MetricsFile, TensorBoardLogger]


def test_the_project_of_the_run_wins() -> None:
    shared = {"environment": {"wandb_project": "all"}}
    assert make_config().wandb_project is None
    assert make_config(**shared).wandb_project == "all"
    assert make_config(**shared, training={"wandb_project": "this"}).wandb_project == "this"


@pytest.mark.parametrize("section", ["environment", "training"])
def test_missing_weights_and_biases_is_an_error(section: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    check_loggers(make_config())
    config = make_config(**{section: {"wandb_project": "panoramas"}})
    with pytest.raises(BackendUnavailable, match=r"'panoramas', but .* pip install 'cora-panorama\[wandb\]'"):
        stage_loggers(config, "vision", tmp_path)


def test_a_stage_is_a_run_in_the_group_of_its_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "runs" / "tiny" / "20260101_001" / "vision"
    config = make_config(training={"wandb_project": "panoramas"})
    (logger,) = [item for item in stage_loggers(config, "vision", folder) if isinstance(item, WandbLogger)]
    assert logger.name == "panoramas"
    assert logger.save_dir == str(folder)
    assert logger._wandb_init["name"] == "tiny/20260101_001/vision"
    assert logger._wandb_init["group"] == "tiny/20260101_001"
