"""Panoramas that could not be used: listed, counted, and too many of them end the run."""

from __future__ import annotations

import csv
import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from cora.errors import DataError

__all__ = ["SkippedList", "SkippedPanorama"]

_COLUMNS = ("data", "image", "reason")


class SkippedPanorama(NamedTuple):
    """A panorama that is left out, and why."""

    image: str
    reason: str


class SkippedList:
    """The ``skipped.csv`` of a run: each panorama once, even where a resumed run or another process meets it again.

    All processes of a run write to it, and the share of skipped panoramas is that of all of them.

    Args:
        path: The file; made with the first entry, an existing one is continued.
        max_share: Most panoramas of a data set that may be skipped, as a share of them all.
    """

    def __init__(self, path: Path, *, max_share: float) -> None:
        self.path = path
        self.max_share = max_share
        self._seen: dict[str, set[str]] = {}

    def add(self, panorama: SkippedPanorama, *, data: str, num_images: int) -> None:
        """Note a panorama of a data set.

        Args:
            panorama: The panorama.
            data: Name of the data set, such as ``resampler/train``.
            num_images: How many panoramas the data set has.

        Raises:
            DataError: More of the data set than `max_share` is skipped now.
        """
        seen = self._seen.setdefault(data, set())
        if panorama.image in seen:
            return
        seen.add(panorama.image)
        number = self._append(data, panorama)
        if number > self.max_share * num_images:
            raise DataError(
                f"{number} of the {num_images} panoramas of {data} cannot be used, more than "
                f"data.max_skipped_share {self.max_share:g} allows; {self.path} lists them; the last: {panorama.reason}"
            )

    def _append(self, data: str, panorama: SkippedPanorama) -> int:
        """List a panorama that is not listed, and return how many of its data set are."""
        image = str(Path(panorama.image).resolve())
        with self.path.open("a", encoding="utf-8", errors="replace", newline="") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # until it is closed
            listed = self._listed()
            if (data, image) not in listed:
                writer = csv.writer(stream, lineterminator="\n")
                if stream.seek(0, os.SEEK_END) == 0:
                    writer.writerow(_COLUMNS)
                writer.writerow((data, image, panorama.reason))
                stream.flush()
                os.fsync(stream.fileno())
                listed.add((data, image))
        return sum(name == data for name, _ in listed)

    def _listed(self) -> set[tuple[str, str]]:
        with self.path.open(encoding="utf-8", newline="") as stream:
            return {(row[0], row[1]) for row in csv.reader(stream) if len(row) == len(_COLUMNS)}
