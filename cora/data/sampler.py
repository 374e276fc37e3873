"""The order in which training samples are drawn, and how far into it training has come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from cora.errors import CheckpointError

__all__ = ["LengthGroupedSampler"]

# Samples are sorted by length within this many steps: enough to save most padding, few enough to stay random.
_STEPS_PER_POOL = 16


class LengthGroupedSampler(DistributedSampler[Any]):
    """Draws every sample once per epoch, those of similar length into the same step, in an order that can be resumed.

    The order depends on the seed, the epoch and the number of samples of an optimiser step, and on nothing else: a run
    goes on in it with other loading processes, and with other devices or batches that make up the same step.

    Several processes share a batch of all of them. Where the last one does not go up evenly, its first samples are
    drawn twice, so that all processes take as many steps.

    Args:
        lengths: Length of each sample, in any unit; None, or all alike, groups nothing.
        num_samples: How many samples there are.
        batch_size: Samples per batch and process.
        accumulate: Batches per optimiser step.
        seed: Of the order.
        num_replicas: How many processes train together.
        rank: Which of them this is.

    Attributes:
        position: Samples of this epoch that have been trained on, by all processes; loading ahead does not count.
    """

    def __init__(
        self,
        lengths: Sequence[int] | None,
        num_samples: int,
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        # Lightning leaves a DistributedSampler as it is, and tells it which epoch begins.
        super().__init__(range(num_samples), num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.lengths = None if lengths is None or len(set(lengths)) < 2 else torch.tensor(lengths)
        self.num_drawn = num_samples
        self.accumulate = accumulate
        self.set_batch_size(batch_size)
        self.position = 0

    def set_batch_size(self, batch_size: int) -> None:
        """Draw for batches of another size."""
        self.batch_size = batch_size
        self.batch_of_all = batch_size * self.num_replicas
        self.step_size = self.batch_of_all * self.accumulate

    @property
    def num_batches(self) -> int:
        """Batches of an epoch, in each process."""
        return math.ceil(self.num_drawn / self.batch_of_all)

    @property
    def batches_trained(self) -> int:
        """Batches of this epoch that have been trained on, in each process."""
        return math.ceil(self.position / self.batch_of_all)

    def order(self) -> Tensor:
        """Return the samples int64[N] of the epoch in the order all processes together take them."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_drawn, generator=generator)
        if self.lengths is None:
            return order
        pools = torch.split(order, _STEPS_PER_POOL * self.step_size)
        order = torch.cat([pool[self.lengths[pool].argsort(descending=True, stable=True)] for pool in pools])
        whole = self.num_drawn // self.step_size * self.step_size
        steps = order[:whole].view(-1, self.step_size)
        # Longest first within a pool, but steps of all lengths mixed over the epoch.
        return torch.cat((steps[torch.randperm(len(steps), generator=generator)].flatten(), order[whole:]))

    def __iter__(self) -> Iterator[int]:
        """Yield this process's samples from `position` on."""
        rest = self.order()[self.position :]
        for block in torch.split(rest, self.batch_of_all):
            share = math.ceil(len(block) / self.num_replicas)
            block = block.repeat(self.num_replicas)  # more than enough to fill up the last one
            yield from block[self.rank * share : (self.rank + 1) * share].tolist()

    def __len__(self) -> int:
        """Return the samples of a whole epoch in this process."""
        whole, rest = divmod(self.num_drawn, self.batch_of_all)
        return whole * self.batch_size + math.ceil(rest / self.num_replicas)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; to name the one that is running changes nothing."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.position = 0

    def advance(self) -> None:
        """Count a batch of every process as trained on."""
        self.position = min(self.position + self.batch_of_all, self.num_drawn)

    def state_dict(self) -> dict[str, int]:
        """Return where training is, as plain values."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "num_samples": self.num_drawn,
            "step_size": self.step_size,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            CheckpointError: The order would be another one.
        """
        if state["num_samples"] != self.num_drawn:
            raise CheckpointError(
                f"there are {self.num_drawn} training samples now and were {state['num_samples']} when the checkpoint "
                "was written: its place in the data means nothing any more"
            )
        if state["step_size"] != self.step_size:
            raise CheckpointError(
                f"batch_size x accumulate_grad_batches x devices is {self.step_size} samples per step and was "
                f"{state['step_size']} when the checkpoint was written: the learning rate and the order of the data go "
                "by steps, so choose the three such that their product stays the same"
            )
        self.seed = state["seed"]
        self.epoch, self.position = state["epoch"], state["position"]
