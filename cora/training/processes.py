"""The processes that train together: started, and agreeing on what only one of them should do.

Lightning starts them and computes with them; this module knows who is who before and between its stages too.
"""

from __future__ import annotations

import atexit
import copy
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from transformers.modeling_layers import GradientCheckpointingLayer

from cora.config.schema import CORAConfig
from cora.errors import ConfigError, CoraError

__all__ = ["count_processes", "gathered", "is_first", "of_first", "pick_strategy", "sharded_copy", "start_processes"]

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Module = TypeVar("Module", bound=LightningModule)


def devices_per_node(config: CORAConfig, accelerator: str) -> int:
    """Return how many devices of a machine train."""
    devices = config.training.devices
    if devices == "auto":
        return torch.cuda.device_count() if accelerator == "cuda" else 1
    return devices


def count_processes(config: CORAConfig, accelerator: str) -> int:
    """Return how many processes train together, one per device, on all machines."""
    return devices_per_node(config, accelerator) * config.training.num_nodes


def pick_strategy(config: CORAConfig, accelerator: str) -> Strategy | str:
    """Return how Lightning trains on several devices, new for each stage.

    Raises:
        ConfigError: The strategy does not suit the device.
    """
    wanted = config.training.strategy
    if wanted == "fsdp":
        if accelerator == "cpu":
            raise ConfigError("training.strategy 'fsdp' needs GPUs: on a CPU use 'ddp' or 'auto'")
        # Whole weights in checkpoints, so that they are those of any other run.
        return FSDPStrategy(auto_wrap_policy={GradientCheckpointingLayer}, state_dict_type="full")
    if count_processes(config, accelerator) == 1:
        return "auto"
    # A process whose batch was skipped as a whole has gradients of zero for all weights: none is ever unused.
    return DDPStrategy(find_unused_parameters=False)


def start_processes(config: CORAConfig, accelerator: str) -> None:
    """Start the other processes of a run on several devices, which do what this one does from its beginning.

    Where they have been started already, by ``torchrun`` or a cluster, this one joins them. Only the first one logs.

    Raises:
        ConfigError: The strategy does not suit the device.
    """
    pick_strategy(config, accelerator)
    number = count_processes(config, accelerator)
    if number == 1 or dist.is_initialized():
        return
    settings = config.training
    fabric = Fabric(accelerator=accelerator, devices=settings.devices, num_nodes=settings.num_nodes, strategy="ddp")
    fabric.launch()
    atexit.register(_leave)
    if is_first():
        logger.info("%d processes train together, with the strategy '%s'", number, settings.strategy)
    else:
        logging.getLogger("cora").setLevel(logging.ERROR)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def sharded_copy(module: Module, strategy: Strategy) -> Module:
    """Return the module to train: a copy where a strategy takes it to pieces, so that later stages have it whole."""
    return copy.deepcopy(module) if isinstance(strategy, FSDPStrategy) else module


def is_first() -> bool:
    """Return whether this is the process that writes files: the first one, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def of_first(make: Callable[[], Result]) -> Result:
    """Return, in all processes, what `make` returns in the first one.

    Raises:
        CoraError: Whatever it raised there.
    """
    if not dist.is_initialized():
        return make()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = make()
        except CoraError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: Result = outcome[0]
    return result


def gathered(value: Result) -> list[Result]:
    """Return the values of all processes, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
