"""The state of the random generators of a process, as tensors and plain values."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch

__all__ = ["restore_rng", "rng_state"]

logger = logging.getLogger(__name__)


def rng_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators, those of GPUs included."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Set the generators to what `rng_state` returned; those of GPUs only where there are as many."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(state["cuda"]) == num_devices:
        torch.cuda.set_rng_state_all(state["cuda"])
    else:
        logger.info(
            "random numbers on the GPU start anew: the checkpoint knows %d devices, there are %d",
            len(state["cuda"]),
            num_devices,
        )
