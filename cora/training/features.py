"""Whether a stage may keep frozen vision features on disk, and what they depend on besides the panorama."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch

from cora.config.schema import CORAConfig
from cora.data.datamodule import PanoramaDataModule
from cora.data.feature_cache import FeatureCache
from cora.model.vlm import PanoramaVLM
from cora.training.module import PanoramaTrainingModule

__all__ = ["features_key", "open_feature_cache"]

logger = logging.getLogger(__name__)
# Changes whenever the way from a file to features changes without its options.
_FORMAT = 1
_BYTES_OF_HEADER = 256


def open_feature_cache(
    module: PanoramaTrainingModule, data: PanoramaDataModule, config: CORAConfig, *, precision: str
) -> FeatureCache | None:
    """Return the cache of a stage, or None where there can be none; which of the two is logged with the reason.

    Where the panoramas of a stage are too many, the first of them, those of validation before the others, are kept and
    the rest is encoded each time: to drop the least recently used of too many in turn would be to keep none.
    """
    settings = config.training
    if reason := _obstacle(module, data, config):
        logger.info("stage %s: vision features are not cached: %s", module.stage_name, reason)
        return None
    folder = Path(settings.feature_cache_dir or Path(config.output.runs_dir) / "feature_cache")
    images = list(dict.fromkeys(image for dataset in reversed(data.datasets) for image in dataset.images))
    num_kept = min(len(images), settings.feature_cache_bytes // _entry_bytes(module.model))
    cache = FeatureCache(
        folder,
        features_key(module.model, precision),
        max_bytes=settings.feature_cache_bytes,
        images=images[:num_kept],
    )
    logger.info(
        "stage %s: vision features of %d of %d panoramas are cached in %s: the vision encoder is frozen",
        module.stage_name,
        num_kept,
        len(images),
        cache.folder,
    )
    return cache


def _obstacle(module: PanoramaTrainingModule, data: PanoramaDataModule, config: CORAConfig) -> str | None:
    if not config.training.cache_features:
        return "training.cache_features is false"
    if not module.vision_is_frozen:
        return "the vision encoder is trained"
    if data.train_dataset.yaw_augmentation is not None:
        return "data.yaw_augmentation changes the pixels"
    return None


def features_key(model: PanoramaVLM, precision: str) -> str:
    """Return a digest of the vision encoder's weights and configuration, the image processing and the precision."""
    digest = hashlib.sha256()
    options = {
        "format": _FORMAT,
        "precision": precision,
        "vision": model.vision.config.to_dict(),
        "image_processing": model.config.image_processing,
    }
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    for name, value in sorted(model.vision.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _entry_bytes(model: PanoramaVLM) -> int:
    layout = model.config.token_layout
    height, width = layout.view_size
    patch = int(model.vision.config.patch_size)
    num_tokens = len(layout.views) * (height // patch) * (width // patch)
    return num_tokens * model.vision.hidden_size * 2 + _BYTES_OF_HEADER
