"""Questions about turned panoramas: which can be asked again, what their right answers become, and the turned files.

The scene moves to the right by whole columns, so that no pixel changes; what becomes of the answers is the protocols'
concern. Nothing is asked here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cora.data.table import Row
from cora.errors import ConfigError, DataError, ImageError
from cora.evaluation.journal import image_digest
from cora.evaluation.protocols.registry import protocol_of
from cora.geometry.sphere import wrap_yaw_deg
from cora.processors.loading import load_panorama

__all__ = ["Turn", "TurnPlan", "parse_shifts", "plan_turns", "turned_panoramas"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question asked about a turned panorama.

    Attributes:
        question: Position of the question it comes from.
        shift_deg: The shift that was asked for.
        yaw_deg: By how much the scene has moved, a whole number of columns.
        row: What is asked, with the answers that are right now.
    """

    question: int
    shift_deg: float
    yaw_deg: float
    row: Row


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """Everything that is asked about turned panoramas.

    Attributes:
        shifts_deg: All shifts, 0 included, in the order given.
        turns: The questions, those of one question together, a turn for each shift but 0.
        left_out: How many questions are asked as they are only, by reason.
    """

    shifts_deg: tuple[float, ...]
    turns: tuple[Turn, ...]
    left_out: dict[str, int]


def parse_shifts(text: str) -> tuple[float, ...]:
    """Return the shifts in a text such as ``0,90,180,270``, in degrees, in [0, 360).

    Raises:
        ConfigError: They are no different angles, fewer than two, or 0 is not among them.
    """
    try:
        shifts = tuple(float(part) % 360.0 for part in text.split(","))
    except ValueError:
        raise ConfigError(f"yaw shifts are degrees separated by commas, such as 0,90,180,270; got '{text}'") from None
    if len(set(shifts)) < len(shifts) or len(shifts) < 2 or 0.0 not in shifts:
        raise ConfigError(f"yaw shifts are at least two different angles, 0 among them; got '{text}'")
    return shifts


def plan_turns(questions: Sequence[Row], shifts_deg: Sequence[float], folder: Path) -> TurnPlan:
    """Return the questions to be asked about turned panoramas, whose files are written to `folder`.

    A row marked ``yaw_equivariant`` keeps its answers. Bearings and boxes turn theirs; so do choices that are
    directions, where the row is marked as not equivariant. What is left cannot be asked again, and is counted.

    Args:
        questions: The questions, checked.
        shifts_deg: Angles in [0, 360), 0 among them.
        folder: Made if missing.

    Raises:
        DataError: A row does not say whether its answer stays right, or a file cannot be written.
    """
    shifts = [shift for shift in shifts_deg if shift]
    turnable, left_out = _turnable(questions, shifts)
    turns = []
    images = dict.fromkeys(questions[index].image for index in turnable)
    turned = {image: turned_panoramas(image, shifts, folder) for image in images}
    for index in turnable:
        row = questions[index]
        for shift in shifts:
            image, yaw = turned[row.image][shift]
            moved = _turned_row(row, yaw)
            assert moved is not None
            moved = replace(moved, image=image, sample_id=f"{row.sample_id}@{shift:g}")
            turns.append(Turn(index, shift, yaw, moved))
    return TurnPlan(tuple(shifts_deg), tuple(turns), left_out)


def turned_panoramas(image: Path, shifts_deg: Sequence[float], folder: Path) -> dict[float, tuple[Path, float]]:
    """Return, by shift, the file of a panorama rolled to the right, and by how many degrees it is.

    The files are PNGs named by the content of the original; those that are there are used again. A panorama that cannot
    be read has none: the paths name files that do not exist, and whoever opens one says so.

    Convention: a shift is rounded to whole columns. At 90 degrees what was ahead (the middle column) is to the right.
    """
    digest = image_digest(image)
    files = {shift: folder / f"{digest[:32]}-{shift:g}.png" for shift in shifts_deg}
    missing = {shift: path for shift, path in files.items() if not path.exists()}
    if missing:
        try:
            panorama = load_panorama(image, accept_flat=True).numpy()
        except ImageError as error:
            logger.warning("cannot be turned: %s", error)
            return {shift: (folder / f"{image.stem}-unreadable.png", shift) for shift in shifts_deg}
        for shift, path in missing.items():
            _write_png(path, np.roll(panorama, _columns(shift, panorama.shape[1]), axis=1))
    found = {}
    for shift, path in files.items():
        with Image.open(path) as picture:
            width = picture.width
        found[shift] = path, wrap_yaw_deg(_columns(shift, width) * 360.0 / width)
    return found


def _columns(shift_deg: float, width: int) -> int:
    return round(shift_deg / 360.0 * width) % width


def _write_png(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    partial = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(partial, format="PNG", compress_level=1)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def _turnable(questions: Sequence[Row], shifts_deg: Sequence[float]) -> tuple[list[int], dict[str, int]]:
    """Return the positions of the questions that can be asked at every shift, and why others cannot."""
    turnable, left_out = [], Counter[str]()
    for index, row in enumerate(questions):
        protocol = protocol_of(row)
        if protocol is None:
            left_out["open question"] += 1
        elif row.is_yaw_equivariant is None and not protocol.is_directional:
            raise DataError(
                f"row {row.sample_id} (line {row.line}): column 'yaw_equivariant' is missing or empty, so nobody knows "
                "whether the answer stays right when the panorama is turned: mark each row true or false"
            )
        elif all(_turned_row(row, shift) is not None for shift in shifts_deg):
            turnable.append(index)
        else:
            left_out["the answer depends on the direction"] += 1
    return turnable, dict(left_out)


def _turned_row(row: Row, yaw_deg: float) -> Row | None:
    protocol = protocol_of(row)
    moved = row if row.is_yaw_equivariant or protocol is None else protocol.turned(row, yaw_deg)
    if moved is None:
        return None
    target = row.target_deg and (wrap_yaw_deg(row.target_deg[0] + yaw_deg), row.target_deg[1])
    # What stood on the seam stands elsewhere now; where, only a target direction can tell.
    region = None if (row.region or "").lower() == "seam" else row.region
    return replace(moved, target_deg=target, region=region)
