"""Parts of the sphere that are scored apart: what lies on the seam of the panorama, at a pole, or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cora.data.table import Row
from cora.evaluation.protocols.base import Verdict
from cora.evaluation.protocols.bearing import Bearing
from cora.evaluation.protocols.grounding import Grounding
from cora.evaluation.protocols.registry import protocol_of
from cora.geometry.boxes import SphericalBox
from cora.geometry.sphere import wrap_yaw_deg

__all__ = ["POLE_DEG", "SEAM_DEG", "RegionScore", "region_of", "score_regions"]

# A target is at the seam from this far on either side of yaw 180 degrees.
SEAM_DEG = 15.0
# A target is at a pole from this pitch on, up or down; there a yaw means little, so a pole goes before the seam.
POLE_DEG = 60.0


@dataclass(frozen=True, slots=True)
class RegionScore:
    """The answers about one region."""

    items: int
    correct: int

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and the accuracy as plain values."""
        return {"accuracy": self.correct / self.items, "items": self.items, "correct": self.correct}


def region_of(row: Row) -> str | None:
    """Return the region of what a row asks about, or None where nobody knows it.

    The column ``region`` decides; then ``seam``, ``pole`` or ``elsewhere`` follow from the target direction, or from
    the accepted answer where it is a bearing or a box.

    Convention: a box is at the seam, or at a pole, when it or its centre is.
    """
    if row.region is not None:
        return row.region.lower()
    protocol = protocol_of(row)
    if row.target_deg is not None:
        return _region(*row.target_deg)
    if isinstance(protocol, Bearing):
        return _region(protocol.expected(row)[0], 0.0)
    return _region_of_box(protocol.expected(row)[0]) if isinstance(protocol, Grounding) else None


def score_regions(rows: Sequence[Row], verdicts: Sequence[Verdict | None]) -> dict[str, RegionScore]:
    """Return the score of each region with an answered question, by name."""
    found: dict[str, list[bool]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        if verdict is not None and (region := region_of(row)) is not None:
            found.setdefault(region, []).append(verdict.is_right)
    return {name: RegionScore(len(right), sum(right)) for name, right in sorted(found.items())}


def _region(yaw_deg: float, pitch_deg: float) -> str:
    if abs(pitch_deg) >= POLE_DEG:
        return "pole"
    return "seam" if abs(wrap_yaw_deg(yaw_deg - 180.0)) <= SEAM_DEG else "elsewhere"


def _region_of_box(box: SphericalBox) -> str:
    if any(box.contains(0.0, pitch) for pitch in (-90.0, 90.0)):
        return "pole"
    # The seam is a meridian: a box that no pole is in meets it at some pitch, looked for in steps of a degree.
    crosses = any(box.contains(180.0, float(pitch)) for pitch in range(-90, 91))
    region = _region(box.yaw_deg, box.pitch_deg)
    return "seam" if crosses and region == "elsewhere" else region
