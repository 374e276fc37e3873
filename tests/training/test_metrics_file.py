"""metrics.csv: rows with different columns, written whole, and continued where a checkpoint was written."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from cora.training.curves import read_metrics
from cora.training.metrics_file import MetricsFile


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.save()
    assert not path.exists()
    file.log_metrics({"train_loss": torch.tensor(0.5), "epoch": 0}, 3)
    file.log_metrics({"val_loss": 0.25}, 4)
    file.finalize("success")
    assert rows(path) == [
        {"epoch": "0", "step": "3", "train_loss": "0.5", "val_loss": ""},
        {"epoch": "", "step": "4", "train_loss": "", "val_loss": "0.25"},
    ]
    assert read_metrics(path) == {"train_loss": [(3, 0.5)], "val_loss": [(4, 0.25)]}
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.csv"]


def test_it_is_on_disk_before_the_end(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in range(25):
        file.log_metrics({"train_loss": 1.0}, step)
    assert len(rows(file.path)) == 20


def test_a_resumed_stage_keeps_what_its_checkpoint_knows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    for step in range(6):
        file.log_metrics({"train_loss": float(step)}, step)
    file.log_metrics({"val_loss": 9.0}, 5)
    file.save()
    # Five steps and six rows: the learning rate of the next step is logged before its checkpoint is written.
    resumed = MetricsFile(path, num_rows=6, before_step=5)
    assert len(rows(path)) == 7
    resumed.log_metrics({"train_loss": 50.0}, 5)
    resumed.save()
    assert read_metrics(path) == {"train_loss": [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0)]}
    # All six steps, before the validation.
    again = MetricsFile(path, num_rows=6, before_step=6)
    assert len(again.rows) == 6
    assert MetricsFile(path).rows == []
