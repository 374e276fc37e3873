"""Views of a panorama in plain torch: the meaning of `cora.ops.erp_to_views`, and its adjoint.

Panoramas are uint8, or floating for gradients; the arithmetic of uint8 ones is in float32, of others in their own type.

Shapes: B panoramas of H x W pixels, V views of h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from cora.geometry.sampling import bilinear_indices
from cora.ops.view_plan import ONE, GatherPlan

__all__ = ["halve", "halve_adjoint", "sample_views", "sample_views_adjoint"]


def halve(panoramas: Tensor) -> Tensor:
    """Return panoramas [B, H, W, 3] at half their size, floor(H / 2) x floor(W / 2): area means.

    Those of uint8 are rounded half up.
    """
    if panoramas.is_floating_point():
        return _halve(_halve(panoramas, dim=1), dim=2)
    return halve(panoramas.float()).add_(0.5).floor_().to(torch.uint8)


def halve_adjoint(gradient: Tensor, height: int, width: int) -> Tensor:
    """Return what a gradient of `halve`'s result, float[B, H // 2, W // 2, 3], is for its float argument."""
    return _halve_adjoint(_halve_adjoint(gradient, width, dim=2), height, dim=1)


def _halve(pictures: Tensor, dim: int) -> Tensor:
    """Return the area average to floor(n / 2) elements along `dim`."""
    source = pictures.movedim(dim, -1)
    weights = _axis_weights(source.shape[-1], pictures)
    count = len(weights[0])
    total = sum(weight * source[..., start : start + 2 * count : 2] for start, weight in enumerate(weights))
    return torch.as_tensor(total).movedim(-1, dim).contiguous()


def _halve_adjoint(gradient: Tensor, size: int, dim: int) -> Tensor:
    gradient = gradient.movedim(dim, -1)
    source = gradient.new_zeros(*gradient.shape[:-1], size)
    for start, weight in enumerate(_axis_weights(size, gradient)):
        source[..., start : start + 2 * len(weight) : 2] += weight * gradient
    return source.movedim(-1, dim)


def _axis_weights(size: int, like: Tensor) -> list[Tensor]:
    """Return the weights of elements 2 i, 2 i + 1 and, where size is odd, 2 i + 2 in the area mean i."""
    count = size // 2
    if size % 2 == 0:
        return [like.new_full((count,), 0.5)] * 2
    # Each mean covers 2 + 1 / count elements, with weights that slide along the axis.
    position = torch.arange(count, dtype=like.dtype, device=like.device)
    return [(count - position) / size, torch.full_like(position, count / size), (position + 1) / size]


def sample_views(
    panoramas: Tensor,
    plan: GatherPlan,
    shifts: Sequence[int],
    scale: Sequence[float],
    offset: Sequence[float],
    out: Tensor,
) -> None:
    """Fill pictures of the same shape at several yaws: each pixel the mean of its bilinear samples, normalised.

    Args:
        panoramas: uint8 or floating [B, H, W, 3], the level that the plan is for.
        plan: Taps of a camera at yaw 0.
        shifts: The cameras' yaws, in columns to the right.
        scale: Per channel, what a mean in 0 .. 255 is multiplied by.
        offset: Per channel, what is added then.
        out: floating [B, V, 3, h, w], written to: one picture for each shift.
    """
    kind = panoramas.dtype if panoramas.is_floating_point() else torch.float32
    factor, addend = torch.tensor([scale, offset], dtype=kind, device=panoramas.device).view(2, 3, 1, 1)
    for view, shift in enumerate(shifts):
        indices, weights = _texels_of(plan, shift, panoramas)
        for panorama, pictures in zip(panoramas, out, strict=True):
            texels = panorama.reshape(-1, 3).to(kind)
            pixels = embedding_bag(indices, texels, mode="sum", per_sample_weights=weights)
            pictures[view] = torch.addcmul(addend, pixels.T.reshape(3, plan.height, plan.width), factor)


def sample_views_adjoint(
    gradient: Tensor, plan: GatherPlan, shifts: Sequence[int], scale: Sequence[float], panoramas: Tensor
) -> None:
    """Add to `panoramas`, float[B, H, W, 3], what the gradient float[B, V, 3, h, w] of `sample_views` is there."""
    factor = torch.tensor(scale, dtype=gradient.dtype, device=gradient.device)
    for view, shift in enumerate(shifts):
        indices, weights = _texels_of(plan, shift, panoramas)
        for panorama, pictures in zip(panoramas, gradient, strict=True):
            pixels = pictures[view].flatten(1).T * factor
            shares = weights[..., None] * pixels[:, None]
            panorama.view(-1, 3).index_add_(0, indices.flatten(), shares.flatten(0, 1))


def _texels_of(plan: GatherPlan, shift: int, panoramas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the texels of each pixel, int64[h * w, 4 * samples] into a panorama's pixels, and their weights."""
    _, height, width, _ = panoramas.shape
    taps, weights = plan.taps.to(panoramas.device), plan.weights.to(panoramas.device)
    indices = bilinear_indices((taps & 0xFFFF) + shift, (taps >> 16) - 1, height, width)
    kind = panoramas.dtype if panoramas.is_floating_point() else torch.float32
    return indices.view(-1, 4 * plan.samples), (weights.to(kind) / (ONE * plan.samples)).view(-1, 4 * plan.samples)
