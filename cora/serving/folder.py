"""Panoramas from one folder of this machine, named by ``file:`` addresses."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cora.errors import ConfigError, ImageError, SourceRefused

__all__ = ["FolderSource"]

_REFUSED = "image: there is no such file for clients of this server"


class FolderSource:
    """Reads files below a folder and nothing else, wherever links in it lead.

    Args:
        directory: The folder.
        max_bytes: Largest file.

    Raises:
        ConfigError: The folder does not exist.
    """

    def __init__(self, directory: str, max_bytes: int) -> None:
        self._root = Path(directory).expanduser().resolve()
        if not self._root.is_dir():
            raise ConfigError(f"media.directory: {directory} is no folder")
        self._max_bytes = max_bytes

    def read(self, url: str) -> bytes:
        """Return the content of a file.

        Raises:
            SourceRefused: The address is none of a file in the folder; whether there is a file elsewhere is not told.
            ImageError: The file is too large.
        """
        try:
            parts = urlsplit(url)
            path = Path(unquote(parts.path, errors="strict"))
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not path.is_absolute():
                raise SourceRefused(_REFUSED)
            resolved = path.resolve(strict=True)
            if not resolved.is_relative_to(self._root):
                raise SourceRefused(_REFUSED)
            return self._read_resolved(resolved)
        except (OSError, ValueError, RuntimeError):
            raise SourceRefused(_REFUSED) from None

    def _read_resolved(self, path: Path) -> bytes:
        """Return the content of a file without links in its path; a pipe would never end, so only regular ones."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            # What was opened, not what the path says now: a folder on the way may have become a link.
            opened = Path(f"/proc/self/fd/{descriptor}").resolve()
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not opened.is_relative_to(self._root):
                raise SourceRefused(_REFUSED)
            if status.st_size > self._max_bytes:
                raise ImageError(f"image: the file has more than {self._max_bytes} bytes (media.max_bytes)")
            content = file.read(self._max_bytes + 1)
        return content[: self._max_bytes]
