"""What a row of an evaluation takes in memory: a million rows with all caption metrics stay below 2 GiB."""

from __future__ import annotations

import random
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from cora.evaluation import metrics, ngrams
from cora.evaluation.corpus import Corpus
from cora.evaluation.intervals import Bootstrap
from cora.evaluation.metrics import CORAEvaluator

WORDS = [f"word{n}" for n in range(2000)]


def bytes_a_row(measured: Callable[[int], Any]) -> float:
    """Return by how much the most memory at a time grows with every row."""

    def peak(num_rows: int) -> int:
        tracemalloc.start()
        try:
            measured(num_rows)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = 1000, 4000
    peak(few)  # what is imported and cached on the way
    return (peak(many) - peak(few)) / (many - few)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts so small that what is done by parts takes the same at every size."""
    monkeypatch.setattr(metrics, "_WORDS", 2**12)
    monkeypatch.setattr(ngrams, "_WORDS", 2**12)
    monkeypatch.setattr(ngrams, "_WORDS_OF_SAMPLES", 2**12)


def make_captions(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=15)) for _ in range(count)]


@pytest.mark.abuse(11)
@pytest.mark.usefixtures("small_parts")
def test_scores_of_a_row_take_less_than_a_kilobyte() -> None:
    captions = make_captions(8000)
    evaluator = CORAEvaluator(tokenizer="regex", metrics=["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"])

    def score(num_rows: int) -> None:
        scores = evaluator.score(captions[:num_rows], [[text] for text in captions[-num_rows:]])
        intervals = scores.with_intervals(Bootstrap([row // 5 for row in range(num_rows)], resamples=10))
        assert all(intervals[name].interval for name in scores.per_sample)

    found = bytes_a_row(score)
    assert 300 < found < 1000, f"{found:.0f} bytes a row"


def test_a_word_of_a_caption_takes_four_bytes() -> None:
    captions = make_captions(8000)
    found = bytes_a_row(lambda num_rows: Corpus.of(captions[: 2 * num_rows], array("q", [1]) * num_rows))
    # Of two captions; their lengths and places take the rest.
    assert 2 * 15 * 4 < found < 250, f"{found:.0f} bytes a row"
