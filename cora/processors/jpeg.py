"""JPEG panoramas decoded at the size that is needed.

libjpeg-turbo can take a part of each block's frequencies and so decode to 1/2, 1/4 or 1/8 of the size in less time than
all of it takes; what it leaves out is what area averaging would. Each block stays a whole number of pixels, so that the
picture still covers the whole sphere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import simplejpeg

__all__ = ["Halvings", "decode_jpeg"]

Halvings: TypeAlias = Callable[[int, int], int]
"""(height, width) of a panorama -> how many times it may be halved before whoever asks would notice."""

MOST_HALVINGS = 3


def decode_jpeg(content: bytes, halvings: Halvings | None) -> npt.NDArray[np.uint8] | None:
    """Return a JPEG's pixels uint8[H, W, 3], or a halved picture as far as `halvings` allows; None for CMYK and YCCK.

    Without `halvings` the pixels are those of Pillow, to the bit.

    Raises:
        ValueError: The file is cut off or broken.
    """
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content, strict=True)
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    limits: dict[str, Any] = {}
    count = _usable(height, width, halvings(height, width)) if halvings is not None else 0
    if count:
        limits = {"min_height": height >> count, "min_width": width >> count}
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True, **limits)
    return pixels


def _usable(height: int, width: int, wanted: int) -> int:
    """Return the most halvings up to `wanted` that divide both sides: a cut pixel would not be on the sphere."""
    for count in range(min(MOST_HALVINGS, wanted), 0, -1):
        if height % 2**count == width % 2**count == 0:
            return count
    return 0
