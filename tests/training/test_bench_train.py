"""`cora-bench train`: what its figures are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import make_config, write_workspace

from cora.bench import train
from cora.config.schema import CORAConfig
from cora.data.table import read_rows

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "tiny.yaml"


def clock_of(waited: float, worked: float) -> train._Clock:
    clock = train._Clock()
    clock.waited, clock.worked = waited, worked
    return clock


def test_gains_are_over_the_same_packing_and_over_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {(False, "off"): 12.0, (False, "features"): 6.0, (True, "off"): 4.0, (True, "features"): 1.0}

    def run(config: CORAConfig, stage: str, cache: str, packed: bool) -> train._Clock:
        total = {"off": 2.0, "views": 1.0}[cache] if stage == "vision" else seconds[packed, cache]
        return clock_of(total / 4, 3 * total / 4)

    monkeypatch.setattr(train, "_train", run)
    monkeypatch.setattr(train, "prepare", lambda path, folder, **sizes: train.ConfigManager.load(path))
    rows = train.run(CONFIG, samples=6, rounds=2)
    assert {tuple(row) for row in rows} == {train.COLUMNS}
    assert {row["data_share"] for row in rows} == {0.25}
    figures = [(row["stage"], row["packed"], row["cache"], row["samples_per_s"]) for row in rows]
    assert figures == [
        ("vision", True, "off", 6.0),
        ("vision", True, "views", 12.0),
        *((stage, *way, round(12 / seconds[way], 1)) for stage in ("resampler", "finetune") for way in seconds),
    ]
    gains = [(row["cache_gain"], row["vs_alone"]) for row in rows]
    assert gains == [(None, None), (2.0, None), *[(None, 1.0), (2.0, 2.0), (None, 3.0), (4.0, 12.0)] * 2]


def test_the_first_epoch_is_not_counted(tmp_path: Path) -> None:
    config: Any = make_config(
        write_workspace(tmp_path / "workspace"), tmp_path, "training.stage_configs.resampler.epochs=3"
    )
    clock = train._train(config, "resampler", "features", packed=False)
    # Eight questions in batches of two, in two of three epochs.
    assert clock.num_batches == 8
    assert clock.waited > 0
    assert clock.worked > 0


def test_every_panorama_keeps_as_many_questions(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    lines = [f"{image}.jpg,question {number},yes" for image in "ab" for number in range(train.QUESTIONS + 2)]
    table.write_text("\n".join(["url,query,annotation", *lines]) + "\n")
    for image in "ab":
        (tmp_path / f"{image}.jpg").touch()
    train._keep_questions(table)
    asked = [(row.image.stem, row.query) for row in read_rows(table)]
    assert asked == [(image, f"question {number}") for image in "ab" for number in range(train.QUESTIONS)]
