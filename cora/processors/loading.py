"""Panoramas from files, bytes and pictures in memory: checked, upright, 8-bit RGB.

Owns every way a picture can be wrong; fetches nothing from the network.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cora.errors import ImageError
from cora.processors.jpeg import OfSize, decode_jpeg

__all__ = ["DEFAULT_MAX_PIXELS", "PanoramaSource", "load_panorama"]

PanoramaSource: TypeAlias = "str | Path | bytes | Image.Image | npt.NDArray[Any] | Tensor"

DEFAULT_MAX_PIXELS = 178_956_970
WARN_ASPECT = 0.05
REFUSE_ASPECT = 0.25

logger = logging.getLogger(__name__)


def load_panorama(
    source: PanoramaSource,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    accept_flat: bool = False,
    name: str | None = None,
    halvings: OfSize | None = None,
    last_row: OfSize | None = None,
) -> Tensor:
    """Return a panorama as contiguous uint8[H, W, 3], RGB, on the CPU.

    EXIF orientation is applied, transparency is put on white, 16-bit values are scaled to 8 bits.

    Args:
        source: A path, the bytes of a picture file, a PIL image, or an array or tensor of shape [H, W], [H, W, C] or
            [C, H, W] with 1, 3 or 4 channels: uint8, uint16, or floating in 0 .. 1.
        max_pixels: Largest number of pixels; larger files are refused by their header, before decoding.
        accept_flat: Accept pictures that are not 2:1 without a word.
        name: What to call the picture in messages; the file name by default.
        halvings: How many times a panorama of (height, width) pixels may be halved; a JPEG is then decoded at up to
            that much less than its size, and everything else in full.
        last_row: How many rows from the top of a panorama of (height, width) pixels, of what is left of it after
            halving, will be looked at; a JPEG may be black further down.

    Raises:
        ImageError: The picture is missing, unreadable, cut off, too large, or 25 % or more off 2:1.
    """
    label = name if name is not None else _label(source)
    if isinstance(source, (np.ndarray, Tensor)):
        pixels = np.array(_from_array(source, label), order="C")
        _check_count(pixels.shape[1], pixels.shape[0], max_pixels, label)
    elif isinstance(source, Image.Image):
        _check_count(*source.size, max_pixels, label)
        with _decode_errors(label):
            pixels = _from_image(source, label)
    else:
        with _open(source, label) as image:
            _check_count(*image.size, max_pixels, label)
            with _decode_errors(label):
                pixels = _from_file(image, source, label, halvings, last_row)
    height, width, _ = pixels.shape
    if min(height, width) < 2:
        raise ImageError(f"{label}: a panorama has at least 2 x 2 pixels, this one is {width} x {height}")
    if not accept_flat:
        _check_aspect(width, height, label)
    return torch.from_numpy(pixels)


def _label(source: PanoramaSource) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "picture in memory")
    return "picture in memory"


def _check_count(width: int, height: int, max_pixels: int, label: str) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{label}: {width} x {height} pixels are more than max_pixels = {max_pixels}")


def _check_aspect(width: int, height: int, label: str) -> None:
    off = abs(width / (2 * height) - 1)
    if off >= REFUSE_ASPECT:
        raise ImageError(
            f"{label}: {width} x {height} pixels is no panorama: a whole sphere is twice as wide as high "
            "(accept_flat=True takes it anyway)"
        )
    if off > WARN_ASPECT:
        _warn_aspect(width, height, label)


@lru_cache(maxsize=4096)
def _warn_aspect(width: int, height: int, label: str) -> None:
    """Warn once for each file: the cache swallows repetitions."""
    logger.warning("%s: %d x %d pixels is not 2:1; it is taken for a whole sphere all the same", label, width, height)


@contextmanager
def _decode_errors(label: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a broken file into one ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error, ValueError, zlib.error
        raise ImageError(f"{label}: the picture cannot be decoded: {error}") from error


@contextmanager
def _open(source: str | Path | bytes, label: str) -> Iterator[Image.Image]:
    """Open a picture file or its bytes, reading the header only."""
    if isinstance(source, bytes):
        file: Path | io.BytesIO = io.BytesIO(source)
    elif isinstance(source, (str, Path)):
        file = _existing_file(source, label)
    else:
        raise ImageError(
            f"{label}: a panorama is a path, bytes, PIL image, array or tensor, not {type(source).__name__}"
        )
    try:
        with warnings.catch_warnings():
            # Pillow warns from half its own limit on; `max_pixels` decides here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except UnidentifiedImageError:
        raise ImageError(f"{label}: not a picture in a known format, or cut off") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{label}: {error}") from error
    except Exception as error:  # a broken header can raise anything, as in `_decode_errors`
        raise ImageError(f"{label}: the picture cannot be opened: {error}") from error
    with image:
        yield image


def _existing_file(source: str | Path, label: str) -> Path:
    if isinstance(source, str) and "://" in source:
        raise ImageError(f"{label}: pictures are not fetched from the network; download it and give the file")
    path = Path(source).expanduser()
    if not path.exists():
        raise ImageError(f"{label}: no such file")
    if not path.is_file():
        raise ImageError(f"{label}: not a file")
    if path.stat().st_size == 0:
        raise ImageError(f"{label}: the file is empty")
    if not os.access(path, os.R_OK):
        raise ImageError(f"{label}: no permission to read the file")
    return path


def _from_file(
    image: Image.Image,
    source: str | Path | bytes,
    label: str,
    halvings: OfSize | None,
    last_row: OfSize | None,
) -> npt.NDArray[np.uint8]:
    """Return an opened file's upright picture as uint8[H, W, 3]."""
    # Turned pictures are rare, and Pillow knows all eight ways to turn them.
    if image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        content = source if isinstance(source, bytes) else Path(source).expanduser().read_bytes()
        pixels = decode_jpeg(content, halvings, last_row)
        if pixels is not None:
            return pixels
    return _from_image(image, label)


def _from_image(image: Image.Image, label: str) -> npt.NDArray[np.uint8]:
    """Return the decoded, upright picture as uint8[H, W, 3]."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return np.array(_from_array(np.asarray(upright), label), order="C")
    if upright.has_transparency_data:
        opaque = Image.new("RGBA", upright.size, "white")
        opaque.alpha_composite(upright.convert("RGBA"))
        upright = opaque
    return np.array(upright.convert("RGB"))


def _from_array(source: npt.NDArray[Any] | Tensor, label: str) -> npt.NDArray[np.uint8]:
    """Return an array or tensor of any accepted shape and type as uint8[H, W, 3]."""
    array: npt.NDArray[Any] = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"{label}: an array is [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, got {list(source.shape)}"
        )
    values = _to_8_bit(array, label)
    if values.shape[2] == 4:
        alpha = values[..., 3:].astype(np.float32) / 255
        values = np.rint(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def _to_8_bit(array: npt.NDArray[Any], label: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    if array.dtype == np.bool_:
        return np.where(array, np.uint8(255), np.uint8(0))
    low, high = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.floating) and low >= 0 and high <= 1:
        scaled = array * 255
    elif array.dtype in (np.uint16, np.int32) and low >= 0 and high <= 65535:
        scaled = array / 257
    else:
        raise ImageError(
            f"{label}: pixel values are 8-bit, 16-bit, or floating in 0 .. 1; got {array.dtype} in {low:g} .. {high:g}"
        )
    eight_bit: npt.NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return eight_bit
