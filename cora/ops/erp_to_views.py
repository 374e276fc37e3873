"""Views of an equirectangular panorama: signature, checks and choice of implementation.

The arithmetic is in `cora.ops.reference.erp_to_views` (plain torch, any device) and in the extension `cora._C`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from cora.errors import GeometryError, KernelUnavailable
from cora.geometry.camera import check_view, content_box
from cora.ops.extension import extension_problem, has_kernel
from cora.ops.reference import erp_to_views as reference
from cora.ops.view_plan import SamplingGrid, SeparableFilter, is_separable, sampling_grid, separable_filter
from cora.types import ViewSpec

__all__ = ["IMPL_VARIABLE", "Implementation", "available_implementations", "erp_to_views"]

Implementation = Literal["auto", "reference", "cpp", "cuda"]
Sampler = Callable[[Sequence[Tensor], SamplingGrid, Sequence[float]], Tensor]

IMPL_VARIABLE = "CORA_OP_IMPL"

logger = logging.getLogger(__name__)


def erp_to_views(
    panorama: Tensor,
    views: Sequence[ViewSpec],
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    antialias: bool = True,
    impl: Implementation = "auto",
) -> Tensor:
    """Return the views of a panorama, normalised: (value / 255 - mean) / std.

    Args:
        panorama: uint8[H, W, 3] or uint8[B, H, W, 3], equirectangular RGB.
        views: What to look at; letterbox bars are black before normalisation.
        size: (height, width) of every view in pixels.
        mean: Three channel means, of values in 0 .. 1.
        std: Three channel standard deviations.
        dtype: Floating dtype of the result; the computation is in float32.
        antialias: Average what a view pixel covers (the default), or take one bilinear sample of the panorama.
        impl: ``reference``, ``cpp``, ``cuda``, or ``auto`` for the fastest one that is there. The environment variable
            ``CORA_OP_IMPL`` decides what ``auto`` means.

    Returns:
        float[V, 3, h, w], or float[B, V, 3, h, w] for a batch, on the panorama's device.

    Raises:
        GeometryError: A wrong shape, dtype, size or view.
        KernelUnavailable: The implementation asked for is not there.
    """
    _check(panorama, views, size, mean, std)
    sampler = _choose_sampler(impl, panorama.device.type)
    batch = panorama if panorama.dim() == 4 else panorama[None]
    means, stds = torch.tensor([mean, std], dtype=torch.float32, device=panorama.device).view(2, 3, 1, 1)
    # A caller's autocast must not round pixels: training and serving would then see different views.
    with torch.autocast(panorama.device.type, enabled=False):
        pictures = torch.stack([_render(each, views, size, antialias, sampler) for each in batch])
    result = pictures.mul_(1 / (255 * stds)).sub_(means / stds).to(dtype)
    return result if panorama.dim() == 4 else result[0]


def _render(
    panorama: Tensor, views: Sequence[ViewSpec], size: tuple[int, int], antialias: bool, sampler: Sampler
) -> Tensor:
    """Return the views float32[V, 3, h, w] of one panorama uint8[H, W, 3], in 0 .. 255."""
    panorama_height, panorama_width, _ = panorama.shape
    panorama_size = {"panorama_height": panorama_height, "panorama_width": panorama_width}
    boxes = [content_box(view, *size) for view in views]
    filters: dict[int, SeparableFilter] = {}
    grids: dict[SamplingGrid, list[int]] = {}
    for number, view in enumerate(views):
        picture_size = boxes[number][2:]
        if is_separable(view, antialias):
            filters[number] = separable_filter(view, *picture_size, **panorama_size)
        else:
            # Views that differ by a turn only share a grid and go through the sampler in one call.
            grid = sampling_grid(view, *picture_size, **panorama_size, antialias=antialias)
            grids.setdefault(grid, []).append(number)
    counts = [1 + plan.level for plan in filters.values()]
    counts += [grid.num_levels(panorama_height, panorama_width) if antialias else 1 for grid in grids]
    levels = reference.build_pyramid(panorama, max(counts))
    pictures = torch.zeros(len(views), 3, *size, dtype=torch.float32, device=panorama.device)
    for number, plan in filters.items():
        _paste(pictures[number], reference.filter_separable(levels, plan), boxes[number])
    for grid, numbers in grids.items():
        turns = [views[number].yaw_deg / 360 for number in numbers]
        sampled = sampler(levels if antialias else levels[:1], grid, turns)
        for number, picture in zip(numbers, sampled, strict=True):
            _paste(pictures[number], picture, boxes[number])
    return pictures


def _paste(view: Tensor, picture: Tensor, box: tuple[int, int, int, int]) -> None:
    top, left, height, width = box
    view[:, top : top + height, left : left + width] = picture


def _check(
    panorama: Tensor, views: Sequence[ViewSpec], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> None:
    if panorama.dtype != torch.uint8 or panorama.dim() not in (3, 4) or panorama.shape[-1] != 3:
        raise GeometryError(
            f"a panorama is uint8[H, W, 3] or uint8[B, H, W, 3], got {panorama.dtype} {list(panorama.shape)}"
        )
    if min(panorama.shape[-3:-1]) < 2:
        raise GeometryError(f"a panorama has at least 2 x 2 pixels, got {list(panorama.shape[-3:-1])}")
    if not views:
        raise GeometryError("at least one view is needed")
    if len(size) != 2 or min(size) < 1:
        raise GeometryError(f"the size of a view is (height, width), each at least 1, got {tuple(size)}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise GeometryError(f"mean and std have three channels and std is positive, got {tuple(mean)} and {tuple(std)}")
    for view in views:
        check_view(view)


def available_implementations(device_type: str = "cpu") -> list[Implementation]:
    """Return the implementations usable for panoramas on a kind of device, the fastest first."""
    compiled: Implementation = "cuda" if device_type == "cuda" else "cpp"
    return [compiled, "reference"] if has_kernel("sample_pyramid", device_type) else ["reference"]


def _choose_sampler(impl: str, device_type: str) -> Sampler:
    known = get_args(Implementation)
    requested = os.environ.get(IMPL_VARIABLE) or impl if impl == "auto" else impl
    if requested not in known:
        raise KernelUnavailable(f"erp_to_views has no implementation '{requested}'; known: {', '.join(known)}")
    available = available_implementations(device_type)
    chosen = available[0] if requested == "auto" else requested
    if chosen not in available:
        raise KernelUnavailable(
            f"erp_to_views: implementation '{chosen}' cannot take panoramas on {device_type}: "
            f"{extension_problem() or f'it has no {chosen} kernel for them'}; available: {', '.join(available)}. "
            "The kernels are built by `pip install --no-build-isolation .` in the source tree, those for CUDA where "
            "torch has CUDA and nvcc is found"
        )
    if requested == "auto":
        _log_choice(device_type, chosen)
    return reference.sample_pyramid if chosen == "reference" else _compiled_sampler


def _compiled_sampler(levels: Sequence[Tensor], grid: SamplingGrid, turns: Sequence[float]) -> Tensor:
    positions = grid.positions.to(levels[0].device)
    pictures: Tensor = torch.ops.cora.sample_pyramid(levels, positions, turns, grid.samples)
    return pictures


@lru_cache(maxsize=8)
def _log_choice(device_type: str, chosen: str) -> None:
    """Log what ``auto`` chose, once a process: the cache swallows repetitions."""
    reason = "the fastest there is" if chosen != "reference" else extension_problem() or "no kernel for this device"
    logger.info("erp_to_views on %s: implementation '%s' (%s)", device_type, chosen, reason)
