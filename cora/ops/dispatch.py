"""Which implementation of an operation runs: the one asked for, the environment's, or the fastest there is."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal, get_args

from cora.errors import KernelUnavailable
from cora.ops.extension import extension_problem, has_kernel

__all__ = ["IMPL_VARIABLE", "Face", "Implementation", "available_faces", "choose_face"]

Face = Literal["reference", "cpp", "cuda", "triton"]
Implementation = Literal["auto", "reference", "cpp", "cuda", "triton"]

IMPL_VARIABLE = "CORA_OP_IMPL"

logger = logging.getLogger(__name__)


def available_faces(kernel: str, device_type: str) -> list[Face]:
    """Return the implementations of an operation on a kind of device, the fastest first.

    Args:
        kernel: Name of the extension's operation ``cora::<kernel>`` that does the work.
        device_type: As in ``tensor.device.type``.
    """
    available: list[Face] = []
    if has_kernel(kernel, device_type):
        available.append("cuda" if device_type == "cuda" else "cpp")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if find_spec("triton") is not None and device_type == "cuda":
        available.append("triton")
    available.append("reference")
    if find_spec("triton") is not None and interpreted and device_type == "cpu":
        # For looking into a kernel; never what auto means.
        available.append("triton")
    return available


def choose_face(
    operation: str,
    impl: str,
    device_type: str,
    *,
    kernel: str,
    refusal: str | None = None,
) -> Face:
    """Return the implementation to use; what ``auto`` chooses is logged once a process.

    Args:
        operation: Its name in messages.
        impl: One of `Implementation`; the environment variable ``CORA_OP_IMPL`` decides what ``auto`` means.
        device_type: Where the inputs are.
        kernel: As in `available_faces`.
        refusal: Why only the reference can take these inputs, or None.

    Raises:
        KernelUnavailable: The implementation asked for is unknown, not there, or cannot take the inputs.
    """
    known = get_args(Implementation)
    requested = os.environ.get(IMPL_VARIABLE) or impl if impl == "auto" else impl
    if requested not in known:
        raise KernelUnavailable(f"{operation} has no implementation '{requested}'; known: {', '.join(known)}")
    available: list[Face] = ["reference"] if refusal else available_faces(kernel, device_type)
    for face in available:
        if requested == face:
            return face
    if requested == "auto":
        _log_choice(operation, device_type, available[0], refusal)
        return available[0]
    missing = refusal or extension_problem() or f"it has no {requested} kernel"
    raise KernelUnavailable(
        f"{operation}: implementation '{requested}' cannot take these inputs on {device_type}: {missing}; available: "
        f"{', '.join(available)}. The kernels are built by `pip install --no-build-isolation .` in the source tree, "
        "those for CUDA where torch has CUDA and nvcc is found; triton needs the package triton and a GPU"
    )


@lru_cache(maxsize=64)
def _log_choice(operation: str, device_type: str, chosen: Face, objection: str | None) -> None:
    """Log what ``auto`` chose, once a process: the cache swallows repetitions."""
    if chosen != "reference":
        reason = "the fastest there is"
    else:
        reason = objection or extension_problem() or "no kernel for this device"
    logger.info("%s on %s: implementation '%s' (%s)", operation, device_type, chosen, reason)
