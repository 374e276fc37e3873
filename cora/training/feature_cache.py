"""Frozen vision features, computed once per panorama and kept in memory for the stages that can use them.

Shapes: V views, S patch tokens per view, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cora.model.vlm import PanoramaVLM
from cora.processors.images import PanoramaImageProcessor

__all__ = ["FeatureCache", "fits_in_memory"]

logger = logging.getLogger(__name__)
_MEMORY_SHARE = 0.25


class FeatureCache:
    """`encode_views` of panoramas in half precision, by path."""

    def __init__(self) -> None:
        self._features: dict[Path, Tensor] = {}

    def __contains__(self, image: Path) -> bool:
        return image in self._features

    def __getitem__(self, image: Path) -> Tensor:
        """Return float32[V, S, D]."""
        return self._features[image].float()

    def __len__(self) -> int:
        return len(self._features)

    def clear(self) -> None:
        """Forget everything: the vision encoder is about to change."""
        self._features.clear()

    @torch.inference_mode()
    def fill(
        self,
        model: PanoramaVLM,
        processor: PanoramaImageProcessor,
        images: Iterable[Path],
        *,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        """Encode the panoramas that are not there yet, with a progress bar."""
        missing = [image for image in dict.fromkeys(images) if image not in self._features]
        if not missing:
            return
        loader = DataLoader(_Views(missing, processor), batch_size=batch_size, num_workers=num_workers)
        model.vision.eval()
        done = 0
        for views in track(loader, description="vision features", total=len(loader)):
            features = model.encode_views(views.to(model.device)).half().cpu()
            for image, item in zip(missing[done : done + len(features)], features, strict=True):
                self._features[image] = item.clone()
            done += len(features)
        logger.info("cached the vision features of %d panoramas", len(missing))


class _Views(Dataset[Tensor]):
    """Normalised views of panoramas, float[V, 3, h, w]."""

    def __init__(self, images: list[Path], processor: PanoramaImageProcessor) -> None:
        self.images = images
        self.processor = processor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        pixel_values: Tensor = self.processor(self.images[index])["pixel_values"]
        return pixel_values[0]


def fits_in_memory(model: PanoramaVLM, num_images: int) -> bool:
    """Return whether the features of that many panoramas take less than a quarter of the free memory; logs why not."""
    layout = model.config.token_layout
    height, width = layout.view_size
    patch = int(model.vision.config.patch_size)
    size = num_images * len(layout.views) * (height // patch) * (width // patch) * model.vision.hidden_size * 2
    free = _available_bytes()
    if size < free * _MEMORY_SHARE:
        return True
    logger.info(
        "vision features are not cached: they would take %.1f GiB of %.1f GiB of free memory",
        size / 2**30,
        free / 2**30,
    )
    return False


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no line MemAvailable")
