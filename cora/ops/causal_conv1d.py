"""The causal depthwise convolution of the Mamba block: signature, checks, dispatch, and the operation for torch.

Shapes: B batch, L positions, G directions, E channels, W weights of a channel. The operation is
``cora::causal_conv1d``; the arithmetic is in `cora.ops.reference.causal_conv1d`, in the extension `cora._C` and in
`cora.triton_kernels`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cora.ops.dispatch import Implementation, choose_face
from cora.ops.reference import causal_conv1d as reference

__all__ = ["Activation", "causal_conv1d"]

Activation = Literal["silu", "none"]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNEL_WIDTHS = (2, 3, 4)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "silu",
    reverse: bool = False,
    impl: Implementation = "auto",
) -> Tensor:
    """Return y as x: y_t = activation(bias + sum over w of weight[w] x_{t - (W - 1) + w}), x being 0 beyond its ends.

    The computation is in float32, in float64 where x is.

    Args:
        x: Input, float[B, L, E], or float[B, L, 2, E] for both directions in one call: the second one runs from the
            last position to the first.
        weight: float[E, W], or float[2, E, W]. The kernels take widths 2 to 4, the reference any.
        bias: float[E], or float[2, E], or None.
        activation: ``silu`` or ``none``.
        reverse: Whether x_{t + (W - 1) - w} stands in the sum instead: what is later decides. Not with two directions.
        impl: ``reference``, ``cpp``, ``cuda``, ``triton``, or ``auto`` for the fastest one that is there.

    Raises:
        ValueError: Shapes do not fit each other.
        KernelUnavailable: The implementation asked for is not there, or cannot take these inputs.
    """
    _check(x, weight, bias, activation, reverse)
    if x.ndim == 4:
        return _convolve(x, weight, bias, activation == "silu", [False, True], impl)
    bias = None if bias is None else bias[None]
    return _convolve(x[:, :, None], weight[None], bias, activation == "silu", [reverse], impl)[:, :, 0]


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, reverse: bool) -> None:
    if x.ndim not in (3, 4) or not x.is_floating_point() or x.shape[1] == 0 or (x.ndim == 4 and x.shape[2] != 2):
        raise ValueError(f"x must be float[B, L, E] or float[B, L, 2, E] with L >= 1, got {x.dtype} {list(x.shape)}")
    channels = tuple(x.shape[2:])
    if weight.ndim != x.ndim - 1 or weight.shape[:-1] != channels or weight.shape[-1] == 0:
        raise ValueError(f"weight must be float{[*channels, 'W']}, got {list(weight.shape)}".replace("'", ""))
    if bias is not None and tuple(bias.shape) != channels:
        raise ValueError(f"bias must be float{list(channels)}, got {list(bias.shape)}")
    if activation not in get_args(Activation):
        raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, got {activation!r}")
    if reverse and x.ndim == 4:
        raise ValueError("reverse does not go with two directions: the second one is the reversed one")


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: list[bool], impl: Implementation
) -> Tensor:
    face = _choose(impl, x.device.type, x.dtype, weight.shape[-1])
    if face == "reference":
        return reference.causal_conv1d(x, weight, bias, silu, reverse)
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        x = x.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    y: Tensor = torch.ops.cora.causal_conv1d(x, weight.float().contiguous(), bias, silu, reverse, face)
    return y


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _choose(impl: str, device_type: str, dtype: torch.dtype, width: int) -> str:
    refusal = None
    if dtype not in KERNEL_DTYPES:
        refusal = "its kernels take float32, bfloat16 and float16"
    elif width not in KERNEL_WIDTHS:
        refusal = f"its kernels take 2 to 4 weights a channel, not {width}"
    return choose_face("causal_conv1d", impl, device_type, kernel="causal_conv1d_forward", refusal=refusal)


@lru_cache(maxsize=4)
def _kernels(face: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if face == "triton":
        kernels = importlib.import_module("cora.triton_kernels.causal_conv1d")
        return kernels.forward, kernels.backward
    return torch.ops.cora.causal_conv1d_forward, torch.ops.cora.causal_conv1d_backward


@torch.library.custom_op("cora::causal_conv1d", mutates_args=())
def _operation(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: list[bool], face: str) -> Tensor:
    forward, _ = _kernels(face)
    y: Tensor = forward(x, weight, bias, silu, [int(each) for each in reverse])
    return y


@torch.library.custom_op("cora::causal_conv1d_adjoint", mutates_args=())
def _adjoint(
    y_grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: list[bool], face: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias."""
    if y_grad.shape[-1] > 1 and y_grad.stride(-1) != 1:
        y_grad = y_grad.contiguous()
    _, backward = _kernels(face)
    x_grad, weight_grad, bias_grad = backward(y_grad, x, weight, bias, silu, [int(each) for each in reverse])
    return x_grad, weight_grad.sum(0), bias_grad.sum(0)


@_operation.register_fake
def _fake(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


@_adjoint.register_fake
def _adjoint_fake(y_grad: Tensor, x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:-1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.silu, ctx.reverse, ctx.face = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    gradients = torch.ops.cora.causal_conv1d_adjoint(y_grad, x, weight, bias, ctx.silu, ctx.reverse, ctx.face)
    x_grad, weight_grad, bias_grad = gradients
    return x_grad, weight_grad, bias_grad if bias is not None else None, None, None, None


_operation.register_autograd(_backward, setup_context=_setup_context)
