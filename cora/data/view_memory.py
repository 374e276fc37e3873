"""ViewMemory: views of panoramas kept in memory, so that a later epoch need not decode and cut them again.

Shapes: V views of h x w pixels.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from cora.files import FileStamp, file_stamp

__all__ = ["ViewMemory"]


class ViewMemory:
    """Views of as many panoramas as fit; the first ones stay.

    All panoramas are used in turn: to drop the least recently used of too many would be to keep none.

    Args:
        max_bytes: Most bytes of all views.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: dict[Path, tuple[FileStamp, Tensor]] = {}

    def get(self, image: Path) -> Tensor | None:
        """Return the views float32[V, 3, h, w] kept of a file that has not changed since; OSError if it is gone."""
        stamp, views = self._kept.get(image, (None, None))
        return views if views is not None and stamp == file_stamp(image) else None

    def keep(self, image: Path, views: Tensor) -> None:
        """Keep a copy of the views of a file if there is room; OSError if it is gone."""
        _, older = self._kept.get(image, (None, None))
        num_bytes = self.num_bytes + views.nbytes - (0 if older is None else older.nbytes)
        if num_bytes <= self.max_bytes:
            self.num_bytes = num_bytes
            # Views that were cut together lie in one piece of memory, which any of them would keep.
            self._kept[image] = (file_stamp(image), views.clone())
