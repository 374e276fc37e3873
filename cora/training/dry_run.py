"""What a run would need: one batch through every stage, forward and backward, without an optimiser step.

Shapes: B samples, V views, L sequence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cora.config.schema import CORAConfig, StageName
from cora.data.datamodule import PanoramaDataModule
from cora.errors import CoraError
from cora.model.vlm import PanoramaVLM
from cora.processors.processor import PanoramaProcessor
from cora.training.autobatch import first_batch_size, fit_batch_size
from cora.training.build import build_model, enter_stage, pick_accelerator, pick_precision
from cora.training.memory import autocast, measure_saved, size_of, to_device
from cora.training.module import PanoramaTrainingModule

__all__ = ["Memory", "StageReport", "dry_run"]

logger = logging.getLogger(__name__)
# AdamW keeps two moments of every trained weight.
_MOMENTS = 2
_PARTS = ("vision", "resampler", "projector", "language_model")


@dataclass(frozen=True)
class Memory:
    """Bytes a training step takes.

    Attributes:
        parameters: Counted: all weights, the self-supervised head included.
        gradients: Counted: those of the trained weights.
        optimizer: Computed: AdamW's two moments of the trained weights.
        activations: Measured: what the forward pass of this batch kept for the backward pass.
        device_peak: Measured: the most that was allocated on a GPU, without the optimiser; None on a CPU.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    device_peak: int | None = None

    @property
    def total(self) -> int:
        """The sum of the four parts; temporary buffers come on top."""
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclass
class StageReport:
    """What happened to one batch of a stage.

    Attributes:
        stage: Name of the stage.
        error: Why the stage would not run, or None.
        num_rows: Samples of the training data.
        shapes: Shape of each tensor of the batch.
        tokens: Tokens per panorama and sequence.
        trained: Number of trained weights by part of the model.
        losses: Value of each loss.
        memory: What a step takes.
        seconds: Time of forward and backward.
    """

    stage: StageName
    error: str | None = None
    num_rows: int | None = None
    shapes: dict[str, list[int]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    seconds: float | None = None


def dry_run(config: CORAConfig) -> list[StageReport]:
    """Return a report on every stage of a configuration; nothing is written and no weight changes.

    A stage that fails does not keep the next ones from being tried.

    Raises:
        CoraError: There is no model to try the stages with.
    """
    accelerator = pick_accelerator(config)
    precision = pick_precision(config, accelerator)
    model, processor = build_model(config)
    nn.Module.to(model, torch.device(accelerator))
    reports = [StageReport(name) for name in config.training.stages]
    for report in reports:
        try:
            _try_stage(report, model, processor, config, precision)
        except CoraError as error:
            report.error = str(error)
        except Exception as error:  # out of memory, a shape: whatever would end the run is what is asked for
            logger.debug("stage %s", report.stage, exc_info=True)
            report.error = f"{type(error).__name__}: {error}"
    return reports


def _try_stage(
    report: StageReport, model: PanoramaVLM, processor: PanoramaProcessor, config: CORAConfig, precision: str
) -> None:
    accelerator = model.device.type
    torch.manual_seed(config.training.seed)
    data = _read_data(report.stage, enter_stage(model, processor, config, report.stage), config)
    report.num_rows = len(data.train_dataset)
    module = PanoramaTrainingModule(model, config, report.stage).to(model.device)
    fit_batch_size(module, data, config, precision)
    module.train().on_train_epoch_start()
    batch = to_device(next(iter(data.train_dataloader())), model.device)
    report.shapes = {name: list(item.shape) for name, item in batch.items() if isinstance(item, Tensor)}
    report.tokens = _count_tokens(batch, model)
    report.trained = {name: count for name in _PARTS if (count := size_of(getattr(model, name), trained_only=True)[0])}
    if accelerator == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with measure_saved(module) as saved_bytes, autocast(precision, accelerator):
        losses = module._losses(batch)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    report.losses = {name: float(value.detach()) for name, value in losses.items()}
    report.seconds = time.perf_counter() - started
    trained = size_of(module, trained_only=True)[1]
    report.memory = Memory(
        parameters=size_of(module)[1],
        gradients=trained,
        optimizer=_MOMENTS * trained,
        activations=saved_bytes(),
        device_peak=torch.cuda.max_memory_allocated() if accelerator == "cuda" else None,
    )
    module.zero_grad(set_to_none=True)


def _read_data(stage: StageName, processor: PanoramaProcessor, config: CORAConfig) -> PanoramaDataModule:
    """Return the data of a stage; tables are read whole, so that a wrong row is found."""
    train, val = config.stage_tables(stage)
    if not train:
        raise CoraError(f"stage '{stage}' has no training data: set data.csv_train")
    settings = config.training.stage_configs[stage]
    return PanoramaDataModule(
        train,
        val,
        processor,
        mode="views" if stage == "vision" else "answers",
        image_root=config.data.image_root,
        pack_questions=config.training.pack_questions,
        max_text_length=settings.max_text_length,
        batch_size=first_batch_size(settings),
    )


def _count_tokens(batch: Mapping[str, Any], model: PanoramaVLM) -> dict[str, int]:
    layout = model.config.token_layout
    counts = {"views": len(layout.views), "vision_per_panorama": layout.num_tokens}
    if "input_ids" in batch:
        counts["longest_sequence"] = batch["input_ids"].shape[1]
        counts["predicted_in_batch"] = int((batch["labels"] != -100).sum())
    return counts
