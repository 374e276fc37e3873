"""How far a run is: a bar on a terminal, a line in the log every minute elsewhere, both with rate and time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

__all__ = ["Progress", "show_progress"]

logger = logging.getLogger(__name__)

_LOG_SECONDS = 60.0


class Progress:
    """Counts steps and knows the rate of those that took time: reused answers come for nothing and promise nothing.

    Args:
        total: Number of steps.
        clock: Returns seconds.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self._worked = 0
        self._clock = clock
        self._start = clock()

    def advance(self, steps: int, *, reused: bool = False) -> None:
        """Count steps."""
        self.done += steps
        if not reused:
            self._worked += steps

    @property
    def rate(self) -> float | None:
        """Steps per second, or None before the first one."""
        seconds = self._clock() - self._start
        return self._worked / seconds if self._worked and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at this rate, or None while there is no rate."""
        return None if self.rate is None else (self.total - self.done) / self.rate

    def __str__(self) -> str:
        text = f"{self.done}/{self.total}"
        if self.rate is None or self.seconds_left is None:
            return text
        return f"{text}, {self.rate:.3g}/s, {timedelta(seconds=round(self.seconds_left))} left"


class _Logged(Progress):
    """Says where it is every minute."""

    def __init__(self, description: str, total: int) -> None:
        super().__init__(total)
        self._description = description
        self._due = self._clock() + _LOG_SECONDS

    def advance(self, steps: int, *, reused: bool = False) -> None:
        super().advance(steps, reused=reused)
        if self._clock() >= self._due:
            logger.info("%s: %s", self._description, self)
            self._due = self._clock() + _LOG_SECONDS


class _Drawn(Progress):
    """Moves a task of a `rich` bar."""

    def __init__(self, bar: Any, description: str, total: int) -> None:
        super().__init__(total)
        self._bar = bar
        self._task = bar.add_task(description, total=total, state=self)

    def advance(self, steps: int, *, reused: bool = False) -> None:
        super().advance(steps, reused=reused)
        self._bar.advance(self._task, steps)


@contextmanager
def show_progress(description: str, total: int, *, visible: bool = True) -> Iterator[Progress]:
    """Yield what counts the steps, and show it while they are counted unless it is to be invisible."""
    if not visible:
        yield Progress(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Logged(description, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Bar(*columns, console=console) as bar:
        yield _Drawn(bar, description, total)
