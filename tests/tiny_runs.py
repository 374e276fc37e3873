"""Training runs of seconds: towers, tables and configurations; and runs in processes that can be stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_models import make_panorama, write_towers

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig

EXPERIMENT = "small"
STAGES = ("vision", "resampler", "finetune")


def write_workspace(
    folder: Path, *, num_panoramas: int = 4, num_validated: int = 2, lengths_differ: bool = False
) -> Path:
    """Write towers, panoramas and tables into a folder and return it; every answer, and every panorama, is different.

    There are two questions about each panorama; answers are of one length or of several.
    """
    write_towers(folder)
    for split, seeds in (("train", range(num_panoramas)), ("val", range(50, 50 + num_validated))):
        lines = ["url,query,annotation"]
        for seed in seeds:
            make_panorama(seed).save(folder / f"{seed}.png")
            more = " blue" * (seed % 4) if lengths_differ else ""
            lines += [f"{seed}.png,What is ahead?,number {seed}", f"{seed}.png,sky,it is {seed}{more}"]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def _document(workspace: Path, runs_dir: Path, stages: dict[str, Any]) -> dict[str, Any]:
    return {
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


def _write(document: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def make_config(workspace: Path, runs_dir: Path, *overrides: str) -> CORAConfig:
    """Return the configuration of a run of seconds in a workspace."""
    shared = {"batch_size": 2, "lr": 1e-3}
    stages: dict[str, Any] = {
        "vision": {**shared, "epochs": 1, "vision_trainable_blocks": 1},
        "resampler": {**shared, "epochs": 2, "accumulate_grad_batches": 1},
        "finetune": {**shared, "epochs": 2, "accumulate_grad_batches": 1},
    }
    path = _write(_document(workspace, runs_dir, stages), runs_dir / "config.json")
    return ConfigManager.load(path, overrides=list(overrides), strict=True)


def write_config(workspace: Path, runs_dir: Path, **training: Any) -> Path:
    """Write a configuration in which all random numbers matter: dropout, shuffling and drawn tokens."""
    stage = {"batch_size": 2, "lr": 1e-3, "epochs": 2, "accumulate_grad_batches": 2}
    stages: dict[str, Any] = {name: dict(stage) for name in STAGES}
    stages["vision"]["vision_trainable_blocks"] = 1
    document = _document(workspace, runs_dir, stages)
    document["training"] |= {"pack_questions": False, "checkpoint_every_n_steps": 1, "num_workers": 0, **training}
    document["lora"]["dropout"] = 0.1
    return _write(document, runs_dir / f"{EXPERIMENT}.yaml")


def start(config: Path, *options: str, record: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    """Start ``cora-train`` in a process and a process group of its own.

    Args:
        config: The configuration.
        options: Of the command.
        record: Where every batch that is trained on is noted.
        pause: Seconds that each batch of a validation takes longer.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "TINY_RUN_RECORD": str(record),
        "TINY_RUN_PAUSE": str(pause),
    }
    command = [sys.executable, __file__, "--config", str(config), *options]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Recorder(Callback):
    """Notes in a file what was trained on, and when training and validation begin."""

    def __init__(self, path: Path, pause: float = 0.0) -> None:
        self.path = path
        self.pause = pause

    def _note(self, **content: Any) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(content) + "\n")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(event="train", stage=pl_module.stage_name, step=trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(event="validation", stage=pl_module.stage_name, step=trainer.global_step)

    def on_validation_batch_end(self, *args: Any) -> None:
        time.sleep(self.pause)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._note(
            event="batch",
            stage=pl_module.stage_name,
            epoch=trainer.current_epoch,
            batch=batch_idx,
            samples=samples_of(batch),
            loss=float(outputs["loss"]),
        )


def samples_of(batch: dict[str, Any]) -> list[int]:
    """Return a number for each sample of a batch, different for different samples."""
    if "labels" in batch:
        return [zlib.crc32(repr([item for item in row if item >= 0]).encode()) for row in batch["labels"].tolist()]
    return [zlib.crc32(views.numpy().tobytes()) for views in batch["pixel_values"]]


def read_events(record: Path) -> list[dict[str, Any]]:
    """Return what a Recorder noted; a last line that was cut off is left out."""
    if not record.exists():
        return []
    return [json.loads(line) for line in record.read_text().split("\n")[:-1]]


def read_batches(record: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Return the batches by (stage, epoch, number); where one was done again after a restart, the last time counts."""
    return {
        (event["stage"], event["epoch"], event["batch"]): event
        for event in read_events(record)
        if event["event"] == "batch"
    }


def main(arguments: Sequence[str]) -> None:
    """Run ``cora-train`` with a Recorder."""
    from functools import partialmethod

    from cora.cli.train import main as train
    from cora.training.trainer import CORATrainer

    callbacks = [Recorder(Path(os.environ["TINY_RUN_RECORD"]), float(os.environ["TINY_RUN_PAUSE"]))]
    CORATrainer.__init__ = partialmethod(  # type: ignore[method-assign,assignment]
        CORATrainer.__init__, callbacks=callbacks, show_progress=False
    )
    train(list(arguments), prog_name="cora-train")


if __name__ == "__main__":
    main(sys.argv[1:])
