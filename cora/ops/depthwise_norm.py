"""Depthwise convolution and LayerNorm of a grid of tokens: signature, checks, dispatch, and the operation for torch.

Shapes: N views, H rows, W columns, C channels, K x K weights of a channel. The operation is ``cora::depthwise_norm``;
the arithmetic is in `cora.ops.reference.depthwise_norm`, in the extension `cora._C` and in `cora.triton_kernels`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cora.ops.dispatch import Implementation, choose_face
from cora.ops.reference import depthwise_norm as reference

__all__ = ["depthwise_norm"]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNEL_SIZES = (3, 5, 7)


def depthwise_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-6,
    impl: Implementation = "auto",
) -> Tensor:
    """Return y as x: each channel convolved by weights of its own, then each token normalised over its channels.

    The values between the two steps never leave the cache, and tokens stay as a transformer has them, channels last.
    The computation is in float32, in float64 where x is.

    Args:
        x: Tokens, float[N, H, W, C], taken as 0 beyond the borders.
        weight: float[C, K, K], K odd. The kernels take 3, 5 and 7, the reference any.
        bias: float[C], or None.
        norm_weight: Scale of the norm, float[C].
        norm_bias: Shift of the norm, float[C].
        eps: Added to the variance, above 0.
        impl: ``reference``, ``cpp``, ``cuda``, ``triton``, or ``auto`` for the fastest one that is there.

    Raises:
        ValueError: Shapes do not fit each other.
        KernelUnavailable: The implementation asked for is not there, or cannot take these inputs.
    """
    _check(x, weight, bias, norm_weight, norm_bias)
    face = _choose(impl, x.device.type, x.dtype, weight.shape[-1])
    if face == "reference":
        return reference.depthwise_norm(x, weight, bias, norm_weight, norm_bias, eps)
    bias, *others = (
        None if each is None else each.float().contiguous() for each in (bias, weight, norm_weight, norm_bias)
    )
    tensors = [each for each in (x, *others, bias) if each is not None]
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    weight, norm_weight, norm_bias = others  # type: ignore[assignment]
    y, _, _ = torch.ops.cora.depthwise_norm(_side_by_side(x), weight, bias, norm_weight, norm_bias, eps, keep, face)
    result: Tensor = y
    return result


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, norm_weight: Tensor, norm_bias: Tensor) -> None:
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(f"x must be float[N, H, W, C] with H, W, C >= 1, got {x.dtype} {list(x.shape)}")
    channels = x.shape[-1]
    sides = tuple(weight.shape[1:])
    if weight.ndim != 3 or weight.shape[0] != channels or sides[0] != sides[1] or sides[0] % 2 == 0:
        raise ValueError(f"weight must be float[{channels}, K, K] with an odd K, got {list(weight.shape)}")
    vectors = {"bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias}
    for name, tensor in vectors.items():
        if tensor is not None and tuple(tensor.shape) != (channels,):
            raise ValueError(f"{name} must be float[{channels}], got {list(tensor.shape)}")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _choose(impl: str, device_type: str, dtype: torch.dtype, size: int) -> str:
    refusal = None
    if dtype not in KERNEL_DTYPES:
        refusal = "its kernels take float32, bfloat16 and float16"
    elif size not in KERNEL_SIZES:
        refusal = f"its kernels take 3, 5 or 7 weights a side, not {size}"
    return choose_face("depthwise_norm", impl, device_type, kernel="depthwise_norm_forward", refusal=refusal)


def _side_by_side(tokens: Tensor) -> Tensor:
    """Return tokens [.., C] whose channels lie side by side, copied only where they do not."""
    return tokens if tokens.shape[-1] == 1 or tokens.stride(-1) == 1 else tokens.contiguous()


@lru_cache(maxsize=4)
def _kernels(face: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if face == "triton":
        kernels = importlib.import_module("cora.triton_kernels.depthwise_norm")
        return kernels.forward, kernels.backward
    return torch.ops.cora.depthwise_norm_forward, torch.ops.cora.depthwise_norm_backward


@torch.library.custom_op("cora::depthwise_norm", mutates_args=())
def _operation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    keep: bool,
    face: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y; then the normalised tokens and the factor of each, empty unless they are to be kept."""
    forward, _ = _kernels(face)
    y, normal, factors = forward(x, weight, bias, norm_weight, norm_bias, eps, keep)
    return y, normal, factors


@torch.library.custom_op("cora::depthwise_norm_adjoint", mutates_args=())
def _adjoint(
    y_grad: Tensor, x: Tensor, weight: Tensor, norm_weight: Tensor, normal: Tensor, factors: Tensor, face: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight, bias, norm_weight and norm_bias."""
    _, backward = _kernels(face)
    x_grad, *partial_sums = backward(_side_by_side(y_grad), x, weight, norm_weight, normal, factors)
    weight_grad, bias_grad, norm_weight_grad, norm_bias_grad = (each.sum(0) for each in partial_sums)
    return x_grad, weight_grad, bias_grad, norm_weight_grad, norm_bias_grad


@_operation.register_fake
def _fake(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, keep, _ = others
    views, *sizes = x.shape
    kept = views if keep else 0
    return x.new_empty(x.shape), x.new_empty(kept, *sizes), weight.new_empty(kept, *sizes[:2])


@_adjoint.register_fake
def _adjoint_fake(y_grad: Tensor, x: Tensor, weight: Tensor, norm_weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return tuple(each.new_empty(each.shape) for each in (x, weight, norm_weight, norm_weight, norm_weight))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, norm_weight, _, _, _, ctx.face = inputs
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, norm_weight, *output[1:])


def _backward(ctx: Any, y_grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if y_grad is None:
        return (None,) * 8
    gradients = torch.ops.cora.depthwise_norm_adjoint(y_grad, *ctx.saved_tensors, ctx.face)
    x_grad, weight_grad, bias_grad, norm_weight_grad, norm_bias_grad = gradients
    return x_grad, weight_grad, bias_grad if ctx.has_bias else None, norm_weight_grad, norm_bias_grad, None, None, None


_operation.register_autograd(_backward, setup_context=_setup_context)
