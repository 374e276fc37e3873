"""Progress knows how fast answers come, and is not taken in by those that were there before."""

from __future__ import annotations

import logging

import pytest

from cora.evaluation import progress as progress_module
from cora.evaluation.progress import Progress, show_progress


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_rate_and_time_left_go_by_new_answers() -> None:
    clock = Clock()
    progress = Progress(100, clock)
    progress.advance(40, reused=True)
    clock.seconds = 1.0
    assert (str(progress), progress.rate, progress.seconds_left) == ("40/100", None, None)
    progress.advance(20)
    clock.seconds = 10.0
    assert (progress.rate, progress.seconds_left) == (2.0, 20.0)
    assert str(progress) == "60/100, 2/s, 0:00:20 left"


def test_without_a_terminal_the_log_says_it_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger="cora"), show_progress("answering", 4) as progress:
        progress.advance(1)
    assert caplog.messages[0].startswith("answering: 1/4, ")
    assert caplog.messages[0].endswith(" left")


def test_invisible() -> None:
    with show_progress("answering", 4, visible=False) as progress:
        progress.advance(3)
    assert progress.done == 3
