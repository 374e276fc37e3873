"""Lightning callbacks of the trainer."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["CUDACacheCleanupCallback", "StepLimit"]


class CUDACacheCleanupCallback(Callback):
    """Hands cached GPU memory back before validation and now and then within training and validation.

    Training and validation batches differ in shape; what one leaves in the allocator's cache the other cannot use.

    Args:
        every_n_batches: Training batches between two clean-ups.
        every_n_validation_batches: Validation batches between two clean-ups.
    """

    def __init__(self, every_n_batches: int = 500, every_n_validation_batches: int = 100) -> None:
        self.every_n_batches = every_n_batches
        self.every_n_validation_batches = every_n_validation_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Clean up after every n-th batch."""
        if (batch_idx + 1) % self.every_n_batches == 0:
            torch.cuda.empty_cache()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Clean up after every n-th batch."""
        if (batch_idx + 1) % self.every_n_validation_batches == 0:
            torch.cuda.empty_cache()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clean up before validation."""
        torch.cuda.empty_cache()


class StepLimit(Callback):
    """Ends a stage after a number of optimiser steps, with the validation that ends an epoch.

    Lightning's ``max_steps`` leaves out the validation when the epoch is not over.

    Args:
        max_steps: Optimiser steps of the stage.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask for the end once the steps are done."""
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True
