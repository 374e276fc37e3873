"""What was made of the panorama files used last, for the next question about them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from cora.processors.loading import PanoramaSource

__all__ = ["RecentPanoramas", "file_identity"]

_Made = TypeVar("_Made")


class RecentPanoramas(Generic[_Made]):
    """Keeps what was made of panorama files, the most recently used ones; may be used by several threads.

    Pictures in memory are not kept: they may be changed, and their owner has them at hand.

    Args:
        max_bytes: Most bytes that are kept.
        size: Returns the bytes of what was made.
    """

    def __init__(self, max_bytes: int, size: Callable[[_Made], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._made: OrderedDict[str, _Made] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def find(self, image: PanoramaSource) -> _Made | None:
        """Return what was made of a file as it is now, or None."""
        key = file_identity(image)
        with self._lock:
            if key is None or key not in self._made:
                return None
            self._made.move_to_end(key)
            return self._made[key]

    def keep(self, image: PanoramaSource, made: _Made) -> None:
        """Keep what was made of a file and forget what has not been used for longest."""
        key = file_identity(image)
        if key is None:
            return
        with self._lock:
            if (old := self._made.pop(key, None)) is not None:
                self._bytes -= self._size(old)
            self._made[key] = made
            self._bytes += self._size(made)
            while self._bytes > self._max_bytes:
                _, forgotten = self._made.popitem(last=False)
                self._bytes -= self._size(forgotten)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._made.clear()
            self._bytes = 0


def file_identity(image: PanoramaSource) -> str | None:
    """Return what tells a file from itself after a change (path, size, time of change), or None where there is none."""
    if not isinstance(image, (str, Path)):
        return None
    try:
        status = Path(image).stat()
    except (OSError, ValueError):
        return None
    return f"{image}\0{status.st_size}\0{status.st_mtime_ns}"
