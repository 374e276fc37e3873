"""The folder of a training run: where things lie, what has been done, and what produced it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cora.errors import ConfigError

__all__ = ["RunFolder", "StageState", "write_json"]

_RECORDED_PACKAGES = ("cora-panorama", "torch", "transformers", "lightning", "peft", "numpy")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


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
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in _RECORDED_PACKAGES},
            "git_commit": _git_commit(),
            "data": {table: _file_hash(Path(table)) for table in tables},
            "seed": seed,
            "device": device,
        }
        write_json(self.path / "provenance.json", content)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, or None for an installed package."""
    folder = Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
