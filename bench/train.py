"""Panoramas per second of each training stage, and the share of the time spent waiting for data.

A sample is a panorama with eight questions. They are packed, and share its views and its tokens, or each comes with the
panorama alone; vision features are cached or computed each time. The stage that trains its vision encoder can at least
keep the views in memory. The towers are those of the configuration's sizes, hardly trained: what they know makes no
difference to the time. The first epoch, which starts processes and fills caches, is not counted.
"""

from __future__ import annotations

import csv
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer

from cora.bench.timing import environment
from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig, StageName
from cora.data.synthetic import write_split
from cora.processors.images import PanoramaImageProcessor
from cora.training.build import image_options
from cora.training.towers import make_language_tower, make_vision_tower
from cora.training.towers.language import LanguageTowerOptions
from cora.training.towers.vision import VisionTowerOptions
from cora.training.trainer import CORATrainer

__all__ = ["COLUMNS", "prepare", "run"]

COLUMNS = (
    "stage",
    "samples_per_s",
    "data_share",
    "cache",
    "cache_gain",
    "packed",
    "vs_alone",
    "batch_size",
    "samples",
    "rounds",
    "device",
    "cores",
    "torch",
)
QUESTIONS = 8


class _Clock(Callback):
    """Adds up the time between batches and in them, from the second epoch on."""

    def __init__(self) -> None:
        self.waited = self.worked = 0.0
        self.num_batches = 0
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        if trainer.current_epoch > 0:
            self.waited += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if trainer.current_epoch > 0:
            self.worked += now - self._mark
            self.num_batches += 1
        self._mark = now


def run(config: Path, *, samples: int = 64, rounds: int = 2) -> list[dict[str, Any]]:
    """Return a row with the keys of `COLUMNS` for each stage, and for each way to get features where there are two.

    Args:
        config: Configuration of the sizes and batches; its towers and data are replaced.
        samples: Panoramas.
        rounds: Epochs that are counted.

    `cache` is what is kept from one epoch to the next: ``off`` (nothing), ``views`` or ``features``. `cache_gain` is
    over the same packing with nothing kept, `vs_alone` over neither packing nor cache.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = prepare(config, folder, samples=samples, rounds=rounds)
        for stage in get_args(StageName):
            rates: dict[tuple[bool, str], float] = {}
            ways = (
                product((True,), ("off", "views")) if stage == "vision" else product((False, True), ("off", "features"))
            )
            for packed, cache in ways:
                clock = _train(settings, stage, cache, packed)
                total = clock.waited + clock.worked
                rate = rates[packed, cache] = samples * rounds / total
                alone = rates.get((False, "off"))
                row = {
                    "stage": stage,
                    "samples_per_s": round(rate, 1),
                    "data_share": round(clock.waited / total, 3),
                    "cache": cache,
                    "cache_gain": round(rate / rates[packed, "off"], 2) if cache != "off" else None,
                    "packed": packed,
                    "vs_alone": round(rate / alone, 2) if alone else None,
                    "batch_size": settings.training.stage_configs[stage].batch_size,
                    "samples": samples,
                    "rounds": rounds,
                    **environment(),
                }
                rows.append({column: row[column] for column in COLUMNS})
    return rows


def prepare(path: Path, folder: Path, *, samples: int, rounds: int, language_steps: int = 1) -> CORAConfig:
    """Make panoramas and towers, and return the configuration that uses them."""
    split = write_split(folder, "train", num_scenes=samples, first_seed=0, workers=1)
    _keep_questions(split.csv)
    towers = {"models.vision_name": folder / "vision", "models.language_model_name": folder / "language"}
    overrides = [f"{key}={place}" for key, place in towers.items()]
    overrides += [f"data.csv_train={split.csv}", "data.csv_val=null", f"output.runs_dir={folder / 'runs'}"]
    for stage in get_args(StageName):
        prefix = f"training.stage_configs.{stage}"
        overrides += [f"{prefix}.epochs={rounds + 1}", f"{prefix}.max_steps=null"]
    config = ConfigManager.load(path, overrides=overrides)
    make_language_tower(
        folder / "language",
        system_message=config.training.system_msg,
        options=LanguageTowerOptions(steps=language_steps),
        first_seed=10_000_000,
    )
    processor = PanoramaImageProcessor.from_dict(image_options(config.image_processing))
    make_vision_tower(folder / "vision", split, processor, options=VisionTowerOptions(steps=1))
    return config


def _keep_questions(table: Path) -> None:
    """Cut the questions of each panorama to the same number."""
    with table.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    seen: dict[str, int] = {}
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for row in rows:
            image = row[header.index("url")]
            seen[image] = seen.get(image, 0) + 1
            if seen[image] <= QUESTIONS:
                writer.writerow(row)


def _train(config: CORAConfig, stage: StageName, cache: str, packed: bool) -> _Clock:
    options = {"stages": [stage], "cache_features": cache == "features", "pack_questions": packed}
    if cache != "views":
        options["view_memory_bytes"] = 0
    training = config.training.model_copy(update=options)
    clock = _Clock()
    CORATrainer(
        config.model_copy(update={"training": training}), experiment="bench", show_progress=False, callbacks=[clock]
    ).train()
    return clock
