"""Writes scenes as JPEG panoramas and a CSV of questions, in the ordinary data set format."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from cora.data.synthetic.questions import CLOSED_TYPES, questions_about
from cora.data.synthetic.render import render_panorama
from cora.data.synthetic.world import random_scene

logger = logging.getLogger(__name__)
COLUMNS = ("sample_id", "url", "query", "annotation", "type", "answer", "yaw_equivariant")


@dataclass(frozen=True)
class SplitFiles:
    """Where a split was written: its CSV and the scene seeds behind the panoramas, in order."""

    csv: Path
    seeds: tuple[int, ...]

    @property
    def images(self) -> list[Path]:
        """The panoramas, in the order of `seeds`."""
        return [self.csv.parent / _image_name(self.csv.stem, seed) for seed in self.seeds]


def _image_name(split: str, seed: int) -> str:
    return f"{split}/{seed:08d}.jpg"


def _is_written(path: Path, *, height: int, width: int) -> bool:
    if not path.exists():
        return False
    with Image.open(path) as picture:
        return picture.size == (width, height)


def _write_image(seed: int, *, folder: Path, split: str, height: int, width: int, subsampling: str) -> None:
    path = folder / _image_name(split, seed)
    partial_path = path.with_suffix(".part")
    picture = Image.fromarray(render_panorama(random_scene(seed), height=height, width=width))
    picture.save(partial_path, format="JPEG", quality=92, subsampling=subsampling)
    partial_path.replace(path)


def _write_images(seeds: Sequence[int], workers: int, write: Callable[[int], None]) -> None:
    if workers == 1 or len(seeds) == 1:
        for seed in seeds:
            write(seed)
    elif seeds:
        # Spawned, not forked: the caller may already hold torch's threads.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(write, seeds, chunksize=32))


def write_split(
    folder: Path,
    split: str,
    *,
    num_scenes: int,
    first_seed: int,
    height: int = 256,
    width: int = 512,
    subsampling: str = "4:4:4",
    workers: int = 2,
) -> SplitFiles:
    """Render `num_scenes` panoramas and write ``<folder>/<split>.csv`` with all questions about them.

    Panoramas that exist in this size are kept; equal arguments always give equal files.

    Args:
        folder: Made if missing; images go to ``<folder>/<split>/``.
        split: Name of the split (``train``, ``val``, ``test``).
        num_scenes: Number of panoramas.
        first_seed: Seed of the first scene; scene i has seed ``first_seed + i``. Splits must not share seeds.
        height: Panorama height in pixels; width is normally twice that.
        width: Panorama width in pixels.
        subsampling: Colour of the JPEGs: ``4:4:4``, a value for each pixel, which small panoramas need, or ``4:2:0``,
            one for four pixels, as panoramic cameras write them.
        workers: Rendering processes; 1 renders in this one. More are spawned, so that a script that asks for them
            must be importable: its own work stands below ``if __name__ == "__main__"``.
    """
    (folder / split).mkdir(parents=True, exist_ok=True)
    seeds = tuple(range(first_seed, first_seed + num_scenes))
    files = SplitFiles(folder / f"{split}.csv", seeds)
    missing = [
        seed
        for seed, image in zip(seeds, files.images, strict=True)
        if not _is_written(image, height=height, width=width)
    ]
    write = partial(_write_image, folder=folder, split=split, height=height, width=width, subsampling=subsampling)
    _write_images(missing, workers, write)
    with files.csv.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for seed in seeds:
            for number, question in enumerate(questions_about(random_scene(seed))):
                closed = question.answer if question.kind in CLOSED_TYPES else ""
                row = (
                    f"{seed}-{number}",
                    _image_name(split, seed),
                    question.text,
                    question.answer,
                    question.kind,
                    closed,
                    str(question.is_yaw_equivariant).lower(),
                )
                writer.writerow(row)
    logger.info("wrote %d panoramas and %s", num_scenes, files.csv)
    return files
