"""CORATrainer: runs the stages of a configuration with Lightning and leaves a run folder with an export."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig, StageName
from cora.data.augmentation import YawAugmentation
from cora.data.datamodule import PanoramaDataModule
from cora.data.feature_cache import FeatureCache
from cora.data.skipped import SkippedList
from cora.errors import ConfigError
from cora.training.autobatch import first_batch_size, fit_batch_size, resume_batch_size
from cora.training.build import build_model, enter_stage, pick_accelerator, pick_precision
from cora.training.callbacks import CUDACacheCleanupCallback, StepLimit
from cora.training.checkpoints import AtomicCheckpointIO, read_checkpoint, remove_other_best
from cora.training.curves import plot_curves
from cora.training.features import open_feature_cache
from cora.training.last_checkpoint import LAST, LastCheckpoint
from cora.training.lightning_messages import quiet_lightning
from cora.training.loading import DataLoadingCallback, pick_num_workers
from cora.training.loggers import check_loggers, finished_afterwards, stage_loggers
from cora.training.module import PanoramaTrainingModule
from cora.training.overlap_figures import OverlapFigures
from cora.training.processes import count_processes, is_first, of_first, pick_strategy, sharded_copy, start_processes
from cora.training.resume import ResumePoint, make_plan
from cora.training.run_folder import RunFolder

__all__ = ["CORATrainer", "TrainingResult"]

logger = logging.getLogger(__name__)
_LOG_EVERY = 10


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
        resume: ``auto`` goes on with the newest run, or makes a new one where there is none; or a run folder, or one of
            its checkpoints. None makes a new run.
        stage: The only stage to run; the best checkpoints of the stages before must be in the run.

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
        resume: str | None = None,
        stage: str | None = None,
    ) -> None:
        self.config = config
        self.resume = resume
        self.stage = stage
        self.show_progress = show_progress
        self.callbacks = callbacks
        name = config.experiment.name
        self.experiment = experiment if name == "auto" else name
        for stage in config.training.stages:
            if not config.stage_tables(stage)[0]:
                raise ConfigError(f"stage '{stage}' has no training data: set data.csv_train")

    def train(self) -> TrainingResult:
        """Train what is left of the stages and export the model.

        Raises:
            CheckpointError: There is nothing of that kind to resume.
            ConfigError: The run that is to go on was started with another configuration.
            TrainingInterrupted: A signal ended it.
        """
        config = self.config
        runs = Path(config.output.runs_dir).resolve() / self.experiment
        accelerator = pick_accelerator(config)
        start_processes(config, accelerator)
        plan = of_first(lambda: make_plan(config, runs, resume=self.resume, stage=self.stage))
        if plan.run is not None and not plan.todo and plan.run.export.exists():
            logger.info("%s is finished: nothing is left to do", plan.run.path)
            return self._result(plan.run)
        check_loggers(config)
        self.precision = pick_precision(config, accelerator)
        seed_everything(config.training.seed, workers=True, verbose=False)
        self.model, self.processor = build_model(config)
        self.num_processes = count_processes(config, accelerator)
        self.num_workers = pick_num_workers(
            config.training.num_workers, accelerator, self.num_processes // config.training.num_nodes
        )
        # The data of all stages is read first: a wrong row should not stop a run hours later.
        stages = {name: self._data(name) for name in plan.todo}
        if plan.point is not None:
            resume_batch_size(stages[plan.todo[0]], config.training.stage_configs[plan.todo[0]], plan.point.place)
            stages[plan.todo[0]].load_state_dict(plan.point.place)
        run = plan.run or RunFolder.create(config.output.runs_dir, self.experiment)
        logger.info("run folder: %s", run.path)
        self._note_start(run, accelerator)
        for name, path in plan.done.items():
            logger.info("stage %s: %s", name, path)
            self.processor = enter_stage(self.model, self.processor, config, name)
            PanoramaTrainingModule(self.model, config, name).load_trained(read_checkpoint(path)["state_dict"])
        for name, data in stages.items():
            self._run_stage(name, data, run, accelerator, plan.point if name == plan.todo[0] else None)
        if is_first():
            self._export(run)
        return self._result(run)

    def _note_start(self, run: RunFolder, accelerator: str) -> None:
        config = self.config
        self.skipped = SkippedList(run.path / "skipped.csv", max_share=config.data.max_skipped_share)
        if not is_first():
            return
        ConfigManager.save(config, run.path / "config.yaml")
        tables = {table for name in config.training.stages for side in config.stage_tables(name) for table in side}
        run.save_provenance(seed=config.training.seed, device=accelerator, tables=sorted(tables))
        # It would be that of stages before.
        shutil.rmtree(run.export, ignore_errors=True)

    def _export(self, run: RunFolder) -> None:
        """Write the export under another name first: where it lies, it is whole, and the run finished."""
        partial = run.export.with_name("export.part")
        shutil.rmtree(partial, ignore_errors=True)
        self.model.export(partial, self.processor)
        partial.rename(run.export)
        logger.info("exported to %s", run.export)

    def _result(self, run: RunFolder) -> TrainingResult:
        best: dict[str, float | None] = {
            name: run.state.results[name]["best_metric"] for name in run.state.completed_stages
        }
        return TrainingResult(run.path, run.export, best)

    def _data(self, name: StageName) -> PanoramaDataModule:
        config, stage = self.config, self.config.training.stage_configs[name]
        train, val = config.stage_tables(name)
        self.processor = enter_stage(self.model, self.processor, config, name)
        return PanoramaDataModule(
            train,
            val,
            self.processor,
            mode="views" if name == "vision" else "answers",
            image_root=config.data.image_root,
            pack_questions=config.training.pack_questions,
            max_text_length=stage.max_text_length,
            batch_size=first_batch_size(stage),
            num_workers=self.num_workers,
            yaw_augmentation=(
                YawAugmentation(config.training.seed, forced=config.data.yaw_augmentation == "force")
                if config.data.yaw_augmentation
                else None
            ),
            accumulate=stage.accumulate_grad_batches,
            group_by_length=config.training.group_by_length,
            seed=config.training.seed,
            num_replicas=self.num_processes,
        )

    def _run_stage(
        self,
        name: StageName,
        data: PanoramaDataModule,
        run: RunFolder,
        accelerator: str,
        point: ResumePoint | None = None,
    ) -> None:
        run.state.current_stage = name
        run.save_state()
        # A stage starts with the same random numbers, whether the one before ran in this process or not.
        seed_everything(self.config.training.seed, workers=True, verbose=False)
        self.processor = enter_stage(self.model, self.processor, self.config, name)
        module = PanoramaTrainingModule(self.model, self.config, name)
        if point is None:
            fit_batch_size(module, data, self.config, self.precision)
        module.feature_cache = open_feature_cache(module, data, self.config, precision=self.precision)
        data.use_features(module.feature_cache)
        self._remember_views(name, data, module.feature_cache)
        folder = run.stage(name)
        for leftover in folder.glob("*.part"):  # of a write that was cut off
            leftover.unlink(missing_ok=True)
        with quiet_lightning():
            trainer, best = self._lightning(name, folder, accelerator, data, point)
            if point is not None:
                logger.info("stage %s goes on after step %d: %s", name, point.step, point.path)
            with finished_afterwards(trainer.loggers):
                trainer.fit(
                    sharded_copy(module, trainer.strategy),
                    datamodule=data,
                    ckpt_path=None if point is None else point.path,
                    weights_only=True,
                )
        best_path = of_first(lambda: best.best_model_path)
        module.load_trained(read_checkpoint(best_path)["state_dict"])
        if is_first():
            # A kill after the last checkpoint, before what it replaced was removed: no later checkpoint does that.
            remove_other_best(best_path)
            plot_curves(folder / "metrics.csv", folder / "curves.png", title=f"stage {name}")
        run.state.completed_stages.append(name)
        run.state.current_stage = None
        score = best.best_model_score
        run.state.results[name] = {
            "checkpoint": str(Path(best_path).relative_to(run.path)),
            "best_metric": None if score is None else float(score),
        }
        run.save_state()

    def _remember_views(self, name: StageName, data: PanoramaDataModule, features: FeatureCache | None) -> None:
        max_bytes = self.config.training.view_memory_bytes
        images = (image for dataset in data.datasets for image in dataset.images)
        if features is not None and all(features.admits(image) for image in images):
            return
        if max_bytes and self.config.training.stage_configs[name].epochs > 1 and data.num_workers == 0:
            data.remember_views(max_bytes)
            logger.info(
                "stage %s: up to %d MB of views are kept in memory: training loads them itself, and more than once",
                name,
                max_bytes // 10**6,
            )

    def _lightning(
        self, name: StageName, folder: Path, accelerator: str, data: PanoramaDataModule, point: ResumePoint | None
    ) -> tuple[Trainer, ModelCheckpoint]:
        settings, stage = self.config.training, self.config.training.stage_configs[name]
        num_batches = data.sampler.num_batches
        steps_per_epoch = math.ceil(num_batches / stage.accumulate_grad_batches)
        num_steps = min(stage.epochs * steps_per_epoch, stage.max_steps or math.inf)
        first_step = 0 if point is None else point.step
        if first_step >= num_steps:  # what is left is the end of an epoch that may have been cut short
            num_batches = data.sampler.batches_trained
        has_validation = data.val_dataset is not None
        monitored = "val_loss" if has_validation else "train_loss"
        checkpoint = ModelCheckpoint(
            dirpath=folder,
            filename=f"{name}-{{epoch:02d}}-{{{monitored}:.4f}}",
            monitor=monitored,
            # A validation that is run again writes the file of the first time again.
            enable_version_counter=False,
            # Without validation data there is one loss per epoch, known only once the epoch has ended.
            save_on_train_epoch_end=not has_validation,
        )
        callbacks: list[Callback] = [
            checkpoint,
            LastCheckpoint(
                folder / LAST,
                data,
                checkpoint,
                every_n_steps=settings.checkpoint_every_n_steps,
                every_minutes=settings.checkpoint_every_minutes,
            ),
            StepLimit(int(num_steps)),
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
        trainer = Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=pick_strategy(self.config, accelerator),
            precision=self.precision,
            max_epochs=math.ceil(num_steps / steps_per_epoch),
            limit_train_batches=num_batches,
            # An empty list of loaders would do too, but Lightning takes it for a mistake.
            limit_val_batches=1.0 if has_validation else 0,
            accumulate_grad_batches=stage.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            logger=stage_loggers(
                self.config, name, folder, first_step=first_step, num_rows=0 if point is None else point.num_rows
            ),
            log_every_n_steps=min(_LOG_EVERY, num_batches),
            callbacks=callbacks,
            plugins=cast(Any, [AtomicCheckpointIO()]),
            enable_progress_bar=self.show_progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        return trainer, checkpoint
