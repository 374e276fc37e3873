"""What a training step takes: the bytes of weights, of what is kept for the backward pass, and what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["autocast", "available_bytes", "measure_saved", "size_of", "to_device"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def size_of(module: nn.Module, *, trained_only: bool = False) -> tuple[int, int]:
    """Return the number of weights of a module, and their bytes; shared ones count once."""
    weights = [item for item in module.parameters() if item.requires_grad or not trained_only]
    return sum(item.numel() for item in weights), sum(item.numel() * item.element_size() for item in weights)


def autocast(precision: str, accelerator: str) -> Any:
    """Return the context in which Lightning would run a step of a precision."""
    dtypes = {"bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16, "16-mixed": torch.float16, "16": torch.float16}
    return torch.autocast(accelerator, dtypes[precision]) if precision in dtypes else nullcontext()


@contextmanager
def measure_saved(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the bytes the forward pass keeps for the backward pass, weights left out."""
    weights = {item.untyped_storage().data_ptr() for item in module.parameters()}
    # Several views of one tensor are kept once, and held on to: memory that is used again is another tensor.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor.detach()  # itself, it would keep its own graph alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in kept.values())


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch with its tensors on a device."""
    return {name: item.to(device) if isinstance(item, Tensor) else item for name, item in batch.items()}


def available_bytes() -> int:
    """Return how much memory processes can still take, by the machine and by the limit of a container."""
    (line,) = [line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:")]
    available = int(line.split()[1]) * 1024
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return min(available, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return available
