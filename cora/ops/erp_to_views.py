"""Views of an equirectangular panorama: signature, checks and choice of implementation.

The arithmetic is in `cora.ops.reference.erp_to_views` (plain torch, any device) and in the extension `cora._C`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Literal, get_args

import torch
from torch import Tensor

from cora.errors import GeometryError, KernelUnavailable
from cora.geometry.camera import check_view, content_box
from cora.ops.extension import extension_problem, has_kernel
from cora.ops.reference import erp_to_views as reference
from cora.ops.view_plan import GatherPlan, gather_plan, is_separable, separable_filter
from cora.types import ViewSpec

__all__ = ["IMPL_VARIABLE", "Implementation", "available_implementations", "erp_to_views"]

Implementation = Literal["auto", "reference", "cpp", "cuda"]

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
    compiled = _is_compiled(impl, panorama.device.type)
    batch = panorama if panorama.dim() == 4 else panorama[None]
    shape = (len(batch), len(views), 3, *size)
    pictures = torch.empty(shape, dtype=torch.float32, device=panorama.device)
    normalisation = _Normalisation.of(mean, std)
    # A caller's autocast must not round pixels: training and serving would then see different views.
    with torch.autocast(panorama.device.type, enabled=False):
        for each, out in zip(batch, pictures, strict=True):
            _render(each.contiguous(), views, antialias, normalisation, compiled, out)
    result = pictures.to(dtype)
    return result if panorama.dim() == 4 else result[0]


@dataclass(frozen=True)
class _Normalisation:
    """value * scale + offset, per channel, for values in 0 .. 255."""

    scale: list[float]
    offset: list[float]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> _Normalisation:
        return cls([1 / (255 * each) for each in std], [-m / s for m, s in zip(mean, std, strict=True)])


class _Levels:
    """The panorama and its halves, each made when it is first asked for."""

    def __init__(self, panorama: Tensor, compiled: bool) -> None:
        self._levels = [panorama]
        self._compiled = compiled and panorama.device.type == "cpu"

    def __getitem__(self, level: int) -> Tensor:
        while len(self._levels) <= level:
            last = self._levels[-1]
            # The kernel knows even sides; odd ones slide their weights along the axis, and are rare.
            fits = self._compiled and last.shape[0] % 2 == last.shape[1] % 2 == 0
            self._levels.append(torch.ops.cora.halve(last) if fits else reference.halve(last))
        return self._levels[level]


def _render(
    panorama: Tensor,
    views: Sequence[ViewSpec],
    antialias: bool,
    normalisation: _Normalisation,
    compiled: bool,
    out: Tensor,
) -> None:
    """Write the views of one panorama uint8[H, W, 3] to float32[V, 3, h, w]."""
    size = {"panorama_height": panorama.shape[0], "panorama_width": panorama.shape[1]}
    levels = _Levels(panorama, compiled)
    scale, offset = normalisation.scale, normalisation.offset
    black = torch.tensor(offset, device=panorama.device).view(3, 1, 1)
    gathered: list[tuple[GatherPlan, int, int]] = []
    for number, view in enumerate(views):
        top, left, height, width = box = content_box(view, *out.shape[-2:])
        is_full = box[2:] == tuple(out.shape[-2:])
        if not is_full:
            out[number] = black
        target = out[number, :, top : top + height, left : left + width]
        if is_separable(view, antialias):
            filters = separable_filter(view, height, width, **size)
            picture = reference.filter_separable(levels[filters.level], filters)
            factor = torch.tensor(scale, device=panorama.device).view(3, 1, 1)
            target.copy_(torch.addcmul(black, picture, factor))
            continue
        plan, shift = gather_plan(view, height, width, **size, antialias=antialias)
        if is_full:
            gathered.append((plan, shift, number))
            continue
        picture = out.new_empty(1, 3, height, width)
        _sample(levels[plan.level], plan, [shift], normalisation, compiled, picture)
        target.copy_(picture[0])
    for plan, run in groupby(gathered, key=itemgetter(0)):
        # Neighbours in the list that share a plan, as the views of a ring do, are one call.
        _, shifts, numbers = zip(*run, strict=True)
        for first, last in _runs(numbers):
            part = [shift for shift, number in zip(shifts, numbers, strict=True) if first <= number <= last]
            _sample(levels[plan.level], plan, part, normalisation, compiled, out[first : last + 1])


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, last) of each stretch of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _sample(
    level: Tensor, plan: GatherPlan, shifts: list[int], normalisation: _Normalisation, compiled: bool, out: Tensor
) -> None:
    scale, offset = normalisation.scale, normalisation.offset
    if compiled:
        taps, weights = plan.taps.to(level.device), plan.weights.to(level.device)
        torch.ops.cora.sample_views(level, taps, weights, shifts, scale, offset, out)
    else:
        reference.sample_views(level, plan, shifts, scale, offset, out)


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
    return [compiled, "reference"] if has_kernel("sample_views", device_type) else ["reference"]


def _is_compiled(impl: str, device_type: str) -> bool:
    """Return whether the compiled implementation is to be used; the choice of ``auto`` is logged."""
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
    return chosen != "reference"


@lru_cache(maxsize=8)
def _log_choice(device_type: str, chosen: str) -> None:
    """Log what ``auto`` chose, once a process: the cache swallows repetitions."""
    reason = "the fastest there is" if chosen != "reference" else extension_problem() or "no kernel for this device"
    logger.info("erp_to_views on %s: implementation '%s' (%s)", device_type, chosen, reason)
