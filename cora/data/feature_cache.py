"""FeatureCache: frozen vision features on disk, by what they are the features of.

An entry is one safetensors file, written under a temporary name and renamed: whoever reads needs no lock, whoever
writes the same entry writes the same. A checksum lies beside the features, because a file can be whole and wrong.

Shapes: V views, S patch tokens per view, D width.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cora.files import FileStamp, file_stamp

__all__ = ["CachedFeatures", "FeatureCache"]

logger = logging.getLogger(__name__)
_SUFFIX = ".safetensors"
# What is left after making room: room is not made anew for every entry.
_KEPT_SHARE = 0.9
# Other processes write too; after this share of the limit their entries are counted again.
_RECOUNT_SHARE = 1 / 16


class CachedFeatures(NamedTuple):
    """What a look-up found: the features float32[V, S, D] or None, and whether a damaged entry was thrown away."""

    features: Tensor | None
    is_damaged: bool


class FeatureCache:
    """Features of panoramas in half precision, in files; the least recently used go first when there are too many.

    Objects are cheap and may be copied to other processes; what they share is the folder.

    Args:
        folder: Folder of all models' features; made if missing.
        model_key: Of everything but the panorama that features depend on; entries of other keys are never read.
        max_bytes: Most bytes of all files in `folder`. Several processes may together be over it by a sixteenth each.
        images: The panoramas to keep features of; None keeps those of all.
    """

    def __init__(self, folder: Path, model_key: str, *, max_bytes: int, images: Iterable[Path] | None = None) -> None:
        self.root = folder
        self.folder = folder / model_key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_bytes = max_bytes
        self.images = None if images is None else frozenset(images)
        self.is_writable = True
        self._keys: dict[Path, tuple[FileStamp, str]] = {}
        self._bytes: int | None = None
        self._written = 0

    def admits(self, image: Path) -> bool:
        """Return whether features of a panorama are kept."""
        return self.images is None or image in self.images

    def known_key(self, image: Path) -> str | None:
        """Return the key of a file that `key` has seen and that has not changed since; OSError if it is gone."""
        stamp, key = self._keys.get(image, (None, None))
        return key if stamp is not None and stamp == file_stamp(image) else None

    def key(self, image: Path, content: bytes) -> str:
        """Return the key of a panorama's file with this content."""
        key = hashlib.sha256(content).hexdigest()
        self._keys[image] = (file_stamp(image), key)
        return key

    def read(self, key: str) -> CachedFeatures:
        """Return the features kept under a key, if any; an entry that is torn or changed is removed."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return CachedFeatures(None, is_damaged=False)
        try:
            entry = load(content)
            features, checksum = entry["features"], int(entry["checksum"])
            if checksum != _checksum(features):
                raise ValueError("the checksum differs")
        except (SafetensorError, KeyError, ValueError) as error:
            logger.warning("%s is damaged (%s); it is made again", path, error)
            path.unlink(missing_ok=True)
            return CachedFeatures(None, is_damaged=True)
        self._touch(path)
        return CachedFeatures(features.float(), is_damaged=False)

    def store(self, keys: Iterable[str | None], features: Tensor) -> Tensor:
        """Keep features float[P, V, S, D] under their keys and return them as `read` will.

        A key of None, and values that half precision cannot hold, are left as they are. A disk that is full ends
        writing, not training.
        """
        rounded = features.clone()
        for row, key in enumerate(keys):
            if key is None:
                continue
            half = features[row].detach().half()
            if not bool(torch.isfinite(half).all()):
                continue
            rounded[row] = half
            if self.is_writable and not self._path(key).exists():
                self._write(key, half.cpu().contiguous())
        return rounded

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _write(self, key: str, half: Tensor) -> None:
        content = save({"features": half, "checksum": torch.tensor(_checksum(half))})
        try:
            self._make_room(len(content))
            descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self.folder)
            partial = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(content)
                partial.replace(self._path(key))
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        except OSError as error:
            self.is_writable = False
            logger.warning("%s: no more features are kept: %s", self.folder, error.strerror or error)

    def _make_room(self, size: int) -> None:
        """Count `size` more bytes, after removing the least recently used entries if they would be too many."""
        if (
            self._bytes is None
            or self._bytes + size > self.max_bytes
            or self._written > self.max_bytes * _RECOUNT_SHARE
        ):
            entries = self._entries()
            self._bytes, self._written = sum(size for _, size, _ in entries), 0
            if self._bytes + size > self.max_bytes:
                for _, entry_size, path in entries:
                    if self._bytes + size <= self.max_bytes * _KEPT_SHARE:
                        break
                    path.unlink(missing_ok=True)
                    self._bytes -= entry_size
        self._bytes += size
        self._written += size

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return (time of last use, bytes, path) of all entries of all models, the least recently used first.

        Files that a process left half written are among them: nobody uses them, so they are soon removed.
        """
        entries = []
        for path in self.root.glob("*/*"):
            try:
                state = path.stat()
            except FileNotFoundError:  # another process has just made room
                continue
            entries.append((state.st_mtime, state.st_size, path))
        return sorted(entries)

    @staticmethod
    def _touch(path: Path) -> None:
        try:
            os.utime(path)
        except OSError:  # gone meanwhile, or not ours to touch: only the order of removal suffers
            logger.debug("%s: its last use could not be noted", path)


def _checksum(half: Tensor) -> int:
    return zlib.crc32(half.numpy().tobytes())
