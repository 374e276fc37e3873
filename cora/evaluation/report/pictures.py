"""Panoramas as they lie in a page: JPEG data of two sizes, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cora.errors import ImageError
from cora.processors.loading import load_panorama

__all__ = ["Picture", "embed_pictures"]

_QUALITY = 78


@dataclass(frozen=True, slots=True)
class Picture:
    """A panorama of a page.

    Attributes:
        name: File name.
        thumbnail: ``data:`` address of a small JPEG, 2:1; empty where there is none.
        viewer: The same at the size to look around in.
        why: Why there is no picture; empty where there is one.
    """

    name: str
    thumbnail: str = ""
    viewer: str = ""
    why: str = ""


def embed_pictures(
    paths: Iterable[str], *, max_pictures: int, thumbnail_width: int, viewer_width: int
) -> dict[str, Picture]:
    """Return a picture for each distinct path in order of first appearance; those beyond the limit are named only.

    Args:
        paths: Files; one that cannot be read is named with the reason and counts towards the limit.
        max_pictures: Most panoramas that are embedded.
        thumbnail_width: Pixels; the height is half of it.
        viewer_width: Pixels; smaller panoramas stay as they are.
    """
    pictures: dict[str, Picture] = {}
    for path in dict.fromkeys(paths):
        name = Path(path).name
        if len(pictures) >= max_pictures:
            pictures[path] = Picture(name, why=f"not embedded: the report holds the first {max_pictures} panoramas")
            continue
        try:
            pictures[path] = _picture(path, name, thumbnail_width, viewer_width)
        except ImageError as error:
            pictures[path] = Picture(name, why=str(error))
    return pictures


def _picture(path: str, name: str, thumbnail_width: int, viewer_width: int) -> Picture:
    def halvings(height: int, width: int) -> int:
        return max(0, (width // max(viewer_width, thumbnail_width)).bit_length() - 1)

    image = Image.fromarray(load_panorama(path, halvings=halvings).numpy())
    large = min(viewer_width, image.width)
    return Picture(name, thumbnail=_jpeg(image, thumbnail_width), viewer=_jpeg(image, large))


def _jpeg(image: Image.Image, width: int) -> str:
    """Return the picture as a data address, exactly 2:1, as the viewer maps it to a whole sphere."""
    stream = io.BytesIO()
    small = image.resize((width, max(1, width // 2)), Image.Resampling.LANCZOS)
    small.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
