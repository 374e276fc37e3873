"""Panoramas of requests: from an address in a message to checked pixels.

Takes the place of vLLM's own loading, which would fetch any address and decode in full. The request itself (``data:``)
is always a source, https hosts and a folder are by configuration. Messages name no path and no address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

from PIL import Image
from vllm.exceptions import GracefulHTTPError, VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector, MediaWithBytes

from cora.config.serve import MediaConfig
from cora.errors import ImageError, SourceRefused
from cora.processors.images import PanoramaImageProcessor
from cora.processors.loading import REFUSE_ASPECT, load_panorama
from cora.serving.budget import PixelBudget
from cora.serving.fetch import HttpsSource
from cora.serving.folder import FolderSource

__all__ = ["CONNECTOR", "PanoramaMedia", "register_connector"]

logger = logging.getLogger(__name__)

CONNECTOR = "cora"
# What people keep panoramas in. Pillow knows many more, some of which start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
_NAME = "image"


class PanoramaMedia:
    """Loads the panoramas of requests.

    Args:
        config: Where they may come from, and how large they may be.
        accept_flat: Whether they need not be 2:1.
        image_processor: That of the export, which says how large a panorama has to be decoded; None decodes in full.
    """

    def __init__(
        self, config: MediaConfig, *, accept_flat: bool, image_processor: PanoramaImageProcessor | None
    ) -> None:
        self._max_pixels = config.max_pixels
        self._accept_flat = accept_flat
        self._processor = image_processor and _lenient(image_processor)
        self._https = HttpsSource(config)
        self._folder = None if config.directory is None else FolderSource(config.directory, config.max_bytes)
        self._budget = PixelBudget(config.max_pixels_in_flight)
        # As many as there are cores: more would only hold more memory.
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="panorama")

    async def load(self, url: str) -> Any:
        """Return a panorama as a PIL image with the bytes it came from, by which vLLM knows it again.

        Raises:
            GracefulHTTPError: This server does not read from there (403).
            VLLMValidationError: There is none to be had from this address; the client is told why.
        """
        loop = asyncio.get_running_loop()
        try:
            content = await self._content(url)
            pixels = _header_pixels(content, self._max_pixels)
            await self._budget.take(pixels)
            try:
                picture = await loop.run_in_executor(self._threads, self._decode, content)
            except BaseException:
                await self._budget.give_back(pixels)
                raise
        except SourceRefused as error:
            raise GracefulHTTPError(str(error), HTTPStatus.FORBIDDEN) from None
        except ImageError as error:
            raise VLLMValidationError(str(error), parameter="image_url") from None
        # Room again when vLLM has cut it and forgets it, in whichever thread that is.
        weakref.finalize(picture, _give_back_later, loop, self._budget, pixels)
        return MediaWithBytes(picture, content)

    async def _content(self, url: str) -> bytes:
        scheme = url.partition(":")[0].lower()
        loop = asyncio.get_running_loop()
        if scheme == "data":
            return await loop.run_in_executor(self._threads, _data_bytes, url)
        if scheme == "https":
            return await self._https.read(url)
        if scheme == "file" and self._folder is not None:
            return await loop.run_in_executor(self._threads, self._folder.read, url)
        if scheme == "file":
            raise SourceRefused(f"{_NAME}: this server reads no files; send the panorama as a data: URI")
        raise ImageError(f"{_NAME}: a panorama is sent as a data: URI with base64, or named by an https address")

    def _decode(self, content: bytes) -> Image.Image:
        if self._processor is not None:
            pixels = self._processor.load(content, name=_NAME)
        else:
            pixels = load_panorama(content, max_pixels=self._max_pixels, accept_flat=True, name=_NAME)
        height, width = pixels.shape[:2]
        if not self._accept_flat and abs(width / (2 * height) - 1) >= REFUSE_ASPECT:
            raise ImageError(
                f"{_NAME}: {width} x {height} pixels is no panorama: a whole sphere is twice as wide as high"
            )
        return Image.fromarray(pixels.numpy())


def register_connector(media: PanoramaMedia) -> None:
    """Make vLLM load all media through `media`; it does so where VLLM_MEDIA_CONNECTOR names us."""

    class PanoramaConnector(MediaConnector):  # type: ignore[misc]  # vLLM is untyped here
        async def fetch_image_async(self, image_url: str, *, image_mode: str | None = "RGB") -> Any:
            return await media.load(image_url)

        def load_from_url(self, *_: Any, **__: Any) -> Any:
            raise VLLMValidationError("a message holds text and panoramas only", parameter="messages")

        async def load_from_url_async(self, *_: Any, **__: Any) -> Any:
            self.load_from_url()

    MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR)(PanoramaConnector)


def _lenient(processor: PanoramaImageProcessor) -> PanoramaImageProcessor:
    """Return a processor that leaves the shape of the picture to us."""
    return PanoramaImageProcessor.from_dict({**processor.to_dict(), "accept_flat": True})


def _data_bytes(url: str) -> bytes:
    """Return what is in a ``data:`` URI of an image."""
    header, comma, data = url.partition(",")
    if not comma:
        raise ImageError(f"{_NAME}: the data: URI has no comma")
    kind, *parameters = header[len("data:") :].lower().split(";")
    if not kind.strip().startswith("image/"):
        raise ImageError(f"{_NAME}: the data: URI is of no image type, such as image/jpeg")
    if not parameters or parameters[-1].strip() != "base64":
        raise ImageError(f"{_NAME}: the data: URI is not in base64")
    try:
        encoded = unquote_to_bytes(data) if "%" in data else data.encode("ascii")
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(f"{_NAME}: the data: URI is not in base64") from None


def _header_pixels(content: bytes, most: int) -> int:
    """Return how many pixels a picture will have, from its header."""
    if not content:
        raise ImageError(f"{_NAME}: the picture is empty")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        raise ImageError(f"{_NAME}: more than {most} pixels, the most that this server takes") from None
    except Exception:  # a broken header can raise anything
        raise ImageError(f"{_NAME}: not a picture in a known format ({', '.join(FORMATS)}), or cut off") from None
    if width * height > most:
        raise ImageError(f"{_NAME}: {width} x {height} pixels are more than {most}, the most that this server takes")
    return width * height


def _give_back_later(loop: asyncio.AbstractEventLoop, budget: PixelBudget, pixels: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(budget.give_back(pixels)))
