"""Checkpoint files that are whole or absent, and load without running anything they contain."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cora.errors import CheckpointError

__all__ = ["AtomicCheckpointIO", "read_checkpoint", "remove_other_best"]

_BEST = re.compile(r"\w+-epoch=\d+-(val|train)_loss=-?(\d+\.\d+|inf|nan)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, syncs it, reads it back and only then renames it.

    What is to be removed goes once the next checkpoint is there: the one before may refer to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._to_remove: list[Path] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; an older file there stays until the new one has been read back.

        Raises:
            CheckpointError: The disk is full or the folder not writable, or what was written does not load with
                ``weights_only=True``.
        """
        target = Path(path)
        partial = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            read_checkpoint(partial)
            partial.replace(target)
            _sync_folder(target.parent)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink()
            # Where writing fails, torch complains of its own file position; what the system said is behind that.
            failure = error if isinstance(error, OSError) else error.__context__
            if isinstance(failure, OSError):
                raise CheckpointError(f"{target} cannot be written: {failure.strerror or failure}") from error
            raise
        for path in self._to_remove:
            if path != target:
                path.unlink(missing_ok=True)
        self._to_remove = []

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the content of a checkpoint; see `read_checkpoint`."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint after the next one has been written."""
        self._to_remove.append(Path(path))


def remove_other_best(best: str | Path) -> None:
    """Remove the best checkpoints beside one that replaced them: a kill may have come before they went.

    Files that are named differently from those of a stage stay.
    """
    kept = Path(best)
    for path in kept.parent.iterdir():
        if path != kept and _BEST.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, tensors on the CPU; only tensors and plain values are accepted.

    Raises:
        CheckpointError: The file is missing, damaged, or holds pickled objects.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch raises many types for damaged or unsafe files
        raise CheckpointError(f"{path}: not a loadable checkpoint: {error}") from error
    return content
