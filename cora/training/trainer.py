"""CORATrainer: runs the stages of a configuration with Lightning and leaves a run folder with an export."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig, StageConfig, StageName
from cora.data.augmentation import YawAugmentation
from cora.data.datamodule import PanoramaDataModule
from cora.data.skipped import SkippedList
from cora.errors import ConfigError
from cora.training.build import build_model, pick_accelerator, pick_precision
from cora.training.callbacks import CUDACacheCleanupCallback
from cora.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from cora.training.curves import plot_curves
from cora.training.features import open_feature_cache
from cora.training.lightning_messages import quiet_lightning
from cora.training.loading import DataLoadingCallback, pick_num_workers
from cora.training.loggers import check_loggers, finished_afterwards, stage_loggers
from cora.training.module import PanoramaTrainingModule
from cora.training.overlap_figures import OverlapFigures
from cora.training.run_folder import RunFolder

__all__ = ["CORATrainer", "TrainingResult"]

logger = logging.getLogger(__name__)
_LOG_EVERY = 10


def _epoch_length(stage: StageConfig, num_batches: int) -> int:
    """Return the batches of an epoch, cut to `max_steps`: only an epoch that ends is validated and checkpointed."""
    if stage.max_steps is None:
        return num_batches
    return min(num_batches, stage.max_steps * stage.accumulate_grad_batches)


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind.

    Attributes:
        run_dir: The folder of the run.
        export_dir: The finished model.
        best_metrics: Best validation loss (training loss without validation data) by stage.
    """

    run_dir: Path
    export_dir: Path
    best_metrics: Mapping[str, float | None]


class CORATrainer:
    """Runs ``training.stages`` one after the other, each from the best weights of the one before.

    Args:
        config: The configuration.
        experiment: Name of the run's parent folder where ``experiment.name`` is ``auto``.
        show_progress: Whether progress bars are drawn.
        callbacks: Further callbacks, of all stages.

    Raises:
        ConfigError: A stage has no data or no loss.
    """

    def __init__(
        self,
        config: CORAConfig,
        *,
        experiment: str = "cora",
        show_progress: bool = True,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config
        self.show_progress = show_progress
        self.callbacks = callbacks
        name = config.experiment.name
        self.experiment = experiment if name == "auto" else name
        for stage in config.training.stages:
            if not config.stage_tables(stage)[0]:
                raise ConfigError(f"stage '{stage}' has no training data: set data.csv_train")

    def train(self) -> TrainingResult:
        """Train all stages and export the model."""
        config = self.config
        accelerator = pick_accelerator(config)
        check_loggers(config)
        self.precision = pick_precision(config, accelerator)
        seed_everything(config.training.seed, workers=True, verbose=False)
        self.model, self.processor = build_model(config)
        devices = config.training.devices
        self.num_workers = pick_num_workers(
            config.training.num_workers, accelerator, devices if isinstance(devices, int) else 1
        )
        # The data of all stages is read first: a wrong row should not stop a run hours later.
        stages = {name: self._data(name) for name in config.training.stages}
        run = RunFolder.create(config.output.runs_dir, self.experiment)
        logger.info("run folder: %s", run.path)
        self.skipped = SkippedList(run.path / "skipped.csv", max_share=config.data.max_skipped_share)
        ConfigManager.save(config, run.path / "config.yaml")
        tables = {table for name in stages for side in config.stage_tables(name) for table in side}
        run.save_provenance(seed=config.training.seed, device=accelerator, tables=sorted(tables))
        for name, data in stages.items():
            self._run_stage(name, data, run, accelerator)
        self.model.export(run.export, self.processor)
        logger.info("exported to %s", run.export)
        best: dict[str, float | None] = {name: run.state.results[name]["best_metric"] for name in stages}
        return TrainingResult(run.path, run.export, best)

    def _data(self, name: StageName) -> PanoramaDataModule:
        config, stage = self.config, self.config.training.stage_configs[name]
        train, val = config.stage_tables(name)
        return PanoramaDataModule(
            train,
            val,
            self.processor,
            mode="views" if name == "vision" else "answers",
            image_root=config.data.image_root,
            pack_questions=config.training.pack_questions,
            max_text_length=stage.max_text_length,
            batch_size=stage.batch_size,
            num_workers=self.num_workers,
            yaw_augmentation=(
                YawAugmentation(config.training.seed, forced=config.data.yaw_augmentation == "force")
                if config.data.yaw_augmentation
                else None
            ),
        )

    def _run_stage(self, name: StageName, data: PanoramaDataModule, run: RunFolder, accelerator: str) -> None:
        run.state.current_stage = name
        run.save_state()
        module = PanoramaTrainingModule(self.model, self.config, name)
        module.feature_cache = open_feature_cache(module, data, self.config, precision=self.precision)
        data.use_features(module.feature_cache)
        folder = run.stage(name)
        with quiet_lightning():
            trainer, best = self._lightning(name, folder, accelerator, data)
            with finished_afterwards(trainer.loggers):
                trainer.fit(module, datamodule=data)
        module.load_trained(read_checkpoint(best.best_model_path)["state_dict"])
        plot_curves(folder / "metrics.csv", folder / "curves.png", title=f"stage {name}")
        run.state.completed_stages.append(name)
        run.state.current_stage = None
        score = best.best_model_score
        run.state.results[name] = {
            "checkpoint": str(Path(best.best_model_path).relative_to(run.path)),
            "best_metric": None if score is None else float(score),
        }
        run.save_state()

    def _lightning(
        self, name: StageName, folder: Path, accelerator: str, data: PanoramaDataModule
    ) -> tuple[Trainer, ModelCheckpoint]:
        settings, stage = self.config.training, self.config.training.stage_configs[name]
        has_validation = data.val_dataset is not None
        monitored = "val_loss" if has_validation else "train_loss"
        checkpoint = ModelCheckpoint(
            dirpath=folder,
            filename=f"{name}-{{epoch:02d}}-{{{monitored}:.4f}}",
            monitor=monitored,
            save_last=True,
            # Without validation data there is one loss per epoch, known only once the epoch has ended.
            save_on_train_epoch_end=not has_validation,
        )
        callbacks: list[Callback] = [
            checkpoint,
            LearningRateMonitor(logging_interval="step"),
            DataLoadingCallback(data, name, self.skipped),
            *self.callbacks,
        ]
        if name == "vision":
            callbacks.append(OverlapFigures(folder))
        if accelerator == "cuda":
            callbacks.append(CUDACacheCleanupCallback())
        if self.show_progress:
            callbacks.append(RichProgressBar())
        epoch_length = _epoch_length(stage, len(data.train_dataloader()))
        trainer = Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            precision=self.precision,
            max_epochs=stage.epochs,
            max_steps=-1 if stage.max_steps is None else stage.max_steps,
            limit_train_batches=epoch_length,
            # An empty list of loaders would do too, but Lightning takes it for a mistake.
            limit_val_batches=1.0 if has_validation else 0,
            accumulate_grad_batches=stage.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            logger=stage_loggers(self.config, name, folder),
            log_every_n_steps=min(_LOG_EVERY, epoch_length),
            callbacks=callbacks,
            plugins=cast(Any, [AtomicCheckpointIO()]),
            enable_progress_bar=self.show_progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        return trainer, checkpoint
