"""Where a stage's numbers go: ``metrics.csv`` and TensorBoard always, Weights & Biases when a project is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from cora.config.schema import CORAConfig
from cora.errors import BackendUnavailable
from cora.training.metrics_file import MetricsFile

__all__ = ["check_loggers", "finished_afterwards", "stage_loggers"]


def check_loggers(config: CORAConfig) -> None:
    """Raise BackendUnavailable when Weights & Biases is asked for and not installed."""
    if config.wandb_project is not None and find_spec("wandb") is None:
        raise BackendUnavailable(
            f"wandb_project is '{config.wandb_project}', but Weights & Biases is not installed: "
            "pip install 'cora-panorama[wandb]', or set environment.wandb_project and training.wandb_project to null"
        )


def stage_loggers(
    config: CORAConfig, stage: str, folder: Path, *, first_step: int = 0, num_rows: int = 0
) -> list[Logger]:
    """Return the loggers of a stage whose folder is ``<run>/<stage>``.

    A Weights & Biases run is one stage; the stages of a CORA run are one group, and its files lie in the folder.

    Args:
        config: The configuration.
        stage: Name of the stage.
        folder: Its folder.
        first_step: The optimiser step a resumed stage goes on with; what is logged of later ones is dropped.
        num_rows: Rows of ``metrics.csv`` that were written before it.

    Raises:
        BackendUnavailable: Weights & Biases is asked for and not installed.
    """
    check_loggers(config)
    loggers: list[Logger] = [
        MetricsFile(folder / "metrics.csv", num_rows=num_rows, before_step=first_step),
        TensorBoardLogger(folder, name="", version="", purge_step=first_step or None),
    ]
    if config.wandb_project is not None:
        run = f"{folder.parent.parent.name}/{folder.parent.name}"
        known = _wandb_id(folder) if first_step else None
        loggers.append(
            WandbLogger(name=f"{run}/{stage}", group=run, project=config.wandb_project, save_dir=folder, id=known)
        )
    return loggers


def _wandb_id(folder: Path) -> str | None:
    """Return the id of the Weights & Biases run that a stage was logged to last."""
    runs = sorted((folder / "wandb").glob("*run-*-*"))
    return runs[-1].name.rsplit("-", 1)[1] if runs else None


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
