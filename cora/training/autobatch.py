"""How many samples fit into a step: tried out with the longest ones before a stage starts.

On a GPU by running into its limit. On a CPU, where that would end the process, by what the forward pass keeps for each
sample.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cora.config.schema import CORAConfig, StageConfig
from cora.data.datamodule import PanoramaDataModule
from cora.training.memory import autocast, available_bytes, measure_saved, size_of, to_device
from cora.training.module import PanoramaTrainingModule
from cora.training.processes import devices_per_node, gathered

__all__ = ["first_batch_size", "fit_batch_size", "resume_batch_size"]

logger = logging.getLogger(__name__)
# Larger batches make a GPU no faster from somewhere on, a CPU from very early on, and steps become few.
_MOST = {"cuda": 128, "cpu": 16}
# What may be used of the free memory: a batch of another shape leaves gaps on a GPU; a CPU has others to serve.
_USABLE = {"cuda": 0.9, "cpu": 0.5}
# Buffers within a step, on top of what the forward pass keeps.
_TEMPORARY = 1.5
# AdamW keeps two moments of every trained weight.
_MOMENTS = 2
_GIB = 2.0**30


def first_batch_size(stage: StageConfig) -> int:
    """Return the batch size that data is read with, before a stage that chooses its own has chosen."""
    return 1 if stage.batch_size == "auto" else stage.batch_size


def resume_batch_size(data: PanoramaDataModule, stage: StageConfig, place: dict[str, int]) -> None:
    """Let a stage that chooses its own batch size go on with that of its checkpoint, where the devices allow it."""
    if stage.batch_size == "auto":
        sampler = data.sampler
        data.set_batch_size(max(1, place["step_size"] // (sampler.num_replicas * sampler.accumulate)))


def fit_batch_size(
    module: PanoramaTrainingModule, data: PanoramaDataModule, config: CORAConfig, precision: str
) -> None:
    """Set the batch size of a stage whose ``batch_size`` is ``auto``; it is logged with the reason.

    Several processes take the smallest of what each of them finds. Weights and random numbers stay as they are.
    """
    if module.stage.batch_size != "auto":
        return
    device = "cuda" if _uses_cuda(config) else "cpu"
    most = min(_MOST[device], len(data.train_dataset))
    module.to(device)
    with _trials(module, data, precision, device) as needed:
        budget = _budget(config, device)
        found = largest_fitting(needed, budget, most)
    size = min(gathered(found))
    data.set_batch_size(size)
    limit = f"{budget / _GIB:.2f} GiB of memory that may be used"
    if found == most:
        limit = "the training data" if most < _MOST[device] else f"the bound of {most} on a {device.upper()}"
    logger.info("stage %s: batch_size %d, limited by %s; lr stays as it is", module.stage_name, size, limit)


def _uses_cuda(config: CORAConfig) -> bool:
    """Return whether training is on a GPU."""
    return config.training.accelerator != "cpu" and torch.cuda.is_available()


def _budget(config: CORAConfig, device: str) -> int:
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(_USABLE[device] * free)
    return int(_USABLE[device] * available_bytes() / devices_per_node(config, device))


def largest_fitting(needed: Callable[[int], int | None], budget: int, most: int) -> int:
    """Return the largest batch size, 1 to `most`, whose step fits.

    The size doubles until it does not fit; between the last that does and the first that does not, halves decide.

    Args:
        needed: Bytes that a step of a batch takes; None where it cannot be run.
        budget: Bytes there are.
        most: No larger size is tried.
    """

    def fits(size: int) -> bool:
        amount = needed(size)
        return amount is not None and amount <= budget

    good, bad = 1, most + 1
    # A single sample is trained on in any case: whether it fits will be seen.
    if not fits(1):
        return 1
    while good + 1 < bad:
        size = min(2 * good, most) if bad > most else (good + bad) // 2
        if fits(size):
            good = size
        else:
            bad = size
    return good


@contextmanager
def _trials(
    module: PanoramaTrainingModule, data: PanoramaDataModule, precision: str, device: str
) -> Iterator[Callable[[int], int | None]]:
    """Yield a function that returns what a step of a batch size takes; afterwards the module is as it was."""
    trained = size_of(module, trained_only=True)[1]

    def forward(size: int) -> torch.Tensor:
        batch = to_device(data.largest_batch(size), torch.device(device))
        with autocast(precision, device):
            loss: torch.Tensor = module._losses(batch)["loss"] if len(batch) > 1 else module._no_loss()
        return loss

    def on_gpu(size: int) -> int | None:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        try:
            forward(size).backward()  # type: ignore[no-untyped-call]
            # The second pass has the gradients of the first beside it, as accumulated ones are.
            forward(size).backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            return None
        finally:
            peak = torch.cuda.max_memory_allocated() - before
            module.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return peak + _MOMENTS * trained

    saved: dict[int, int] = {}

    def on_cpu(size: int) -> int:
        # What is kept grows by the same for every sample, so that two sizes tell of all others.
        for number in (1, min(2, len(data.train_dataset))):
            if number not in saved:
                with measure_saved(module) as saved_bytes:
                    forward(number)
                saved[number] = saved_bytes()
        each = saved[max(saved)] - saved[1]
        return int((1 + _MOMENTS) * trained + _TEMPORARY * (saved[1] + (size - 1) * each))

    was_training = module.training
    module.train().on_train_epoch_start()
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield on_gpu if device == "cuda" else on_cpu
        finally:
            module.train(was_training)
