"""PanoramaLoader: from the paths of panoramas to their views, or to the features that are known of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from cora.data.augmentation import turned
from cora.data.feature_cache import FeatureCache
from cora.data.skipped import SkippedPanorama
from cora.data.view_memory import ViewMemory
from cora.errors import ImageError
from cora.processors.images import PanoramaImageProcessor

__all__ = ["LoadedPanorama", "PanoramaLoader", "Request"]

ResultT = TypeVar("ResultT")
Request: TypeAlias = tuple[Path, float | None]
"""A panorama, and by which part of a full turn it is to be turned, if at all."""

logger = logging.getLogger(__name__)
# Seconds before each further try to read a file: a network disk may be away for a moment.
_PAUSES = (0.1, 0.5)
# So many panoramas of up to this size are cut together: the copies cost less than so many calls.
_AT_ONCE = 16
_SMALL_BYTES = 4 * 10**6


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


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A panorama that has to be decoded, and what becomes of it then.

    Attributes:
        request: Which one.
        content: Its file, where it has been read already.
        feature_key: As of `LoadedPanorama`.
        was_damaged: As of `LoadedPanorama`.
        is_remembered: Whether its views are kept in memory.
    """

    request: Request
    content: bytes | None = None
    feature_key: str | None = None
    was_damaged: bool = False
    is_remembered: bool = False


class PanoramaLoader:
    """Reads, decodes and cuts panoramas; what is not turned may come from a cache of features, or from memory.

    They are decoded one by one: beside training, several threads are no faster (docs/benchmarks.md).

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

    def load(self, requests: Iterable[Request]) -> dict[Request, LoadedPanorama | SkippedPanorama]:
        """Return each panorama once, or in its place why it cannot be decoded, or not be read after three tries."""
        wanted = list(dict.fromkeys(requests))
        loaded: dict[Request, LoadedPanorama | SkippedPanorama] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            loaded.update(self._load(wanted[start : start + _AT_ONCE]))
        return loaded

    def _load(self, requests: Sequence[Request]) -> Iterator[tuple[Request, LoadedPanorama | SkippedPanorama]]:
        # Small ones of a size wait to be cut together; large ones would fill the memory.
        waiting: dict[torch.Size, list[tuple[_Unknown, Tensor]]] = {}
        for request in requests:
            found = self._look_up(request)
            if not isinstance(found, _Unknown):
                yield request, found
                continue
            panorama = self._decode(found)
            if isinstance(panorama, SkippedPanorama):
                yield request, panorama
            elif panorama.nbytes > _SMALL_BYTES:
                yield request, self._loaded(found, self.processor.crop(panorama))
            else:
                waiting.setdefault(panorama.shape, []).append((found, panorama))
        for batch in waiting.values():
            cut = self.processor.crop(torch.stack([panorama for _, panorama in batch]))
            for (item, _), views in zip(batch, cut, strict=True):
                yield item.request, self._loaded(item, views)

    def _loaded(self, item: _Unknown, views: Tensor) -> LoadedPanorama:
        """Return a panorama that was cut; its views are kept if they are to be."""
        if item.is_remembered and self.memory is not None:
            with suppress(OSError):  # its file has gone out of reach: it is decoded again if it comes back
                self.memory.keep(item.request[0], views)
        return LoadedPanorama(views, False, item.feature_key, item.was_damaged)

    def _look_up(self, request: Request) -> LoadedPanorama | SkippedPanorama | _Unknown:
        """Return what is known of a panorama."""
        image, turn = request
        if turn is not None:
            return _Unknown(request)
        if self.features is not None and self.features.admits(image):
            return _try(image, lambda: self._look_up_features(request))
        memory = self.memory
        if memory is None:
            return _Unknown(request)
        views = _try(image, lambda: memory.get(image))
        if views is None:
            return _Unknown(request, is_remembered=True)
        return views if isinstance(views, SkippedPanorama) else LoadedPanorama(views, has_features=False)

    def _look_up_features(self, request: Request) -> LoadedPanorama | _Unknown:
        cache, image = self.features, request[0]
        assert cache is not None
        key, content = cache.known_key(image), None
        if key is None:
            content = image.read_bytes()
            key = cache.key(image, content)
        features, is_damaged = cache.read(key)
        if features is not None:
            return LoadedPanorama(features, has_features=True)
        return _Unknown(request, content, key, is_damaged)

    def _decode(self, item: _Unknown) -> Tensor | SkippedPanorama:
        """Return the panorama uint8[H, W, 3] of a file, turned."""
        image, turn = item.request

        def decode() -> Tensor:
            content = image.read_bytes() if item.content is None else item.content
            if not content:
                raise ImageError(f"{image}: the file is empty")
            # A turn needs no more rows than the views of a camera that is not turned: rows do not change.
            panorama = self.processor.load(content, name=str(image))
            return panorama if turn is None else turned(panorama, turn)

        return _try(image, decode)


def _try(image: Path, action: Callable[[], ResultT]) -> ResultT | SkippedPanorama:
    """Return what an action with a file gives, tried three times, or why it fails."""
    for pause in (*_PAUSES, None):
        try:
            return action()
        except ImageError as error:
            return SkippedPanorama(str(image), str(error))
        except OSError as error:
            reason = error.strerror or error
            if pause is None:
                return SkippedPanorama(str(image), f"{image}: cannot be read, tried {len(_PAUSES) + 1} times: {reason}")
            logger.info("%s: %s; trying again", image, reason)
            time.sleep(pause)
    raise AssertionError("the last try returns")
