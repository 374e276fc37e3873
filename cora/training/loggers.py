"""Where a stage's numbers go: ``metrics.csv`` and TensorBoard always, Weights & Biases when a project is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from cora.config.schema import CORAConfig
from cora.errors import BackendUnavailable

__all__ = ["check_loggers", "finished_afterwards", "stage_loggers"]


def check_loggers(config: CORAConfig) -> None:
    """Raise BackendUnavailable when Weights & Biases is asked for and not installed."""
    if config.wandb_project is not None and find_spec("wandb") is None:
        raise BackendUnavailable(
            f"wandb_project is '{config.wandb_project}', but Weights & Biases is not installed: "
            "pip install 'cora-panorama[wandb]', or set environment.wandb_project and training.wandb_project to null"
        )


def stage_loggers(config: CORAConfig, stage: str, folder: Path) -> list[Logger]:
    """Return the loggers of a stage whose folder is ``<run>/<stage>``.

    A Weights & Biases run is one stage; the stages of a CORA run are one group, and its files lie in the folder.

    Raises:
        BackendUnavailable: Weights & Biases is asked for and not installed.
    """
    check_loggers(config)
    loggers: list[Logger] = [CSVLogger(folder, name="", version=""), TensorBoardLogger(folder, name="", version="")]
    if config.wandb_project is not None:
        run = f"{folder.parent.parent.name}/{folder.parent.name}"
        loggers.append(WandbLogger(name=f"{run}/{stage}", group=run, project=config.wandb_project, save_dir=folder))
    return loggers


@contextmanager
def finished_afterwards(loggers: Iterable[Logger]) -> Iterator[None]:
    """End the Weights & Biases run of a stage on the way out: the next stage would write into it otherwise."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        for item in loggers:
            if isinstance(item, WandbLogger):
                item.experiment.finish(exit_code=exit_code)
