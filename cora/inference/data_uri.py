"""Panoramas as ``data:`` addresses, which is how they travel inside a request."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from cora.errors import ImageError

if TYPE_CHECKING:
    from cora.processors.loading import PanoramaSource

__all__ = ["as_data_uri"]

JPEG_QUALITY = 90


def as_data_uri(source: PanoramaSource, max_width: int | None = None) -> str:
    """Return a panorama as a ``data:`` address.

    Args:
        source: A file, its bytes, a PIL image or an array, see `cora.processors.loading.load_panorama`.
        max_width: Width in pixels; a wider panorama is shrunk to it and sent as JPEG. None sends the bytes of a JPEG,
            PNG or WebP file as they are, unopened, and everything else without loss, as PNG.

    Raises:
        ImageError: The picture is missing, unreadable, cut off, too large, or no panorama.
    """
    if max_width is None and isinstance(source, (str, Path, bytes)):
        content = source if isinstance(source, bytes) else _read(source)
        if (media_type := _media_type(content)) is not None:
            return _encode(media_type, content)
    from PIL import Image

    from cora.processors.loading import load_panorama

    picture = Image.fromarray(load_panorama(source).numpy())
    buffer = io.BytesIO()
    if max_width is None:
        picture.save(buffer, "PNG")
        return _encode("image/png", buffer.getvalue())
    if picture.width > max_width:
        height = max(1, round(picture.height * max_width / picture.width))
        picture = picture.resize((max_width, height), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return _encode("image/jpeg", buffer.getvalue())


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error


def _media_type(content: bytes) -> str | None:
    """Return the type of a file that every server can read, by how it begins, or None."""
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def _encode(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
