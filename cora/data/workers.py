"""Loading processes that neither hang, nor stop before training does, nor outlive it.

A forked process can wait for ever for a thread that it does not have, so these are started by a server process that
has no threads; then torch's own watch over its parent sees the server and not training.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

__all__ = ["WorkerLoader"]

ItemT = TypeVar("ItemT", covariant=True)


class WorkerLoader(DataLoader[ItemT]):
    """A DataLoader whose processes, if it has any, are told nothing by signals and end with the process that made it.

    Args:
        dataset: The data set.
        num_workers: Loading processes; 0 loads in the calling process.
        **kwargs: As for DataLoader.
    """

    def __init__(self, dataset: Dataset[ItemT], *, num_workers: int, **kwargs: Any) -> None:
        if num_workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["cora.data.dataset"])
            kwargs |= {
                "multiprocessing_context": context,
                "persistent_workers": True,
                "worker_init_fn": partial(_end_with, os.getpid()),
            }
        super().__init__(dataset, num_workers=num_workers, **kwargs)

    def __iter__(self) -> Any:
        """Return an iterator; processes that are started for it inherit that SIGINT and SIGTERM wait."""
        if not self.num_workers:
            return super().__iter__()
        # A signal to the whole group is for training to answer: it finishes its step, saves, and ends its processes.
        with _signals_held():
            return super().__iter__()


@contextmanager
def _signals_held() -> Iterator[None]:
    # To start it later lets signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with(process: int, worker: int) -> None:
    """Let this process end as soon as another does."""

    def watch() -> None:
        with suppress(ProcessLookupError):  # it has ended already
            select.select([os.pidfd_open(process)], [], [])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
