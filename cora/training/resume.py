"""What is left to do of a run: which run, which stages, from which checkpoint, and whether that still makes sense."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig, StageName
from cora.errors import CheckpointError, ConfigError
from cora.provenance import file_digest
from cora.training.checkpoints import read_checkpoint
from cora.training.last_checkpoint import LAST
from cora.training.run_folder import RunFolder

__all__ = ["AUTO", "Plan", "ResumePoint", "make_plan"]

logger = logging.getLogger(__name__)
AUTO = "auto"

# Keys and sections that do not change what is learnt. The sampler refuses another number of samples per step itself,
# and tables are compared by content.
_FREE = (
    "data.csv_train",
    "data.csv_val",
    "data.image_root",
    "data.max_skipped_share",
    "environment",
    "experiment",
    "generation",
    "output",
    "training.accelerator",
    "training.cache_features",
    "training.checkpoint_every_minutes",
    "training.checkpoint_every_n_steps",
    "training.compile",
    "training.devices",
    "training.feature_cache_bytes",
    "training.feature_cache_dir",
    "training.gradient_checkpointing",
    "training.num_nodes",
    "training.num_workers",
    "training.precision",
    "training.stages",
    "training.strategy",
    "training.view_memory_bytes",
    "training.wandb_project",
)
_FREE_OF_STAGE = ("accumulate_grad_batches", "batch_size", "data")


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint within a stage.

    Attributes:
        path: The file.
        step: Optimiser steps done.
        num_rows: Rows of ``metrics.csv`` written.
        place: Where in the data it is.
    """

    path: Path
    step: int
    num_rows: int
    place: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> ResumePoint:
        """Return what a checkpoint says about itself.

        Raises:
            CheckpointError: It cannot be read, or does not say enough to go on from it.
        """
        content = read_checkpoint(path)
        try:
            num_rows = content["callbacks"]["LastCheckpoint"]["num_rows"]
            return cls(path, content["global_step"], num_rows, content["PanoramaDataModule"])
        except KeyError as error:
            raise CheckpointError(f"{path} does not say where in its stage it is (no {error}); start anew") from error


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        todo: The stages to run.
        run: The run they belong to; None makes a new one.
        done: The best checkpoints of the stages before, which the model stands on.
        point: What the first stage goes on from; None starts it.
    """

    todo: list[StageName]
    run: RunFolder | None = None
    done: dict[StageName, Path] = field(default_factory=dict)
    point: ResumePoint | None = None


def make_plan(config: CORAConfig, runs: Path, *, resume: str | None = None, stage: str | None = None) -> Plan:
    """Return what is left to do.

    Args:
        config: The configuration.
        runs: Folder of the runs of the experiment.
        resume: ``auto`` for the newest run, or a run folder, or a checkpoint in one; None makes a new run, or goes on
            with the newest that `stage` can stand on.
        stage: The only stage to run; None runs all.

    Raises:
        CheckpointError: There is no such run or checkpoint, or a stage before `stage` is not finished.
        ConfigError: The run was started with another configuration, or `stage` is none of it.
    """
    stages = config.training.stages
    if stage is not None and stage not in stages:
        raise ConfigError(f"--stage {stage}: training.stages are {', '.join(stages)}")
    run, checkpoint = _find_run(config, runs, resume, stage)
    if run is None:
        return Plan([name for name in stages if stage in (None, name)])
    if checkpoint is not None:
        _go_back_to(run, stages, checkpoint, stage)
    completed = run.state.completed_stages
    todo = [name for name in stages if name not in completed and stage in (None, name)]
    before = stages[: stages.index(todo[0])] if todo else [name for name in stages if name in completed]
    if missing := [name for name in before if name not in completed]:
        raise CheckpointError(f"stage '{todo[0]}' stands on '{missing[0]}', which is not finished in {run.path}")
    last = run.path / todo[0] / LAST if todo else None
    if checkpoint is None and last is not None and last.exists():
        checkpoint = last
    begun = [*before, *todo[: checkpoint is not None]]
    _check_config(config, run, begun)
    done = {name: run.path / run.state.results[name]["checkpoint"] for name in before}
    return Plan(todo, run, done, None if checkpoint is None else ResumePoint.read(checkpoint))


def _find_run(
    config: CORAConfig, runs: Path, resume: str | None, stage: str | None
) -> tuple[RunFolder | None, Path | None]:
    """Return the run to go on with and the checkpoint that was asked for, if any."""
    stages = config.training.stages
    if resume not in (None, AUTO):
        return _open_path(Path(resume))
    # A folder without a configuration was left before anything was trained.
    found = [RunFolder.open(path.parent) for path in sorted(runs.glob("*/config.yaml"), reverse=True)]
    if resume == AUTO:
        if found:
            return found[0], None
        logger.info("nothing to resume in %s: a new run starts", runs)
    before = stages[: stages.index(stage)] if stage in stages else []
    if not before:
        return None, None
    for run in found:
        if set(before) <= set(run.state.completed_stages):
            if stage in run.state.completed_stages:
                raise CheckpointError(
                    f"stage '{stage}' is finished in {run.path}; give --resume one of its checkpoints to go back"
                )
            return run, None
    raise CheckpointError(
        f"stage '{stage}' stands on {', '.join(before)}, and no run in {runs} has finished that; "
        "run those stages first, or name a run with --resume"
    )


def _open_path(path: Path) -> tuple[RunFolder, Path | None]:
    path = path.resolve()
    if not path.exists():
        raise CheckpointError(f"--resume {path}: no such run folder or checkpoint")
    folder, checkpoint = (path, None) if path.is_dir() else (path.parent.parent, path)
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"--resume {path}: neither a run folder nor <run>/<stage>/<name>.ckpt: no config.yaml in {folder}"
        )
    return RunFolder.open(folder), checkpoint


def _go_back_to(run: RunFolder, stages: Sequence[StageName], checkpoint: Path, stage: str | None) -> None:
    """Let the stage of a checkpoint, and those after it, count as not finished."""
    name = checkpoint.parent.name
    if name not in stages:
        raise CheckpointError(f"{checkpoint}: its folder is none of the stages {', '.join(stages)}")
    if stage not in (None, name):
        raise CheckpointError(f"{checkpoint} is a checkpoint of stage '{name}', not of '{stage}'")
    kept = [item for item in run.state.completed_stages if item in stages[: stages.index(name)]]
    run.state.completed_stages = kept
    run.state.results = {item: result for item, result in run.state.results.items() if item in kept}


def _check_config(config: CORAConfig, run: RunFolder, begun: Sequence[StageName]) -> None:
    """Refuse a configuration with which the stages that have begun would have gone otherwise; log other changes."""
    old_config = ConfigManager.load(run.path / "config.yaml")
    old, new = _flat(old_config.known()), _flat(config.known())
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    harmful = {key: f"{key} ({old.get(key)!r}, now {new.get(key)!r})" for key in changed if not _is_free(key, begun)}
    if config.training.stages[: len(begun)] != old_config.training.stages[: len(begun)]:
        harmful["training.stages"] = "training.stages"
    harmful |= {table: f"the content of {table}" for table in _changed_tables(config, old_config, run, begun)}
    if harmful:
        raise ConfigError(
            f"{run.path} was started with another configuration, and going on would mix the two: "
            f"{', '.join(harmful.values())}; set them back, or start a new run without --resume"
        )
    if changed:
        logger.info("going on with changed keys: %s", ", ".join(changed))


def _flat(document: Any, path: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key; a sequence is a value."""
    if not isinstance(document, dict):
        return {path: list(document) if isinstance(document, tuple) else document}
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= _flat(value, f"{path}.{name}" if path else str(name))
    return found


def _is_free(key: str, begun: Sequence[str]) -> bool:
    parts = key.split(".")
    if key.startswith("training.stage_configs."):
        return parts[2] not in begun or parts[3] in _FREE_OF_STAGE
    if parts[0] == "lora":
        return "finetune" not in begun
    return not begun or any(key == free or key.startswith(free + ".") for free in _FREE)


def _changed_tables(config: CORAConfig, old: CORAConfig, run: RunFolder, begun: Sequence[StageName]) -> list[str]:
    """Return the tables whose content is not that of the tables in their place when the run was started."""
    path = run.path / "provenance.json"
    if not begun or not path.exists():
        return []
    digests = json.loads(path.read_text(encoding="utf-8"))["data_sha256"]
    changed: list[str] = []
    for stage in begun:
        for now, before in zip(config.stage_tables(stage), old.stage_tables(stage), strict=True):
            known = [digests.get(table) for table in before]
            if [file_digest(Path(table)) if Path(table).is_file() else None for table in now] != known:
                changed += now or before
    return list(dict.fromkeys(changed))
