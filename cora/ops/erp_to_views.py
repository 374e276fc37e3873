"""Views of an equirectangular panorama: signature, checks, choice of implementation, and the operation for torch.

The operation is ``cora::erp_to_views``; a view travels in it as seven numbers. The arithmetic is in
`cora.ops.reference.erp_to_views` (plain torch, any device), in the extension `cora._C` and in `cora.triton_kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cora.errors import GeometryError
from cora.geometry.camera import check_view
from cora.ops.dispatch import Face, Implementation, available_faces, choose_face
from cora.ops.view_rendering import Normalisation, halve_whole, render, render_adjoint
from cora.types import ViewSpec

__all__ = ["available_implementations", "erp_to_views", "halve_panorama"]

NUMBERS_PER_VIEW = 7


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

    It is linear in the panorama; a floating one, of values in 0 .. 255, may ask for its gradient.

    Args:
        panorama: uint8 or floating [H, W, 3] or [3, H, W], or a batch of them, equirectangular RGB. Floating ones are
            float32 or float64 and take the reference.
        views: What to look at; letterbox bars are black before normalisation.
        size: (height, width) of every view in pixels.
        mean: Three channel means, of values in 0 .. 1.
        std: Three channel standard deviations.
        dtype: Floating dtype of the result; the computation is in float32, or float64 for such a panorama.
        antialias: Average what a view pixel covers (the default), or take one bilinear sample of the panorama.
        impl: ``reference``, ``cpp``, ``cuda``, ``triton``, or ``auto`` for the fastest one that is there. The
            environment variable ``CORA_OP_IMPL`` decides what ``auto`` means.

    Returns:
        float[V, 3, h, w], or float[B, V, 3, h, w] for a batch, on the panorama's device.

    Raises:
        GeometryError: A wrong shape, dtype, size or view.
        KernelUnavailable: The implementation asked for is not there.
    """
    _check(panorama, views, size, mean, std, dtype)
    if panorama.shape[-1] != 3:
        panorama = panorama.movedim(-3, -1)
    batch = panorama if panorama.dim() == 4 else panorama[None]
    numbers = [number for view in views for number in _numbers(view)]
    pictures: Tensor = torch.ops.cora.erp_to_views(
        batch, numbers, list(size), list(mean), list(std), dtype, antialias, impl
    )
    return pictures if panorama.dim() == 4 else pictures[0]


def halve_panorama(panorama: Tensor, times: int) -> Tensor:
    """Return a panorama uint8[H, W, 3] at 1 / 2**times of its size, or as near to it as both sides stay even.

    It is what `erp_to_views` with antialiasing would make of the panorama itself, if its views are that coarse.
    """
    face = _choose("auto", panorama)
    for _ in range(times):
        if panorama.shape[0] % 2 or panorama.shape[1] % 2:
            break
        panorama = halve_whole(panorama[None].contiguous(), face)[0]
    return panorama


