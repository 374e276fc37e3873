"""The selective scan of Mamba, in one direction or in two: signature, checks, dispatch, and the operation for torch.

Shapes: B batch, L positions, G directions, E channels, K states. The operation is ``cora::selective_scan``; the
arithmetic is in `cora.ops.reference.selective_scan`, in the extension `cora._C` and in `cora.triton_kernels`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from cora.ops.dispatch import Implementation, choose_face
from cora.ops.reference import selective_scan as reference

__all__ = ["Layout", "bidirectional_scan", "selective_scan"]

Layout = Literal["bdl", "bld"]

# The states that the forward scan keeps are before every so many positions, in blocks of so many channels.
KEPT_STATES = {"cpp": (32, 128), "cuda": (32, 1), "triton": (16, 1)}

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_STATES = {"cuda": 64}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = False,
    layout: Layout = "bdl",
    reverse: bool = False,
    impl: Implementation = "auto",
) -> Tensor:
    """Return y as u: h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = (C_t h_t + D u_t) silu(z_t).

    The computation is in float32, in float64 where u is. The kernels read channels that lie side by side: the layout
    ``bld`` is copied nowhere, ``bdl`` is.

    Args:
        u: Input, float[B, E, L], or float[B, L, E] in the layout ``bld``.
        delta: Step sizes before bias and softplus, as u.
        A: State transition, negative, float[E, K].
        B: Input weights, float[B, K, L], or float[B, L, K].
        C: Output weights, as B.
        D: Skip weights, float[E], or None for no skip.
        z: Gate, as u, or None for no gate.
        delta_bias: Added to the step sizes, float[E].
        delta_softplus: Whether softplus makes the step sizes positive.
        layout: ``bdl`` as in the Mamba papers' code, or ``bld``.
        reverse: Whether the scan runs from the last position to the first.
        impl: ``reference``, ``cpp``, ``cuda``, ``triton``, or ``auto`` for the fastest one that is there.

    Raises:
        ValueError: Shapes do not fit each other.
        KernelUnavailable: The implementation asked for is not there, or cannot take these inputs.
    """
    if layout not in ("bdl", "bld"):
        raise ValueError(f"layout must be 'bdl' or 'bld', got {layout!r}")
    _check(u, delta, A, B, C, D, z, delta_bias, layout, ())
    sequences = [_turn(each, layout) for each in (u, delta, B, C, z)]
    u, delta, B, C, z = (None if each is None else each[:, :, None] for each in sequences)  # type: ignore[assignment]
    A, D, delta_bias = (None if each is None else each[None] for each in (A, D, delta_bias))  # type: ignore[assignment]
    y = _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, [reverse], impl)[:, :, 0]
    return y.transpose(1, 2) if layout == "bdl" else y


def bidirectional_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = False,
    impl: Implementation = "auto",
) -> Tensor:
    """Return y[B, L, 2, E]: a scan from the first position to the last, and another one the other way, in one call.

    Any of u, delta, z, B and C may be without its axis of directions: both then share it, and u, delta and z are not
    copied.

    Args:
        u: Input, float[B, L, 2, E].
        delta: Step sizes before bias and softplus, as u.
        A: State transition, negative, float[2, E, K].
        B: Input weights, float[B, L, 2, K].
        C: Output weights, as B.
        D: Skip weights, float[2, E], or None for no skip.
        z: Gate, as u, or None for no gate.
        delta_bias: Added to the step sizes, float[2, E].
        delta_softplus: Whether softplus makes the step sizes positive.
        impl: As in `selective_scan`.

    Raises:
        ValueError: Shapes do not fit each other.
        KernelUnavailable: The implementation asked for is not there, or cannot take these inputs.
    """
    sequences = [
        each[:, :, None].expand(-1, -1, 2, -1) if each is not None and each.ndim == 3 else each
        for each in (u, delta, B, C, z)
    ]
    u, delta, B, C, z = sequences  # type: ignore[assignment]
    _check(u, delta, A, B, C, D, z, delta_bias, "bld", (2,))
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, [False, True], impl)


def _turn(sequence: Tensor | None, layout: Layout) -> Tensor | None:
    return sequence.transpose(1, 2) if sequence is not None and layout == "bdl" else sequence


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    layout: Layout,
    ways: tuple[int, ...],
) -> None:
    """Check shapes; `ways` is the axis of directions, where there is one."""
    names = ["B", *(("E", "L") if layout == "bdl" else ("L", *map(str, ways), "E"))]
    position = 2 if layout == "bdl" else 1
    is_right = u.ndim == len(names) and u.is_floating_point() and u.shape[position] > 0 and u.shape[2:-1] == ways
    if not is_right:
        raise ValueError(f"u must be float[{', '.join(names)}] with L >= 1, got {u.dtype} {list(u.shape)}")
    channels = u.shape[1] if layout == "bdl" else u.shape[-1]
    if A.ndim != 2 + len(ways) or A.shape[:-1] != (*ways, channels):
        raise ValueError(f"A must be float{[*ways, channels, 'K']}, got {list(A.shape)}".replace("'", ""))
    states = A.shape[-1]
    weights = (u.shape[0], states, u.shape[2]) if layout == "bdl" else (*u.shape[:-1], states)
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "delta": (delta, tuple(u.shape)),
        "B": (B, weights),
        "C": (C, weights),
        "z": (z, tuple(u.shape)),
        "D": (D, (*ways, channels)),
        "delta_bias": (delta_bias, (*ways, channels)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be float{list(shape)}, got {list(tensor.shape)}")


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: Sequence[bool],
    impl: Implementation,
) -> Tensor:
    face = _choose(impl, u.device.type, u.dtype, A.shape[-1])
    if face == "reference":
        return reference.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    weights = [None if each is None else each.float().contiguous() for each in (A, B, C, D, delta_bias)]
    A, B, C, D, delta_bias = weights  # type: ignore[assignment]
    u, delta, z = (None if each is None else _side_by_side(each.to(u.dtype)) for each in (u, delta, z))  # type: ignore[assignment]
    tensors = [each for each in (u, delta, A, B, C, D, z, delta_bias) if each is not None]
    keep_states = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    y, _ = torch.ops.cora.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, list(reverse), keep_states, face
    )
    result: Tensor = y
    return result


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _choose(impl: str, device_type: str, dtype: torch.dtype, states: int) -> str:
    refusal = None if dtype in KERNEL_DTYPES else "its kernels take float32, bfloat16 and float16"
    if states > (most := MOST_STATES.get(device_type, states)):
        refusal = f"its kernels for {device_type} take up to {most} states a channel, not {states}"
    return choose_face("selective_scan", impl, device_type, kernel="selective_scan_forward", refusal=refusal)


def _side_by_side(sequence: Tensor) -> Tensor:
    """Return a sequence [.., E] whose channels lie side by side, copied only where they do not."""
    return sequence if sequence.shape[-1] == 1 or sequence.stride(-1) == 1 else sequence.contiguous()


@lru_cache(maxsize=4)
def _kernels(face: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if face == "triton":
        kernels = importlib.import_module("cora.triton_kernels.selective_scan")
        return kernels.forward, kernels.backward
    return torch.ops.cora.selective_scan_forward, torch.ops.cora.selective_scan_backward


@torch.library.custom_op("cora::selective_scan", mutates_args=())
def _operation(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: list[bool],
    keep_states: bool,
    face: str,
) -> tuple[Tensor, Tensor]:
    """Return y, and what the backward scan needs of the states (empty unless it is to be kept)."""
    forward, _ = _kernels(face)
    ways = [int(each) for each in reverse]
    y, states = forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, ways, keep_states)
    return y, states


@torch.library.custom_op("cora::selective_scan_adjoint", mutates_args=())
def _adjoint(
    y_grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: list[bool],
    states: Tensor,
    face: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, delta, A, B, C, D, z and delta_bias; empty for what was left out."""
    _, backward = _kernels(face)
    ways = [int(each) for each in reverse]
    u_grad, delta_grad, z_grad, *partial_sums = backward(
        _side_by_side(y_grad), u, delta, A, B, C, D, z, delta_bias, delta_softplus, ways, states
    )
    A_grad, D_grad, bias_grad, B_grad, C_grad = (each.sum(0) for each in partial_sums)
    D_grad, bias_grad = (
        D_grad if D is not None else A.new_empty(0),
        bias_grad if delta_bias is not None else A.new_empty(0),
    )
    return u_grad, delta_grad, A_grad, B_grad, C_grad, D_grad, z_grad, bias_grad


