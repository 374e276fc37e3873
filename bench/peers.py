"""Other ways to cut a ring of square views: each turns the same uint8 panorama into the same normalised float views.

Maps, grids and caches are made once, before anything is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from cora.geometry.sampling import panorama_coordinates
from cora.types import ViewSpec

__all__ = ["RESEARCH_SIDE", "make_peers"]

RESEARCH_SIDE = 672
"""The research code rendered views of this side and shrank them with plain bilinear interpolation."""

Candidate = Callable[[], Tensor]

_NORMALISED = (np.arange(256) / 127.5 - 1).astype(np.float32)


def make_peers(panorama: Tensor, views: Sequence[ViewSpec], side: int) -> dict[str, Candidate]:
    """Return the peers that are installed: ``grid_sample``, ``py360``, ``research`` and ``cv2``.

    Each returns the views float32[V, 3, side, side] with values in -1 .. 1.
    """
    peers: dict[str, Candidate] = {"grid_sample": partial(_grid_sample, panorama, _grids(panorama, views, side))}
    if find_spec("py360convert") is not None:
        _widen_cache()
        peers["py360"] = partial(_py360, panorama.numpy(), views, side)
        peers["research"] = partial(_research, panorama.numpy(), views, side)
    if find_spec("cv2") is not None:
        peers["cv2"] = partial(_cv2, panorama.numpy(), _fixed_point_maps(panorama, views, side), len(views), side)
    return peers


def _grids(panorama: Tensor, views: Sequence[ViewSpec], side: int) -> Tensor:
    """Return grid_sample's positions float32[V, h, w, 2] in the panorama padded by one pixel on every side."""
    height, width, _ = panorama.shape
    positions = []
    for view in views:
        x, y = panorama_coordinates(view, side, side, panorama_height=height, panorama_width=width)
        positions.append(torch.stack([2 * (x + 1) / (width + 2) - 1, 2 * (y + 1) / (height + 2) - 1], dim=-1))
    return torch.stack(positions).float()


def _grid_sample(panorama: Tensor, grids: Tensor) -> Tensor:
    half = panorama.shape[1] // 2
    rows = torch.cat([panorama[:1].roll(half, dims=1), panorama, panorama[-1:].roll(half, dims=1)])
    padded = torch.cat([rows[:, -1:], rows, rows[:, :1]], dim=1).permute(2, 0, 1)[None].float()
    pictures = grid_sample(padded.expand(len(grids), -1, -1, -1), grids, align_corners=False)
    return pictures.mul_(1 / 127.5).sub_(1)


@lru_cache(maxsize=1)
def _widen_cache() -> None:
    """Let py360convert keep the samplers of several rings: by itself it keeps eight views and would be cold here."""
    from py360convert.utils import EquirecSampler

    wide: Any = lru_cache(maxsize=64)(EquirecSampler.from_perspective.__wrapped__)
    EquirecSampler.from_perspective = classmethod(wide)


def _py360(panorama: npt.NDArray[np.uint8], views: Sequence[ViewSpec], side: int) -> Tensor:
    return _cut_by_py360(panorama, views, side).float().mul_(1 / 127.5).sub_(1)


def _research(panorama: npt.NDArray[np.uint8], views: Sequence[ViewSpec], side: int) -> Tensor:
    large = _cut_by_py360(panorama, views, RESEARCH_SIDE).float()
    return interpolate(large, size=(side, side), mode="bilinear", align_corners=False).mul_(1 / 127.5).sub_(1)


def _cut_by_py360(panorama: npt.NDArray[np.uint8], views: Sequence[ViewSpec], side: int) -> Tensor:
    import py360convert

    pictures = []
    for view in views:
        # Its outermost pixel centres lie on the edge of the field of view, so the same rays need a narrower one.
        fov_deg = tuple(
            math.degrees(2 * math.atan(math.tan(math.radians(each) / 2) * (side - 1) / side))
            for each in (view.hfov_deg, view.vfov_deg)
        )
        yaw_deg, pitch_deg = view.yaw_deg, view.pitch_deg
        pictures.append(py360convert.e2p(panorama, fov_deg, yaw_deg, pitch_deg, (side, side), mode="bilinear"))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _fixed_point_maps(
    panorama: Tensor, views: Sequence[ViewSpec], side: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]]:
    """Return OpenCV's maps for all views below one another."""
    import cv2

    height, width, _ = panorama.shape
    at = [panorama_coordinates(view, side, side, panorama_height=height, panorama_width=width) for view in views]
    x, y = (torch.cat([each[axis] for each in at]).float().numpy() - 0.5 for axis in (0, 1))
    maps = cv2.convertMaps(x, y, cv2.CV_16SC2)
    return maps[0], maps[1]


def _cv2(
    panorama: npt.NDArray[np.uint8],
    maps: tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]],
    count: int,
    side: int,
) -> Tensor:
    import cv2

    tall = cv2.remap(panorama, *maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    out = np.empty((count, 3, side, side), dtype=np.float32)
    for picture, target in zip(tall.reshape(count, side, side, 3), out, strict=True):
        # A table straight into the result was the fastest normalisation tried.
        for channel, plane in zip(cv2.split(picture), target, strict=True):
            cv2.LUT(channel, _NORMALISED, dst=plane)
    return torch.from_numpy(out)
