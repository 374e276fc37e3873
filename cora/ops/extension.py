"""The compiled extension `cora._C`: whether it is there, why not, and which kernels it has."""

from __future__ import annotations

import importlib
import logging
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["extension_problem", "has_kernel"]

DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def extension_problem() -> str | None:
    """Load the extension; return None when its operations are registered, or why they are not."""
    try:
        importlib.import_module("cora._C")
    except ModuleNotFoundError:
        return "the extension cora._C is not built"
    except ImportError as error:
        # It exists but was built against another torch or processor: worth a warning, not silence.
        logger.warning("the extension cora._C cannot be loaded: %s", error)
        return f"the extension cora._C cannot be loaded ({error})"
    torch.library.register_fake("cora::sample_views", _sample_views_fake)
    torch.library.register_fake("cora::halve", _halve_fake)
    return None


def has_kernel(operation: str, device_type: str) -> bool:
    """Return whether the extension implements ``cora::<operation>`` for tensors on a kind of device."""
    if device_type not in DISPATCH_KEYS or extension_problem() is not None:
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"cora::{operation}", DISPATCH_KEYS[device_type]))


def _sample_views_fake(
    panoramas: Tensor,
    taps: Tensor,
    weights: Tensor,
    shifts: list[int],
    scale: list[float],
    offset: list[float],
    out: Tensor,
) -> None:
    """Write nothing: the result is an argument."""


def _halve_fake(panoramas: Tensor, first_row: int, last_row: int) -> Tensor:
    batch, height, width, channels = panoramas.shape
    return panoramas.new_empty(batch, height // 2, width // 2, channels)