@_operation.register_fake
def _fake(u: Tensor, delta: Tensor, A: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *_, keep_states, face = others
    batch, length, directions, channels = u.shape
    positions_per_chunk, channels_per_block = KEPT_STATES[face]
    chunks, blocks = -(-length // positions_per_chunk), -(-channels // channels_per_block)
    rows = batch * directions * blocks * chunks if keep_states else 0
    return u.new_empty(u.shape), A.new_empty(rows, channels_per_block * A.shape[-1])


@_adjoint.register_fake
def _adjoint_fake(y_grad: Tensor, u: Tensor, delta: Tensor, A: Tensor, *others: Any) -> tuple[Tensor, ...]:
    B, C, D, z, delta_bias, *_ = others
    pairs = [(each, each) for each in (u, delta, A, B, C)] + [(D, A), (z, u), (delta_bias, A)]
    return tuple(like.new_empty(0 if each is None else each.shape) for each, like in pairs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.reverse, _, ctx.face = inputs
    ctx.is_given = [each is not None for each in tensors]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(each for each in tensors if each is not None), output[1])


def _backward(ctx: Any, y_grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if y_grad is None:
        return (None,) * 12
    *given, states = ctx.saved_tensors
    remaining = iter(given)
    tensors = [next(remaining) if is_given else None for is_given in ctx.is_given]
    gradients = torch.ops.cora.selective_scan_adjoint(
        y_grad, *tensors, ctx.delta_softplus, ctx.reverse, states, ctx.face
    )
    kept = (gradient if is_given else None for gradient, is_given in zip(gradients, ctx.is_given, strict=True))
    return *kept, *[None] * 4


_operation.register_autograd(_backward, setup_context=_setup_context)
