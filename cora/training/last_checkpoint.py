"""The checkpoint a stage can go on from, and what makes training go on from it as if it had never stopped.

``last.ckpt`` is written between two optimiser steps, before a validation and after it. Lightning restores weights,
optimiser, schedule and its counters; this module adds the random numbers and the rows of ``metrics.csv``, and sets the
counters right where Lightning's own rules would leave out a validation.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from cora.data.datamodule import PanoramaDataModule
from cora.errors import TrainingInterrupted
from cora.training.checkpoints import remove_other_best
from cora.training.metrics_file import MetricsFile
from cora.training.processes import gathered
from cora.training.rng import restore_rng, rng_state

__all__ = ["LAST", "LastCheckpoint"]

logger = logging.getLogger(__name__)
LAST = "last.ckpt"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` up to date, and on SIGTERM or SIGINT writes it once more and ends training.

    Args:
        path: The file.
        data: The data of the stage.
        best: What keeps the best checkpoint; it must come before this callback.
        every_n_steps: Optimiser steps between two checkpoints within an epoch; None sets no such interval.
        every_minutes: Minutes between two checkpoints within an epoch; None sets no such interval.
    """

    def __init__(
        self,
        path: Path,
        data: PanoramaDataModule,
        best: ModelCheckpoint,
        *,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        self.path = path
        self.data = data
        self.best = best
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._saved_step = 0
        self._saved_time = time.monotonic()
        self._validation_pending = False
        self._rng: list[dict[str, Any]] = []
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning does not keep, as tensors and plain values; all processes have to call it."""
        return {
            "rng": gathered(rng_state()),
            "num_rows": self._num_rows,
            "validation_pending": self._validation_pending,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; random numbers are set when training starts."""
        self._rng = state_dict["rng"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's counters to the place in the data, and its paths to where the run lies now."""
        loops = checkpoint["loops"]["fit_loop"]
        self._saved_step = checkpoint["global_step"]
        # Written at the end of an epoch without validation data, it goes on with the first batch of the next.
        self.data.set_epoch(loops["epoch_progress"]["current"]["processed"])
        done = self.data.sampler.batches_trained
        counts = {"ready": done, "started": done, "processed": done, "completed": done}
        progress = loops["epoch_loop.batch_progress"]
        progress["current"], progress["total"] = dict(counts), dict(counts)
        progress["is_last_batch"] = done == self.data.sampler.num_batches
        # A validation that was begun is run from its start: Lightning knows it by a first batch that is not done.
        # A finished one is not run again, even where Lightning's counters still say that it had been begun once.
        begun = int(checkpoint["callbacks"][self.state_key]["validation_pending"])
        counts = {"ready": begun, "started": begun, "processed": 0, "completed": 0}
        loops["epoch_loop.val_loop.batch_progress"] = {
            "total": dict(counts),
            "current": dict(counts),
            "is_last_batch": False,
        }
        _move(checkpoint["callbacks"][self.best.state_key], self.path.parent)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the file whose rows belong to a checkpoint."""
        self._files = [item for item in trainer.loggers if isinstance(item, MetricsFile)]

    @property
    def _num_rows(self) -> int:
        return len(self._files[0].rows) if self._files else 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals from here on, and go on with the random numbers of a checkpoint."""
        # Lightning's own handler would end training with the exit code of a success, and without a checkpoint.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        if trainer.received_sigterm:
            self._signal = signal.SIGTERM
        if len(self._rng) == trainer.world_size:
            restore_rng(self._rng[trainer.global_rank])
        elif self._rng:
            logger.warning(
                "random numbers start anew: the checkpoint is of %d processes, there are %d",
                len(self._rng),
                trainer.world_size,
            )
        self._rng = []

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        logger.warning("%s: training stops after this step, with a checkpoint", signal.Signals(number).name)
        self._signal = number
        # Whoever sends it again does not want to wait.
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._end_if_stopped(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write a checkpoint where one is due, now that the step before is finished and logged."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        is_stopped = self._is_stopped(trainer)
        # Before the first batch of an epoch there is a checkpoint already, or nothing to keep.
        if batch_idx and (is_stopped or self._is_due(trainer)):
            self._save(trainer)
        if is_stopped:
            self._end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint: what ends a validation does not cost the epoch."""
        self._validation_pending = True
        self._save(trainer)
        self._end_if_stopped(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """End where that was asked for: the checkpoint is the one from before the validation."""
        self._end_if_stopped(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let checkpoints from here on come after the validation."""
        self._validation_pending = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint that knows the result."""
        self._save(trainer)
        self._end_if_stopped(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without validation data, write a checkpoint at the end of an epoch."""
        if not trainer.enable_validation:
            self._save(trainer)
        self._end_if_stopped(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        new_steps = trainer.global_step - self._saved_step
        by_steps = self.every_n_steps is not None and new_steps >= self.every_n_steps
        by_time = self.every_minutes is not None and time.monotonic() - self._saved_time >= 60 * self.every_minutes
        return bool(trainer.strategy.reduce_boolean_decision(new_steps > 0 and (by_steps or by_time), all=False))

    def _save(self, trainer: Trainer) -> None:
        for file in self._files:
            file.save()
        trainer.save_checkpoint(self.path)
        if trainer.is_global_zero and self.best.best_model_path:
            remove_other_best(self.best.best_model_path)
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()

    def _is_stopped(self, trainer: Trainer) -> bool:
        """Return whether any process has been told to stop."""
        return bool(trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False))

    def _end_if_stopped(self, trainer: Trainer) -> None:
        if self._is_stopped(trainer):
            self._end()

    def _end(self) -> None:
        raise TrainingInterrupted(signal.Signals(self._signal or signal.SIGTERM), self.path)


def _move(state: dict[str, Any], folder: Path) -> None:
    """Let the state of a ModelCheckpoint be about files in `folder`, wherever they lay when it was taken."""

    def moved(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    state["dirpath"] = str(folder)
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = moved(state[name])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
