"""The folder of a training run: where things lie, what has been done, and what produced it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cora.errors import CheckpointError, ConfigError
from cora.files import write_json
from cora.provenance import file_digest, provenance
from cora.training.processes import is_first, of_first

__all__ = ["RunFolder", "StageState"]


@dataclass
class StageState:
    """Which stages of a run are finished, and with what."""

    completed_stages: list[str] = field(default_factory=list)
    current_stage: str | None = None
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``stage_state.json``."""
        return {"completed_stages": self.completed_stages, "current_stage": self.current_stage, **self.results}

    @classmethod
    def read(cls, path: Path) -> StageState:
        """Return what `to_dict` said; nothing is done where there is no file.

        Raises:
            CheckpointError: The file cannot be read.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            completed, current = content.pop("completed_stages", []), content.pop("current_stage", None)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        return cls(completed, current, content)


class RunFolder:
    """``<runs_dir>/<experiment>/<YYYYMMDD_NNN>/``.

    Attributes:
        path: The folder.
        state: What has been done; write it with `save_state`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = StageState()

    @classmethod
    def create(cls, runs_dir: str | Path, experiment: str) -> RunFolder:
        """Make the next free folder of today, one for all processes of a run."""
        return cls(of_first(lambda: _make_folder(Path(runs_dir).resolve() / experiment)))

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that exists, with its state.

        Raises:
            CheckpointError: Its state cannot be read.
        """
        run = cls(path.resolve())
        run.state = StageState.read(run.path / "stage_state.json")
        return run

    def stage(self, name: str) -> Path:
        """Return the folder of a stage, made if missing."""
        path = self.path / name
        path.mkdir(exist_ok=True)
        return path

    @property
    def export(self) -> Path:
        """Where the finished model goes."""
        return self.path / "export"

    def save_state(self) -> None:
        """Write ``stage_state.json``, in the first process."""
        if not is_first():
            return
        write_json(self.path / "stage_state.json", self.state.to_dict())

    def save_provenance(self, *, seed: int, device: str, tables: Iterable[str]) -> None:
        """Write ``provenance.json``: versions, commit, data hashes, seed and device; a resumed run adds its own."""
        path = self.path / "provenance.json"
        now = {**provenance(), "device": device}
        digests = {table: file_digest(Path(table)) for table in tables}
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            content["data_sha256"] |= digests
            content.setdefault("resumed", []).append(now)
        else:
            content = {**now, "data_sha256": digests, "seed": seed}
        write_json(path, content)


def _make_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    day = datetime.now().strftime("%Y%m%d")
    for number in range(1, 1000):
        path = parent / f"{day}_{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"{parent} holds 999 runs of today already; name the experiment differently")
