"""Training runs of seconds: towers, tables and a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import make_panorama, write_towers

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig


def write_workspace(folder: Path) -> Path:
    """Write two towers, six panoramas and the tables train.csv and val.csv into a folder; return it."""
    write_towers(folder)
    for split, seeds in (("train", range(4)), ("val", range(10, 12))):
        lines = ["url,query,annotation"]
        for seed in seeds:
            make_panorama(seed).save(folder / f"{seed}.png")
            lines += [f"{seed}.png,What is ahead?,number {seed}", f"{seed}.png,sky,it is {seed}"]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_config(workspace: Path, runs_dir: Path, *overrides: str) -> CORAConfig:
    """Return the configuration of a run of seconds in a workspace."""
    stages: dict[str, Any] = {
        "vision": {"epochs": 1, "batch_size": 2, "lr": 1e-3, "vision_trainable_blocks": 1},
        "resampler": {"epochs": 2, "batch_size": 2, "lr": 1e-3, "accumulate_grad_batches": 1},
        "finetune": {"epochs": 2, "batch_size": 2, "lr": 1e-3, "accumulate_grad_batches": 1},
    }
    config: dict[str, Any] = {
        "models": {
            "vision_name": str(workspace / "siglip"),
            "language_model_name": str(workspace / "qwen"),
            "resampler_type": "mlp",
            "resampler_config": {"hidden_dim": 32},
            "latent_dimension": 24,
        },
        "image_processing": {"crop_strategy": "e2p", "image_size": 32},
        "training": {"accelerator": "cpu", "stage_configs": stages},
        "lora": {"use_lora": True, "rank": 4, "dropout": 0.0},
        "data": {"csv_train": str(workspace / "train.csv"), "csv_val": str(workspace / "val.csv")},
        "output": {"runs_dir": str(runs_dir)},
    }
    path = runs_dir / "config.json"
    runs_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))  # JSON is YAML
    return ConfigManager.load(path, overrides=list(overrides), strict=True)
