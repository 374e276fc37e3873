"""Which messages of Lightning a user of CORA is spared, and why."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_lightning"]

# Start of the message -> why it says nothing to a user.
_NOISE = {
    r"Checkpoint directory .* exists and is not empty": "the loggers of a stage write to the folder first, on purpose",
    r"Found \d+ module\(s\) in eval mode": "frozen towers are in evaluation mode on purpose",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "Lightning's use of torch, mended by its next version",
    r"The '\w+' does not have many workers": "training.num_workers is the user's choice",
    r"You're resuming from a checkpoint that ended before the epoch": "the data module keeps the place in the data",
    r"Experiment logs directory .* exists": "several loggers share the folder of a stage",
}
_LOGGERS = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide the messages listed in this file, and what Lightning has to say below a warning, while inside.

    The latter is advertising, and what CORA says itself: the device, the precision, why a stage has ended.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
