"""PanoramaLoader: from the path of a panorama to its views, or to the features that are known of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cora.data.augmentation import turned
from cora.data.feature_cache import FeatureCache
from cora.data.view_memory import ViewMemory
from cora.errors import ImageError
from cora.processors.images import PanoramaImageProcessor

__all__ = ["LoadedPanorama", "PanoramaLoader"]

logger = logging.getLogger(__name__)
# Seconds before each further try to read a file: a network disk may be away for a moment.
_PAUSES = (0.1, 0.5)


@dataclass(frozen=True, slots=True)
class LoadedPanorama:
    """A panorama as a model can take it.

    Attributes:
        views: Normalised views float[V, 3, h, w], or frozen vision features float[V, S, D].
        has_features: Whether `views` are features.
        feature_key: Under which key features of these views are to be kept; None keeps none.
        was_damaged: Whether features were there, but damaged.
    """

    views: Tensor
    has_features: bool
    feature_key: str | None = None
    was_damaged: bool = False


class PanoramaLoader:
    """Reads, decodes and cuts panoramas; what is not turned may come from a cache of features, or from memory.

    Args:
        processor: Decodes and cuts.

    Attributes:
        features: Frozen vision features; None always gives views.
        memory: Keeps the views of panoramas whose features are not kept; None keeps none.
    """

    def __init__(self, processor: PanoramaImageProcessor) -> None:
        self.processor = processor
        self.features: FeatureCache | None = None
        self.memory: ViewMemory | None = None

    def load(self, image: Path, turn: float | None = None) -> LoadedPanorama:
        """Return a panorama, turned by a part of a full turn.

        Raises:
            ImageError: It cannot be decoded, or not be read after three tries.
        """
        for pause in (*_PAUSES, None):
            try:
                return self._load(image, turn)
            except OSError as error:
                if pause is None:
                    reason = error.strerror or error
                    raise ImageError(f"{image}: cannot be read, tried {len(_PAUSES) + 1} times: {reason}") from error
                logger.info("%s: %s; trying again", image, error.strerror or error)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _load(self, image: Path, turn: float | None) -> LoadedPanorama:
        if turn is not None:
            return LoadedPanorama(self._views(image, image.read_bytes(), turn), has_features=False)
        cache = self.features
        if cache is None or not cache.admits(image):
            return LoadedPanorama(self._remembered_views(image), has_features=False)
        key, content = cache.known_key(image), None
        if key is None:
            content = image.read_bytes()
            key = cache.key(image, content)
        features, is_damaged = cache.read(key)
        if features is not None:
            return LoadedPanorama(features, has_features=True)
        views = self._views(image, image.read_bytes() if content is None else content, None)
        return LoadedPanorama(views, False, key, is_damaged)

    def _remembered_views(self, image: Path) -> Tensor:
        views = None if self.memory is None else self.memory.get(image)
        if views is None:
            views = self._views(image, image.read_bytes(), None)
            if self.memory is not None:
                self.memory.keep(image, views)
        return views

    def _views(self, image: Path, content: bytes, turn: float | None) -> Tensor:
        if not content:
            raise ImageError(f"{image}: the file is empty")
        # A turn needs no more rows than the views of a camera that is not turned: rows do not change.
        panorama = self.processor.load(content, name=str(image))
        return self.processor.crop(panorama if turn is None else turned(panorama, turn))