@torch.library.custom_op("cora::erp_to_views", mutates_args=())
def _operation(
    panoramas: Tensor,
    views: list[float],
    size: list[int],
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
    antialias: bool,
    impl: str,
) -> Tensor:
    face = _choose(impl, panoramas)
    shape = (len(panoramas), len(views) // NUMBERS_PER_VIEW, 3, *size)
    # The kernels write their result as it is to be; the reference computes in its own type.
    kind = dtype if face != "reference" else torch.promote_types(panoramas.dtype, torch.float32)
    pictures = torch.empty(shape, dtype=kind, device=panoramas.device)
    # A caller's autocast must not round pixels: training and serving would then see different views.
    with torch.autocast(panoramas.device.type, enabled=False):
        render(panoramas.contiguous(), _views(tuple(views)), antialias, Normalisation.of(mean, std), face, pictures)
    return pictures.to(dtype)


@_operation.register_fake
def _fake(
    panoramas: Tensor,
    views: list[float],
    size: list[int],
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
    antialias: bool,
    impl: str,
) -> Tensor:
    return panoramas.new_empty((len(panoramas), len(views) // NUMBERS_PER_VIEW, 3, *size), dtype=dtype)


@torch.library.custom_op("cora::erp_to_views_adjoint", mutates_args=())
def _adjoint(
    gradient: Tensor, views: list[float], size: list[int], std: list[float], dtype: torch.dtype, antialias: bool
) -> Tensor:
    """Return the gradient [B, H, W, 3] of panoramas of a size and dtype."""
    scale = Normalisation.of([0.0] * 3, std).scale
    with torch.autocast(gradient.device.type, enabled=False):
        return render_adjoint(gradient.to(dtype).contiguous(), _views(tuple(views)), antialias, scale, size[0], size[1])


@_adjoint.register_fake
def _adjoint_fake(
    gradient: Tensor, views: list[float], size: list[int], std: list[float], dtype: torch.dtype, antialias: bool
) -> Tensor:
    return gradient.new_empty((len(gradient), *size, 3), dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    panoramas, views, _, _, std, _, antialias, _ = inputs
    ctx.arguments = views, list(panoramas.shape[1:3]), std, panoramas.dtype, antialias


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.cora.erp_to_views_adjoint(gradient, *ctx.arguments), *[None] * 7


_operation.register_autograd(_backward, setup_context=_setup_context)


def _numbers(view: ViewSpec) -> tuple[float, ...]:
    """Return what of a view its picture depends on, as numbers."""
    is_flat, angles = view.projection == "perspective", (view.yaw_deg, view.pitch_deg, view.hfov_deg, view.vfov_deg)
    return float(is_flat), *angles, view.roll_deg, float(view.letterbox)


@lru_cache(maxsize=64)
def _views(numbers: tuple[float, ...]) -> tuple[ViewSpec, ...]:
    views: list[ViewSpec] = []
    for start in range(0, len(numbers), NUMBERS_PER_VIEW):
        is_flat, yaw_deg, pitch_deg, hfov_deg, vfov_deg, roll_deg, letterbox = numbers[start : start + NUMBERS_PER_VIEW]
        view = ViewSpec(
            index=len(views),
            projection="perspective" if is_flat else "equirectangular",
            yaw_deg=yaw_deg,
            pitch_deg=pitch_deg,
            hfov_deg=hfov_deg,
            vfov_deg=vfov_deg,
            roll_deg=roll_deg,
            letterbox=bool(letterbox),
        )
        views.append(view)
    return tuple(views)


def _check(
    panorama: Tensor,
    views: Sequence[ViewSpec],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> None:
    known = panorama.dtype in (torch.uint8, torch.float32, torch.float64)
    if not known or panorama.dim() not in (3, 4) or 3 not in (panorama.shape[-1], panorama.shape[-3]):
        raise GeometryError(
            "a panorama is uint8, float32 or float64 [H, W, 3] or [3, H, W], or a batch of them, "
            f"got {panorama.dtype} {list(panorama.shape)}"
        )
    sides = panorama.shape[-3:-1] if panorama.shape[-1] == 3 else panorama.shape[-2:]
    if min(sides) < 2:
        raise GeometryError(f"a panorama has at least 2 x 2 pixels, got {list(sides)}")
    if not dtype.is_floating_point:
        raise GeometryError(f"the views are floating, got dtype {dtype}")
    if not views:
        raise GeometryError("at least one view is needed")
    if len(size) != 2 or min(size) < 1:
        raise GeometryError(f"the size of a view is (height, width), each at least 1, got {tuple(size)}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise GeometryError(f"mean and std have three channels and std is positive, got {tuple(mean)} and {tuple(std)}")
    for view in views:
        check_view(view)


def available_implementations(device_type: str = "cpu") -> list[Face]:
    """Return the implementations usable for uint8 panoramas on a kind of device, the fastest first."""
    return available_faces("sample_views", device_type)


def _choose(impl: str, panoramas: Tensor) -> Face:
    refusal = "its kernels take uint8 panoramas" if panoramas.is_floating_point() else None
    return choose_face("erp_to_views", impl, panoramas.device.type, kernel="sample_views", refusal=refusal)
