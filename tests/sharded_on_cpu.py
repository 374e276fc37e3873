"""``cora-train`` with weights shared out over CPU processes, which Lightning and torch do on GPUs only.

What stands in their way is taken out: the check of the device, and copies of whole weights from a GPU to the CPU.
"""

from __future__ import annotations

import sys
from typing import Any

import lightning.pytorch.strategies.fsdp as lightning_fsdp
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)

import cora.training.processes as processes
import cora.training.trainer as trainer
from cora.cli.train import main
from cora.config.schema import CORAConfig


class ShardsOnCPU(FSDPStrategy):
    """Of another type than the one that Lightning refuses."""


def whole_state(module: torch.nn.Module, world_size: int | None = None, rank0_only: bool = True) -> Any:
    """Return the context in which a module says its whole state, in all processes."""
    return FullyShardedDataParallel.state_dict_type(
        module,
        StateDictType.FULL_STATE_DICT,
        FullStateDictConfig(offload_to_cpu=False, rank0_only=False),
        FullOptimStateDictConfig(offload_to_cpu=False, rank0_only=False),
    )


def pick_strategy(config: CORAConfig, accelerator: str) -> Any:
    """Return the strategy that the configuration would get on a GPU."""
    picked: Any = processes.pick_strategy(config, "cuda")
    return ShardsOnCPU(auto_wrap_policy=picked.kwargs["auto_wrap_policy"], state_dict_type=picked._state_dict_type)


if __name__ == "__main__":
    init = FullyShardedDataParallel.__init__

    def init_on_cpu(self: Any, *args: Any, device_id: Any = None, **options: Any) -> None:
        init(self, *args, device_id=torch.device("cpu"), **options)

    FullyShardedDataParallel.__init__ = init_on_cpu  # type: ignore[method-assign]
    lightning_fsdp._get_full_state_dict_context = whole_state
    trainer.pick_strategy = pick_strategy  # type: ignore[attr-defined]
    trainer.start_processes = lambda config, accelerator: processes.start_processes(  # type: ignore[attr-defined]
        config.model_copy(update={"training": config.training.model_copy(update={"strategy": "ddp"})}), accelerator
    )
    main(sys.argv[1:], prog_name="cora-train")
