"""From a checkpoint of a training run to the directory that Transformers and vLLM load."""

from __future__ import annotations

import logging
from pathlib import Path

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig, StageName
from cora.errors import CheckpointError
from cora.training.build import build_model, enter_stage
from cora.training.checkpoints import read_checkpoint
from cora.training.module import PanoramaTrainingModule
from cora.training.run_folder import StageState

__all__ = ["export_checkpoint"]

logger = logging.getLogger(__name__)


def export_checkpoint(checkpoint: Path, directory: Path) -> None:
    """Write the model of a checkpoint as the trainer would at the end of a run whose last stage ended there.

    A checkpoint holds what its stage trained. The rest comes from where the run took it: the towers its ``config.yaml``
    names, and the best checkpoints of the stages before.

    Args:
        checkpoint: ``<run>/<stage>/<name>.ckpt``.
        directory: Where the model goes; it must not exist, or be empty.

    Raises:
        CheckpointError: The file is no checkpoint in a run folder, an earlier stage is not finished, or `directory` has
            something in it.
        ConfigError: The checkpoint does not fit the run's configuration.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} is not empty; give a directory that is, or that does not exist")
    parts = _checkpoints_up_to(checkpoint, config := _config_of(checkpoint))
    # Everything is read before the towers are loaded, which may take minutes.
    trained = {name: read_checkpoint(path)["state_dict"] for name, path in parts.items()}
    model, processor = build_model(config)
    for name, state in trained.items():
        logger.info("stage %s: %s", name, parts[name])
        processor = enter_stage(model, processor, config, name)
        PanoramaTrainingModule(model, config, name).load_trained(state)
    model.export(directory, processor)


def _config_of(checkpoint: Path) -> CORAConfig:
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such checkpoint file")
    path = ConfigManager.auto_detect_config(checkpoint)
    if path is None:
        raise CheckpointError(f"{checkpoint} is in no run folder: there is no config.yaml beside or above it")
    return ConfigManager.load(path)


def _checkpoints_up_to(checkpoint: Path, config: CORAConfig) -> dict[StageName, Path]:
    """Return the checkpoints that make up the model, by stage, in the order they were trained."""
    stages, folder = config.training.stages, checkpoint.resolve().parent
    last = next((name for name in stages if name == folder.name), None)
    if last is None:
        raise CheckpointError(
            f"{checkpoint}: its folder '{folder.name}' is none of the run's stages ({', '.join(stages)})"
        )
    run = folder.parent
    state = StageState.read(run / "stage_state.json")
    found: dict[StageName, Path] = {}
    for name in stages[: stages.index(last)]:
        if name not in state.completed_stages:
            raise CheckpointError(f"{checkpoint}: stage '{name}', which comes before it, is not finished in {run}")
        found[name] = run / state.results[name]["checkpoint"]
    return {**found, last: checkpoint}
