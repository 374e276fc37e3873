"""Views of an equirectangular panorama: signature, checks and choice of implementation.

The arithmetic is in `cora.ops.reference.erp_to_views` (plain torch, any device) and in the extension `cora._C`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from cora.errors import GeometryError, KernelUnavailable
from cora.geometry.camera import check_view, content_box
from cora.ops.reference import erp_to_views as reference
from cora.ops.view_plan import gather_grid, is_separable, num_levels, separable_filter
from cora.types import ViewSpec

__all__ = ["IMPL_VARIABLE", "Implementation", "available_implementations", "erp_to_views"]

Implementation = Literal["auto", "reference", "cpp", "cuda"]
Sampler = Callable[[Sequence[Tensor], Tensor], Tensor]

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
    sampler = _sampler(impl, panorama.device.type)
    batch = panorama if panorama.dim() == 4 else panorama[None]
    scale = 1 / (255 * torch.tensor(std, dtype=torch.float32, device=panorama.device)).view(3, 1, 1)
    shift = (torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)).view(3, 1, 1)
    pictures = torch.stack([_render(each, views, size, antialias, sampler) for each in batch])
    result = pictures.mul_(scale).sub_(shift.to(panorama.device)).to(dtype)
    return result if panorama.dim() == 4 else result[0]


def _render(
    panorama: Tensor, views: Sequence[ViewSpec], size: tuple[int, int], antialias: bool, sampler: Sampler
) -> Tensor:
    """Return the views float32[V, 3, h, w] of one panorama uint8[H, W, 3], in 0 .. 255."""
    panorama_height, panorama_width, _ = panorama.shape
    boxes = [content_box(view, *size) for view in views]
    filters = {
        number: separable_filter(view, boxes[number][2], boxes[number][3], panorama_height, panorama_width)
        for number, view in enumerate(views)
        if is_separable(view, antialias)
    }
    grids = {
        number: gather_grid(view, boxes[number][2], boxes[number][3])
        for number, view in enumerate(views)
        if number not in filters
    }
    count = 1 + max((plan.level for plan in filters.values()), default=0)
    if antialias:
        count = max([count, *(num_levels(level, panorama_height, panorama_width) for _, level in grids.values())])
    levels = reference.build_pyramid(panorama, count)
    pictures = torch.zeros(len(views), 3, *size, dtype=torch.float32, device=panorama.device)
    for number, plan in filters.items():
        _paste(pictures[number], reference.filter_separable(levels, plan), boxes[number])
    # Views of one picture size go through the sampler together: it is then called once, not once a view.
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, (grid, _) in grids.items():
        by_shape.setdefault(tuple(grid.shape), []).append(number)
    for numbers in by_shape.values():
        grid = torch.stack([grids[number][0] for number in numbers]).to(panorama.device)
        for number, picture in zip(numbers, sampler(levels if antialias else levels[:1], grid), strict=True):
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


@lru_cache(maxsize=1)
def _extension() -> ModuleType | None:
    """Return the compiled extension, or None when this installation was made without it."""
    try:
        from cora import _C
    except ImportError:
        return None
    return _C


def available_implementations(device_type: str = "cpu") -> list[str]:
    """Return the implementations usable for panoramas on a kind of device, the fastest first."""
    names = ["reference"]
    if _extension() is not None:
        compiled = "cuda" if device_type == "cuda" else "cpp"
        key = "CUDA" if device_type == "cuda" else "CPU"
        if device_type in ("cpu", "cuda") and torch._C._dispatch_has_kernel_for_dispatch_key(
            "cora::sample_pyramid", key
        ):
            names.insert(0, compiled)
    return names


def _sampler(impl: str, device_type: str) -> Sampler:
    known = get_args(Implementation)
    if impl not in known:
        raise KernelUnavailable(f"erp_to_views has no implementation '{impl}'; known: {', '.join(known)}")
    requested = os.environ.get(IMPL_VARIABLE) or "auto" if impl == "auto" else impl
    chosen, reason = _choose(requested, device_type)
    _log_choice(device_type, chosen, reason)
    if chosen == "reference":
        return reference.sample_pyramid
    return torch.ops.cora.sample_pyramid  # type: ignore[no-any-return]  # registered by cora._C


@lru_cache(maxsize=32)
def _choose(requested: str, device_type: str) -> tuple[str, str]:
    available = available_implementations(device_type)
    if requested == "auto":
        reason = "the fastest one here" if available[0] != "reference" else "cora._C is not built for this device"
        return available[0], reason
    if requested not in available:
        raise KernelUnavailable(
            f"erp_to_views: implementation '{requested}' is not available for panoramas on {device_type} "
            f"(available: {', '.join(available)}); build the extension with `pip install --no-build-isolation -e .`"
            f"{' with a CUDA build of torch and nvcc' if requested == 'cuda' else ''}, or use impl='auto'"
        )
    return requested, "asked for"


@lru_cache(maxsize=32)
def _log_choice(device_type: str, chosen: str, reason: str) -> None:
    logger.info("erp_to_views on %s uses '%s': %s", device_type, chosen, reason)
