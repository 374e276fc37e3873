"""Intervals hold what theory says, go by image, and are the same for the same seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cora.data.table import Row
from cora.evaluation.intervals import Bootstrap
from cora.evaluation.metrics import CORAEvaluator, bleu_from_sums
from cora.evaluation.scoring import score_answers


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_a_mean_has_the_interval_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).random(1000) < 0.3
    interval = Bootstrap(range(1000)).of_mean(list(values))
    half = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 1000)
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)


def test_questions_about_one_image_count_as_one() -> None:
    values = [float(image % 2) for image in range(100) for _ in range(9)]
    by_image = Bootstrap([image for image in range(100) for _ in range(9)]).of_mean(values)
    by_question = Bootstrap(range(900)).of_mean(values)
    assert width(by_image) == pytest.approx(3 * width(by_question), rel=0.15)


def test_only_the_samples_that_have_the_score_count() -> None:
    bootstrap = Bootstrap(["a", "b", "b", "c"])
    assert bootstrap.of_mean([1.0, 0.0], among=[1, 2]) is None
    interval = bootstrap.of_mean([1.0, 0.0], among=[0, 3])
    assert interval == (0.0, 1.0)
    assert bootstrap.of_mean([], among=[]) is None


def test_the_seed_decides() -> None:
    values = list(np.random.default_rng(0).random(50))
    first = Bootstrap(range(50), seed=3).of_mean(values)
    assert Bootstrap(range(50), seed=3).of_mean(values) == first
    assert Bootstrap(range(50), seed=4).of_mean(values) != first


def test_draws_in_pieces_are_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(0).random(60))
    whole = Bootstrap(range(60)).of_mean(values)
    monkeypatch.setattr("cora.evaluation.intervals._DRAWS", 7 * 60)
    assert Bootstrap(range(60)).of_mean(values) == pytest.approx(whole, abs=0.01)


def test_every_score_that_has_a_value_has_its_interval() -> None:
    texts = ["a red house stands here", "the blue sea is calm", "two dogs run on the grass", "a tall tower ahead"]
    rows = [
        Row(str(n), Path(f"{n // 2}.jpg"), f"q{n}", (texts[n % 4],), texts[n % 4], "colour" if n < 8 else None, None, n)
        for n in range(12)
    ]
    answers = [texts[n % 4] if n % 3 else texts[(n + 1) % 4] for n in range(12)]
    scores = score_answers(rows, answers, seed=1)
    for name, metric in scores.metrics.items():
        if metric.value is None:
            assert metric.interval is None
        else:
            assert metric.interval is not None, name
            assert metric.interval[0] < metric.value < metric.interval[1], name
    assert set(scores.type_intervals) == {"colour", "untyped"}
    assert score_answers(rows, answers, seed=1) == scores
    alone = score_answers(rows[:2], answers[:2])
    assert {metric.interval for metric in alone.metrics.values()} == {None}


def test_bleu_of_summed_statistics_is_bleu_of_the_corpus() -> None:
    predictions = ["a red house stands here today", "the sea", "two dogs run on the green grass", "", "a tower"]
    references = [
        ["a red house stands here"],
        ["the sea is blue", "a sea"],
        ["two dogs run on grass"],
        ["x"],
        ["tower"],
    ]
    scores = CORAEvaluator().score(predictions, references)
    sums = np.array(scores.bleu_sums).sum(axis=0)[None]
    for n in (1, 2, 3, 4):
        assert bleu_from_sums(sums, n)[0] == pytest.approx(scores.corpus[f"bleu_{n}"].value, abs=1e-12)
    long = np.array([[9.0, 8, 7, 6, 10, 9, 8, 7, 10, 20]])
    assert bleu_from_sums(long, 1)[0] == pytest.approx(0.9 * math.exp(-1))
