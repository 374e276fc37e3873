"""The exceptions CORA raises for things a user can mend; each message names the file, row or key at fault."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path


class CoraError(Exception):
    """Base of all errors a command reports as one line, without a traceback."""


class ConfigError(CoraError):
    """A configuration file, key or option is wrong."""


class DataError(CoraError):
    """A data set, row or column is wrong."""


class ImageError(DataError):
    """An image is missing, unreadable, too large, or not a panorama."""


class SourceRefused(ImageError):
    """An image is in a place that a server does not read from."""


class GeometryError(CoraError, ValueError):
    """Angles, sizes or view layouts that describe nothing that can be rendered."""


class CheckpointError(CoraError):
    """A directory is not a checkpoint, or its parts do not belong together."""


class BackendUnavailable(CoraError):
    """Software or hardware that was asked for is not there; the message says what to install."""


class KernelUnavailable(BackendUnavailable):
    """An implementation of an operation that was asked for is not built or not usable here."""


class TrainingInterrupted(CoraError):
    """A signal ended training between two steps.

    Args:
        number: Which signal.
        checkpoint: What training can go on from, if it is there.

    Attributes:
        number: Which signal.
    """

    def __init__(self, number: signal.Signals, checkpoint: Path) -> None:
        kept = f"'--resume auto' goes on from {checkpoint}" if checkpoint.exists() else "there was no step to keep yet"
        super().__init__(f"training was stopped by {number.name}: {kept}")
        self.number = number


class EndpointError(CoraError):
    """A server refuses every request: a wrong key, no credit, an unknown model, or nobody there."""


class RegistryError(ConfigError):
    """A name is not registered, or is registered twice."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""
