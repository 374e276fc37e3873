"""The options of crop strategies, checked once for all of them, and the view of the whole sphere several begin with."""

from __future__ import annotations

from dataclasses import dataclass

from cora.errors import GeometryError
from cora.types import ViewSpec

__all__ = ["CropOptions", "check_perspective_fov", "whole_sphere"]


@dataclass(frozen=True, slots=True)
class CropOptions:
    """What a user can choose about the views; each strategy says which of these it uses.

    Attributes:
        fov_deg: Horizontal field of view of a view, above 0.
        overlap_ratio: Smallest overlap of ring neighbours as a fraction of `fov_deg`, in [0, 1).
        max_patches: Number of views besides the global one, at least 1 (anyres and anyres_max).
        pitch_min_deg: Lower end of the latitudes to cover (anyres_e2p).
        pitch_max_deg: Upper end of the latitudes to cover (anyres_e2p).
    """

    fov_deg: float = 90.0
    overlap_ratio: float = 0.5
    max_patches: int = 9
    pitch_min_deg: float = 0.0
    pitch_max_deg: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.fov_deg <= 360.0:
            raise GeometryError(f"fov_deg is above 0 and at most 360, got {self.fov_deg:g}")
        if not 0.0 <= self.overlap_ratio < 1.0:
            raise GeometryError(f"overlap_ratio is at least 0 and below 1, got {self.overlap_ratio:g}")
        if self.max_patches < 1:
            raise GeometryError(f"max_patches is at least 1, got {self.max_patches}")
        if not -90.0 <= self.pitch_min_deg <= self.pitch_max_deg <= 90.0:
            raise GeometryError(
                "pitch_min_deg is at most pitch_max_deg and both are in [-90, 90], "
                f"got {self.pitch_min_deg:g} and {self.pitch_max_deg:g}"
            )


def check_perspective_fov(options: CropOptions, strategy: str) -> None:
    """Raise GeometryError when `fov_deg` is too wide for the perspective views of a strategy."""
    if options.fov_deg >= 180.0:
        raise GeometryError(f"fov_deg of the perspective views of '{strategy}' is below 180, got {options.fov_deg:g}")


def whole_sphere(*, letterbox: bool) -> ViewSpec:
    """Return the global view, index 0: the whole panorama, squashed into the picture or letterboxed in it."""
    return ViewSpec(
        index=0,
        projection="equirectangular",
        yaw_deg=0.0,
        pitch_deg=0.0,
        hfov_deg=360.0,
        vfov_deg=180.0,
        is_global=True,
        letterbox=letterbox,
    )
