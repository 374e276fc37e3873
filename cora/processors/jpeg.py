"""JPEG panoramas decoded at the size that is needed, and no further down than is needed.

libjpeg-turbo can take a part of each block's frequencies and so decode to 1/2, 1/4 or 1/8 of the size in less time than
all of it takes; what it leaves out is what area averaging would. Each block stays a whole number of pixels, so that the
picture still covers the whole sphere.

A ring of views looks at the middle of a panorama. The rows above cannot be skipped, because each block is coded after
the ones before it; those below can: the decoder is told of a lower picture.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import simplejpeg

__all__ = ["OfSize", "decode_jpeg"]

OfSize: TypeAlias = Callable[[int, int], int]
"""A number that follows from the (height, width) of a panorama."""

MOST_HALVINGS = 3

# A row of blocks is at most this high, and smoothing colour reaches into the next one.
_BLOCK_ROWS = 32
# Markers: frames whose blocks are coded in one go from top to bottom, whatever else begins a frame, a restart interval,
# the start of a scan.
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)
_OTHER_FRAMES = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_RESTART_INTERVAL, _SCAN = 0xDD, 0xDA
# What libjpeg-turbo says first, and only, of a sound file whose last rows it was not told of.
_LEFT_OVER = "extraneous bytes before marker 0xd9"


def decode_jpeg(
    content: bytes, halvings: OfSize | None = None, last_row: OfSize | None = None
) -> npt.NDArray[np.uint8] | None:
    """Return a JPEG's pixels uint8[H, W, 3], or a halved picture as far as `halvings` allows; None for CMYK and YCCK.

    Without `halvings` the pixels are those of Pillow, to the bit, down to `last_row` of the result and zero or more
    rows further, and black below.

    Raises:
        ValueError: The file is cut off, or broken where it is decoded.
    """
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content, strict=True)
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    count = _usable(height, width, halvings(height, width)) if halvings is not None else 0
    if last_row is not None:
        read = last_row(height >> count, width >> count) << count
        rows = (math.ceil(read / _BLOCK_ROWS) + 1) * _BLOCK_ROWS
        top = _decode_top(content, height, width, count, rows) if rows < height else None
        if top is not None:
            return top
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(content, **_settings(height, width, count))
    return pixels


def _settings(height: int, width: int, count: int) -> dict[str, Any]:
    limits = {"min_height": height >> count, "min_width": width >> count} if count else {}
    return {"colorspace": "RGB", "strict": True, **limits}


def _usable(height: int, width: int, wanted: int) -> int:
    """Return the most halvings up to `wanted` that divide both sides: a cut pixel would not be on the sphere."""
    for count in range(min(MOST_HALVINGS, wanted), 0, -1):
        if height % 2**count == width % 2**count == 0:
            return count
    return 0


def _decode_top(content: bytes, height: int, width: int, count: int, rows: int) -> npt.NDArray[np.uint8] | None:
    """Return the halved picture with the first `rows` of the file's rows decoded; None where that cannot be done.

    Broken files are left to a decoder that is told of the whole picture: its words are the right ones.
    """
    lower = _with_height(content, rows)
    if lower is None:
        return None
    pixels = np.empty((height >> count, width >> count, 3), dtype=np.uint8)
    decoded = rows >> count
    try:
        simplejpeg.decode_jpeg(lower, buffer=pixels[:decoded], **_settings(rows, width, count))
    except ValueError as error:
        if _LEFT_OVER not in str(error):
            return None
    pixels[decoded:] = 0
    return pixels


def _with_height(content: bytes, rows: int) -> bytearray | None:
    """Return a JPEG that claims to have `rows` rows; None unless its blocks are coded from top to bottom in one go."""
    place, frame = 2, 0
    while place + 9 < len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in _OTHER_FRAMES or (marker == _RESTART_INTERVAL and any(content[place + 4 : place + 6])):
            return None
        if marker in _SEQUENTIAL_FRAMES:
            frame = place
        if marker == _SCAN:
            lower = bytearray(content)
            # Marker, length, bits per sample; then the height.
            struct.pack_into(">H", lower, frame + 5, rows)
            has_all_colours = frame > 0 and content[place + 4] == content[frame + 9]
            return lower if has_all_colours else None
        place += 2 + length
    return None
