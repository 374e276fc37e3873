"""The picture that the benchmarks cut: made up, always the same, with detail at every scale."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from cora.errors import CoraError
from cora.ops.erp_to_views import erp_to_views
from cora.ops.reference.erp_to_views import halve
from cora.types import ViewSpec

__all__ = ["make_source", "make_truth"]

_WORDS = "EXIT 360 CORA Platform 9 fresh bread mind the gap no parking 24h"


@lru_cache(maxsize=2)
def _scene(width: int) -> Tensor:
    """Return uint8[W / 2, W, 3]: patches on several scales, gratings of rising frequency, lines of text and noise."""
    height, generator = width // 2, torch.Generator().manual_seed(0)
    picture = torch.full((1, 3, height, width), 0.5)
    for cells in (4, 16, 64):
        patches = torch.rand(1, 3, cells, 2 * cells, generator=generator) - 0.5
        picture += 0.5 * interpolate(patches, size=(height, width), mode="nearest")
    columns = torch.arange(width) / width
    picture[:, :, height // 3 : height // 2] += 0.2 * torch.sin(columns * (80 + columns * width / 2))
    picture += 0.02 * torch.randn(picture.shape, generator=generator)
    pixels = (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    page = Image.fromarray(pixels.numpy())
    draw, step = ImageDraw.Draw(page), max(8, height // 24)
    for line, row in enumerate(range(height // 4, 3 * height // 4, step)):
        font = ImageFont.load_default(size=step * (0.3 + 0.1 * (line % 6)))
        for column in range(0, width, width // 6):
            draw.text((column + 3 * line, row), _WORDS, font=font, fill=("white", "black", "gold")[line % 3])
    return torch.from_numpy(np.array(page))


def make_source(scene_width: int, width: int) -> Tensor:
    """Return the scene, `scene_width` pixels wide, area-averaged to uint8[W / 2, W, 3]; a power of two smaller."""
    picture = _scene(scene_width)
    while picture.shape[1] > width:
        picture = halve(picture[None])[0]
    if picture.shape[1] != width:
        raise CoraError(f"a source of width {width} cannot be halved out of a scene of width {scene_width}")
    return picture


def make_truth(scene_width: int, views: Sequence[ViewSpec], side: int, samples: int = 8) -> Tensor:
    """Return float32[V, 3, side, side] in 0 .. 1: the mean of samples x samples points of the scene in each pixel."""
    scene, fine = _scene(scene_width), (side * samples, side * samples)
    pictures = [
        avg_pool2d(erp_to_views(scene, [view], size=fine, mean=(0, 0, 0), std=(1, 1, 1), antialias=False), samples)
        for view in views
    ]
    return torch.cat(pictures)
