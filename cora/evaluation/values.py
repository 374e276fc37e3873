"""What a score looks like wherever it is written: a number, or null with the reason and the remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]

__all__ = ["MetricStatus", "MetricValue"]

MetricStatus = Literal["ok", "unavailable", "failed", "not_applicable"]


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One metric of a run.

    Attributes:
        value: The score, or None unless `status` is ``ok``.
        status: ``unavailable`` is missing software, ``failed`` a crash, ``not_applicable`` data without such questions.
        why: Why there is no value, or what to bear in mind about it; empty where nothing is to be said.
        how: How to get the value; empty where there is one.
        interval: Its 95 % confidence interval, see `cora.evaluation.intervals`; None where there is no value or there
            are fewer than two images.
    """

    value: float | None
    status: MetricStatus
    why: str = ""
    how: str = ""
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Hold value and status together."""
        if (self.value is None) == (self.status == "ok"):
            raise ValueError(f"a metric has a value exactly when its status is ok, got {self.value} and {self.status}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
