"""Other ways to run a selective scan and its convolution, each given what suits it.

All take u and the step sizes (after softplus) [B, L, E], A [E, K], B and C [B, L, K], D [E].
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.ops.selective_scan import selective_scan

__all__ = ["convolve_by_torch", "make_scan_peers"]

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def make_scan_peers() -> dict[str, Scan]:
    """Return the peers that are installed: ``slow``, ``loop`` and ``pscan``."""
    peers: dict[str, Scan] = {"slow": _slow, "loop": _loop}
    if find_spec("mambapy") is not None:
        peers["pscan"] = _pscan
    return peers


def _loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """One position after the other, and nothing larger than the state in memory: our reference."""
    return selective_scan(u, delta, A, B, C, D, layout="bld", impl="reference")


def _slow(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The way of transformers' Mamba without its kernels: everything that does not depend on the state, then a loop."""
    decays = torch.exp(A[None, :, None] * delta.transpose(1, 2)[..., None])
    drives = (delta * u).transpose(1, 2)[..., None] * B[:, None]
    state = decays.new_zeros(decays[:, :, 0].shape)
    outputs = []
    for position in range(u.shape[1]):
        state = decays[:, :, position] * state + drives[:, :, position]
        outputs.append(torch.matmul(state, C[:, position, :, None])[..., 0])
    return torch.stack(outputs, dim=1) + u * D


def _pscan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The parallel scan of mambapy, which training in plain torch uses."""
    from mambapy.pscan import pscan

    decays = torch.exp(delta[..., None] * A)
    states = pscan(decays, (delta * u)[..., None] * B[:, :, None])
    outputs: Tensor = (states @ C[..., None])[..., 0] + u * D
    return outputs


def convolve_by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the causal depthwise convolution and SiLU of x [B, E, L], the layout that torch's convolution wants."""
    width = weight.shape[1]
    return F.silu(F.conv1d(x, weight[:, None], bias, padding=width - 1, groups=len(weight))[..., : x.shape[2]])
