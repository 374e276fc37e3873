"""The folder of a training run: where things lie, what has been done, and what produced it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cora.errors import ConfigError
from cora.files import write_json
from cora.provenance import file_digest, provenance

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
        """Make the next free folder of today."""
        parent = Path(runs_dir).resolve() / experiment
        parent.mkdir(parents=True, exist_ok=True)
        day = datetime.now().strftime("%Y%m%d")
        for number in range(1, 1000):
            path = parent / f"{day}_{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return cls(path)
        raise ConfigError(f"{parent} holds 999 runs of today already; name the experiment differently")

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
        """Write ``stage_state.json``."""
        write_json(self.path / "stage_state.json", self.state.to_dict())

    def save_provenance(self, *, seed: int, device: str, tables: Iterable[str]) -> None:
        """Write ``provenance.json``: versions, commit, data hashes, seed and device."""
        content = {
            **provenance(),
            "data_sha256": {table: file_digest(Path(table)) for table in tables},
            "seed": seed,
            "device": device,
        }
        write_json(self.path / "provenance.json", content)
