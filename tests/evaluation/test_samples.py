"""samples.jsonl says of every question what the run said, and BLEU of any samples adds up from its counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cora.data.table import Row
from cora.errors import DataError
from cora.evaluation.metrics import CORAEvaluator, bleu_from_sums
from cora.evaluation.samples import read_samples, write_samples
from cora.evaluation.scoring import score_answers


def row(sample_id: str, *references: str, kind: str | None = None) -> Row:
    return Row(sample_id, Path("a.jpg"), f"q{sample_id}", references, None, kind, None, 2)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [
        row("0", "a red house"),
        row("1", "a dog\u2028\ud800", "two\ndogs"),
        row("2", "red", kind="colour"),
        row("3", "blue", kind="colour"),
    ]
    answers = ["a red house", None, "Red.", "green"]
    scores = score_answers(rows, answers)
    write_samples(tmp_path, rows, answers, scores, [None, "gone", None, None])
    samples = read_samples(tmp_path)
    assert [sample.sample_id for sample in samples] == ["0", "1", "2", "3"]
    assert samples[1].references == ["a dog\u2028\ud800", "two\ndogs"]
    assert (samples[1].prediction, samples[1].error, samples[1].scores, samples[1].bleu_sums) == (
        None,
        "gone",
        {},
        [],
    )
    assert [sample.scores.get("exact_match") for sample in samples] == [None, None, 1.0, 0.0]
    assert samples[0].scores["rouge_l"] == 1.0
    # The scores of the corpus follow from those of the samples.
    answered = [sample for sample in samples if sample.prediction is not None]
    assert np.mean([sample.scores["cider"] for sample in answered]) == pytest.approx(scores.metrics["cider"].value)
    sums = np.array([sample.bleu_sums for sample in answered]).sum(axis=0)[None]
    assert bleu_from_sums(sums, 4)[0] == pytest.approx(scores.metrics["bleu_4"].value, abs=1e-12)


def test_bleu_of_a_part_is_what_the_library_gives_for_it() -> None:
    from pycocoevalcap.bleu.bleu import Bleu

    gold = {0: ["a red house stands here", "red house"], 1: ["the dog sleeps"], 2: ["one two three four five"]}
    answers = {0: ["a red house"], 1: [""], 2: ["one two three four six five"]}
    sums = np.array(CORAEvaluator().score([text for (text,) in answers.values()], list(gold.values())).bleu_sums)
    for part in ([0, 1, 2], [0, 2], [1], [2, 2, 0]):
        theirs, _ = Bleu(4).compute_score(
            {index: gold[key] for index, key in enumerate(part)},
            {index: answers[key] for index, key in enumerate(part)},
            verbose=0,
        )
        ours = [float(bleu_from_sums(sums[part].sum(axis=0)[None], n)[0]) for n in (1, 2, 3, 4)]
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_no_samples_and_broken_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"samples\.jsonl: no such file; cora-eval writes it"):
        read_samples(tmp_path)
    path = tmp_path / "samples.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        read_samples(tmp_path)
    rows = [row("0", "x")]
    write_samples(tmp_path, rows, ["x"], score_answers(rows, ["x"], captions=False), [None])
    good = path.read_text()
    for bad in ("{", '{"query": "q"}', json.dumps({**json.loads(good), "scores": {"cider": "1"}})):
        path.write_text(good + bad + "\n")
        with pytest.raises(DataError, match=r"line 2: not a sample"):
            read_samples(tmp_path)


def test_without_java_the_samples_still_have_exact_match(monkeypatch: pytest.MonkeyPatch) -> None:
    from cora.evaluation import java

    monkeypatch.setattr(java, "_candidates", lambda option: iter(()))
    scores = score_answers([row("0", "red", kind="colour")], ["red"], evaluator=CORAEvaluator())
    assert {name: values.tolist() for name, values in scores.per_sample.items()} == {"exact_match": [1.0]}
    assert scores.bleu_sums is None
