"""The selective scan of Mamba: signature, checks and dispatch.

Shapes: B batch, D channels, L positions, N states.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from cora.errors import KernelUnavailable
from cora.ops.reference.selective_scan import selective_scan_reference

__all__ = ["selective_scan"]

Implementation = Literal["auto", "reference"]


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
    impl: Implementation = "auto",
) -> Tensor:
    """Return y float[B, D, L]: h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = (C_t h_t + D u_t) silu(z_t).

    Args:
        u: Input, float[B, D, L].
        delta: Step sizes before bias and softplus, float[B, D, L].
        A: State transition, negative, float[D, N].
        B: Input weights, float[B, N, L].
        C: Output weights, float[B, N, L].
        D: Skip weights, float[D], or None for no skip.
        z: Gate, float[B, D, L], or None for no gate.
        delta_bias: Added to the step sizes, float[D].
        delta_softplus: Whether softplus makes the step sizes positive.
        impl: ``auto`` takes the fastest one available.

    Raises:
        ValueError: Shapes do not fit each other.
        KernelUnavailable: `impl` names an implementation that does not exist here.
    """
    _check_shapes(u, delta, A, B, C, {"D": D, "delta_bias": delta_bias}, z)
    if impl not in ("auto", "reference"):
        raise KernelUnavailable(f"selective_scan has no implementation '{impl}'; there is: auto, reference")
    return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def _check_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, per_channel: dict[str, Tensor | None], z: Tensor | None
) -> None:
    if u.ndim != 3 or u.shape[2] == 0:
        raise ValueError(f"u must be float[B, D, L] with L >= 1, got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.ndim != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be float[{channels}, N], got {tuple(A.shape)}")
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "delta": (delta, (batch, channels, length)),
        "B": (B, (batch, A.shape[1], length)),
        "C": (C, (batch, A.shape[1], length)),
        "z": (z, (batch, channels, length)),
        **{name: (tensor, (channels,)) for name, tensor in per_channel.items()},
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be float{list(shape)}, got {list(tensor.shape)}")
