"""The ``metrics.csv`` of a stage, which a resumed run continues."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from cora.files import write_file

__all__ = ["MetricsFile"]

_ROWS_PER_WRITE = 10
Row = dict[str, float | str]


class MetricsFile(Logger):
    """Collects rows of metrics and writes them whole: a run that is killed leaves the file as it last was.

    Lightning's CSVLogger deletes the file of the run it is to continue.

    Args:
        path: The file.
        num_rows: How many rows of an existing file to keep, at most.
        before_step: Only rows of earlier optimiser steps are kept.
    """

    def __init__(self, path: Path, *, num_rows: int = 0, before_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows: list[Row] = []
        self._num_unwritten = 0
        if num_rows and path.exists():
            with path.open(encoding="utf-8", newline="") as stream:
                found = [{key: value for key, value in row.items() if value} for row in csv.DictReader(stream)]
            self.rows = [dict(row) for row in found[:num_rows] if int(row["step"]) < before_step]

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.name

    @property
    def version(self) -> str:
        """Empty: there is one file."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self.rows.append({**values, "step": len(self.rows) if step is None else step})
        self._num_unwritten += 1
        if self._num_unwritten >= _ROWS_PER_WRITE:
            self.save()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration of a run lies beside its stages."""

    @rank_zero_only
    def save(self) -> None:
        """Write the file, if there is something in it."""
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, sorted({name for row in self.rows for name in row}), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_file(self.path, text.getvalue())
        self._num_unwritten = 0

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()
