"""Turns of the camera as augmentation: the same scene, seen by somebody who faces another way."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["YawAugmentation", "turned"]


class YawAugmentation:
    """Draws how far panoramas are turned: anew each epoch, and always the same for a seed, epoch and panorama.

    Processes that load data see a change of the epoch: it lies in shared memory.

    Args:
        seed: Of the run.
        forced: Whether rows that do not say what a turn does to their answer are turned too.
    """

    def __init__(self, seed: int, *, forced: bool = False) -> None:
        self.seed = seed
        self.forced = forced
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Let `draw` answer for another epoch."""
        self._epoch.fill_(epoch)

    def draw(self, number: int) -> float:
        """Return by which part of a full turn, in [0, 1), the panorama with this number is turned."""
        text = f"{self.seed} {int(self._epoch)} {number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def turned(panorama: Tensor, turn: float) -> Tensor:
    """Return a panorama uint8[H, W, 3] rolled to the right by the whole columns in `turn` of its width.

    Convention: at a quarter of a turn, what was ahead (the middle column) is to the right.
    """
    return torch.roll(panorama, int(turn * panorama.shape[1]), dims=1)
