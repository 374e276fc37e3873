"""The image half of the processor: panoramas in, normalised views out, the same in training, evaluation and serving.

Shapes: B panoramas, V views, h x w view pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cora.errors import ConfigError, GeometryError, did_you_mean
from cora.geometry.camera import content_box
from cora.ops.erp_to_views import erp_to_views, halve_panorama
from cora.ops.view_plan import finest_level
from cora.ops.view_rendering import rows_read
from cora.processors.loading import DEFAULT_MAX_PIXELS, PanoramaSource, load_panorama
from cora.processors.strategies import STRATEGIES, CropOptions
from cora.types import ViewSpec

__all__ = ["PanoramaImageProcessor"]


class PanoramaImageProcessor:
    """Turns panoramas into the views a crop strategy chooses, as normalised tensors.

    Two processors are equal when their `to_dict` are.

    Args:
        crop_strategy: Name in `cora.processors.strategies.STRATEGIES`.
        image_size: (height, width) of every view in pixels, or one number for both.
        fov_deg: Horizontal field of view of a view.
        overlap_ratio: Smallest overlap of neighbouring views as a fraction of `fov_deg`, in [0, 1).
        max_patches: Number of views besides the global one (anyres and anyres_max).
        pitch_min_deg: Lower end of the latitudes to cover (anyres_e2p only).
        pitch_max_deg: Upper end of the latitudes to cover (anyres_e2p only).
        image_mean: Channel means, of values in 0 .. 1.
        image_std: Channel standard deviations.
        antialias: Average what a view pixel covers, rather than take one bilinear sample.
        max_pixels: Largest number of pixels of a panorama; larger files are refused before decoding.
        accept_flat: Accept pictures that are not 2:1.

    Raises:
        RegistryError: The strategy is unknown.
        GeometryError: Options that describe no views.
    """

    def __init__(
        self,
        *,
        crop_strategy: str = "anyres_e2p",
        image_size: int | Sequence[int] = (224, 224),
        fov_deg: float = 90.0,
        overlap_ratio: float = 0.5,
        max_patches: int = 9,
        pitch_min_deg: float = 0.0,
        pitch_max_deg: float = 0.0,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        antialias: bool = True,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        accept_flat: bool = False,
    ) -> None:
        self.crop_strategy = crop_strategy
        self.image_size = _size(image_size)
        self.options = CropOptions(
            fov_deg=float(fov_deg),
            overlap_ratio=float(overlap_ratio),
            max_patches=int(max_patches),
            pitch_min_deg=float(pitch_min_deg),
            pitch_max_deg=float(pitch_max_deg),
        )
        self.image_mean = _channels("image_mean", image_mean)
        self.image_std = _channels("image_std", image_std)
        if min(self.image_std) <= 0:
            raise ConfigError(f"image_std is positive, got {list(self.image_std)}")
        self.antialias = bool(antialias)
        self.max_pixels = int(max_pixels)
        self.accept_flat = bool(accept_flat)
        if crop_strategy != "anyres_e2p" and (pitch_min_deg or pitch_max_deg):
            raise GeometryError(
                f"pitch_min_deg and pitch_max_deg belong to crop_strategy 'anyres_e2p', not '{crop_strategy}'"
            )
        strategy = STRATEGIES.get(crop_strategy)
        self.views: tuple[ViewSpec, ...] = tuple(
            replace(view, index=position) for position, view in enumerate(strategy(self.options))
        )

    @property
    def num_views(self) -> int:
        """The number of views V of every panorama."""
        return len(self.views)

    def crop(self, panorama: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the views float[V, 3, h, w], normalised, of a panorama uint8[H, W, 3], or of each of a batch."""
        return erp_to_views(
            panorama,
            self.views,
            size=self.image_size,
            mean=self.image_mean,
            std=self.image_std,
            dtype=dtype,
            antialias=self.antialias,
        )

    def shrink(self, panorama: Tensor) -> Tensor:
        """Return a panorama uint8[H, W, 3] halved as often as no view would notice: `crop` makes the same of both."""
        if not self.antialias:
            return panorama
        return halve_panorama(panorama, self._halvings(*panorama.shape[:2]))

    def load(self, source: PanoramaSource, *, name: str | None = None, whole: bool = False) -> Tensor:
        """Return a panorama as uint8[H, W, 3], checked against this processor's limits; see `load_panorama`.

        A JPEG is decoded no larger than the views need, and black below the last row that one of them looks at, unless
        it is to be `whole`. Cutting what this returns is the same everywhere, whether it went through another process
        or not.
        """
        return load_panorama(
            source,
            max_pixels=self.max_pixels,
            accept_flat=self.accept_flat,
            name=name,
            halvings=self._halvings if self.antialias else None,
            last_row=None if whole else self._last_row,
        )

    def _halvings(self, height: int, width: int) -> int:
        """Return how many times a panorama can be halved before the most detailed of the views would notice."""
        return _finest_level(self.views, self.image_size, height, width)

    def _last_row(self, height: int, width: int) -> int:
        """Return how many rows from the top of a panorama the views are made of."""
        sizes = {"panorama_height": height, "panorama_width": width}
        return rows_read(self.views, self.antialias, *self.image_size, **sizes)[1]

    def __call__(
        self,
        images: PanoramaSource | Sequence[PanoramaSource],
        return_tensors: str = "pt",
        *,
        return_views: bool = False,
    ) -> dict[str, Any]:
        """Return ``{"pixel_values": float32[B, V, 3, h, w]}`` of one panorama or a list of them.

        Args:
            images: One source or a list of sources; see `load_panorama`. Panoramas of a list may differ in size.
            return_tensors: Only ``"pt"``.
            return_views: Whether ``"views"``, the V `ViewSpec` of every panorama (index, yaw, pitch, field of view, and
                which is global), comes with them.

        Raises:
            ImageError: A picture cannot be used; the message names it.
        """
        if return_tensors != "pt":
            raise ConfigError(f"return_tensors is 'pt', got {return_tensors!r}")
        sources: list[PanoramaSource] = list(images) if isinstance(images, (list, tuple)) else [images]  # type: ignore[list-item]  # bytes, str and arrays are sequences too
        if not sources:
            raise ConfigError("the list of images is empty")
        crops = [self.crop(self.load(source)) for source in sources]
        # The usual single panorama is not copied.
        pictures: dict[str, Any] = {"pixel_values": crops[0][None] if len(crops) == 1 else torch.stack(crops)}
        return {**pictures, "views": self.views} if return_views else pictures

    def to_dict(self) -> dict[str, Any]:
        """Return all options as plain JSON values."""
        return {
            "crop_strategy": self.crop_strategy,
            "image_size": list(self.image_size),
            "fov_deg": self.options.fov_deg,
            "overlap_ratio": self.options.overlap_ratio,
            "max_patches": self.options.max_patches,
            "pitch_min_deg": self.options.pitch_min_deg,
            "pitch_max_deg": self.options.pitch_max_deg,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "antialias": self.antialias,
            "max_pixels": self.max_pixels,
            "accept_flat": self.accept_flat,
        }

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> PanoramaImageProcessor:
        """Return the processor with these options; ConfigError names the first key that is none."""
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        for key in options:
            if key not in known:
                raise ConfigError(f"unknown image processing option '{key}'{did_you_mean(key, known)}")
        return cls(**options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PanoramaImageProcessor) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.to_dict().items())
        return f"PanoramaImageProcessor({options})"


@lru_cache(maxsize=64)
def _finest_level(views: tuple[ViewSpec, ...], image_size: tuple[int, int], height: int, width: int) -> int:
    """Return the finest level of a panorama of height x width pixels that one of the views samples."""
    boxes = [(view, content_box(view, *image_size)) for view in views]
    return min(finest_level(view, box[2], box[3], panorama_height=height, panorama_width=width) for view, box in boxes)


def _size(image_size: int | Sequence[int]) -> tuple[int, int]:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(int(side) for side in image_size)
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"image_size is one number or [height, width], each at least 1, got {image_size!r}")
    return size[0], size[1]


def _channels(key: str, values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != 3:
        raise ConfigError(f"{key} has three values, one a channel, got {list(values)}")
    return tuple(float(value) for value in values)
