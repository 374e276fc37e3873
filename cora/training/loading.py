"""What the trainer learns from how its batches were loaded: skipped panoramas, known features, time spent waiting."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cora.data.datamodule import PanoramaDataModule
from cora.data.samples import LoadReport
from cora.data.skipped import SkippedList

__all__ = ["DataLoadingCallback", "pick_num_workers"]

logger = logging.getLogger(__name__)
_MOST_WORKERS = 8


class DataLoadingCallback(Callback):
    """Lists skipped panoramas, tells the data which epoch it is, and logs at the end of an epoch how loading went.

    Args:
        data: The data of the stage.
        stage_name: Which stage.
        skipped: The list of the run.
    """

    def __init__(self, data: PanoramaDataModule, stage_name: str, skipped: SkippedList) -> None:
        self.data = data
        self.stage_name = stage_name
        self.skipped = skipped
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._waited = self._worked = 0.0
        self._hits = self._misses = self._damaged = 0
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting, and augment anew."""
        self.data.set_epoch(trainer.current_epoch)
        self._start_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take in how a batch was loaded."""
        now = time.perf_counter()
        self._waited += now - self._mark
        self._mark = now
        self._take(batch["report"], "train", len(self.data.train_dataset.images))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the time of a step, and its samples as trained on."""
        self.data.sampler.advance()
        now = time.perf_counter()
        self._worked += now - self._mark
        self._mark = now

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take in how a batch was loaded."""
        dataset = self.data.val_dataset
        if dataset is not None:
            self._take(batch["report"], "val", len(dataset.images))

    def _take(self, report: LoadReport, split: str, num_images: int) -> None:
        self._hits += report.num_hits
        self._misses += sum(key is not None for key in report.feature_keys)
        self._damaged += report.num_damaged
        for panorama in report.skipped:
            self.skipped.add(panorama, data=f"{self.stage_name}/{split}", num_images=num_images)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's look-ups of features and the share of time that training waited for data."""
        total = self._waited + self._worked
        logger.info(
            "stage %s, epoch %d: %.1f %% of the time waiting for data; vision features: %d known, %d computed to be "
            "kept, %d of them because they were damaged",
            self.stage_name,
            trainer.current_epoch,
            100 * self._waited / total if total else 0.0,
            self._hits,
            self._misses,
            self._damaged,
        )


def pick_num_workers(wanted: int | str, accelerator: str, num_devices: int) -> int:
    """Return the loading processes per device; ``auto`` follows from the cores, and is logged with the reason.

    A GPU leaves all cores but one to loading. On the CPU training needs them itself and loads in its own process.
    """
    if isinstance(wanted, int):
        return wanted
    cores = len(os.sched_getaffinity(0)) // num_devices
    number = min(_MOST_WORKERS, cores - 1 if accelerator == "cuda" else 0)
    number = max(0, number)
    logger.info("%d loading processes per device: %d cores for it, training on %s", number, cores, accelerator)
    return number
