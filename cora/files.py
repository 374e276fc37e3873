"""Writes files so that a reader sees the old one or the new one, never half of it; tells whether a file has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from cora.errors import DataError

__all__ = ["FileStamp", "file_stamp", "remove_unfinished", "write_file", "write_json"]

FileStamp: TypeAlias = tuple[int, int, int]


def file_stamp(path: Path) -> FileStamp:
    """Return what differs once a file has changed: time of change in ns, bytes, inode; OSError if it is gone."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size, state.st_ino


def write_json(path: Path, content: Any) -> None:
    """Write a JSON document of plain values; NaN and infinity are refused, because JSON has none."""
    write_file(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_file(path: Path, text: str | Iterable[str]) -> None:
    """Write a UTF-8 file under a temporary name, sync it and rename it, so that it is whole or as it was before.

    Args:
        path: Its folder exists.
        text: The content, or its pieces, which are written as they come.

    Raises:
        DataError: It cannot be written, for instance because the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            for piece in [text] if isinstance(text, str) else text:
                stream.write(piece.encode("utf-8", "replace"))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes of `write_file` left in a folder that no other process is writing to."""
    for partial in folder.glob(".*.part"):
        partial.unlink(missing_ok=True)
