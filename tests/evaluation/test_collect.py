"""cora collect: the same questions or a refusal that names the difference; intervals and p-values with a meaning."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cora.cli.collect import main
from cora.data.table import Row
from cora.errors import ConfigError, DataError
from cora.evaluation.comparison import collect
from cora.evaluation.comparison_tables import as_csv, as_latex, as_markdown, write_tables
from cora.evaluation.metrics import CORAEvaluator
from cora.evaluation.paired import compare, score_of
from cora.evaluation.samples import Sample, read_samples, write_samples
from cora.evaluation.scoring import score_answers


def sample(number: int, right: float | None, *, image: int | None = None) -> Sample:
    scores = {} if right is None else {"exact_match": right}
    path = f"/data/{number if image is None else image}.jpg"
    answer = None if right is None else "x"
    return Sample(str(number), path, "q", ["x"], answer, None, "colour", None, scores, [])


def samples_of(values: list[float | None], *, per_image: int = 1) -> list[Sample]:
    return [sample(number, value, image=number // per_image) for number, value in enumerate(values)]


def write(folder: Path, samples: list[Sample]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in samples))
    return folder


def test_the_interval_is_that_of_a_plain_loop_over_drawn_images() -> None:
    rng = random.Random(3)
    new = samples_of([float(rng.random() < 0.7) for _ in range(90)], per_image=3)
    old = samples_of([float(rng.random() < 0.5) for _ in range(90)], per_image=3)
    found = compare("exact_match", new, old, resamples=4000)
    differences = []
    gain = [a.scores["exact_match"] - b.scores["exact_match"] for a, b in zip(new, old, strict=True)]
    for _ in range(4000):
        drawn = [rng.randrange(30) for _ in range(30)]
        differences.append(np.mean([gain[3 * image + place] for image in drawn for place in range(3)]))
    assert found is not None
    assert found.value == pytest.approx(np.mean(gain))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])), abs=0.02)
    two_sided = 2 * min(np.mean(np.array(differences) <= 0), np.mean(np.array(differences) >= 0))
    assert found.p_value == pytest.approx(two_sided, abs=0.02)
    assert compare("exact_match", new, old, resamples=4000) == found
    assert compare("exact_match", new, old, resamples=4000, seed=1) != found
    assert compare("exact_match", new[::-1], old[::-1], resamples=4000) == found


def test_questions_about_one_image_are_no_independent_evidence() -> None:
    values = [float(number // 8 % 2 == 0) for number in range(160)]
    other = [float(number // 8 % 4 == 0) for number in range(160)]
    together = compare("exact_match", samples_of(values, per_image=8), samples_of(other, per_image=8))
    apart = compare("exact_match", samples_of(values), samples_of(other))
    assert together is not None
    assert apart is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert together.p_value > apart.p_value


def test_equal_runs_and_runs_that_always_differ() -> None:
    ones, zeros = samples_of([1.0] * 50), samples_of([0.0] * 50)
    equal = compare("exact_match", ones, ones)
    assert equal is not None
    assert (equal.value, equal.low, equal.high, equal.p_value) == (0, 0, 0, 1)
    better = compare("exact_match", ones, zeros, resamples=999)
    assert better is not None
    assert (better.value, better.low, better.p_value) == (1, 1, 2 / 1000)
    alone = compare("exact_match", ones[:1], zeros[:1])
    assert alone is not None
    assert (alone.value, alone.low, alone.p_value) == (1, None, None)
    assert compare("exact_match", ones, samples_of([None] * 50)) is None


def test_no_difference_is_rarely_called_one() -> None:
    """Of runs that differ by chance alone, about one in twenty has a p-value below 0.05."""
    rng = random.Random(0)
    small = 0
    for seed in range(200):
        first, second = (samples_of([float(rng.random() < 0.5) for _ in range(80)]) for _ in range(2))
        found = compare("exact_match", first, second, resamples=400, seed=seed)
        assert found is not None
        small += found.p_value < 0.05
    assert 2 <= small <= 22


def test_missing_answers_are_left_out_of_the_run_that_lacks_them() -> None:
    first, second = samples_of([1.0, None, 0.0, 1.0]), samples_of([1.0, 1.0, 0.0, None])
    found = compare("exact_match", first, second)
    assert found is not None
    assert score_of("exact_match", first) == pytest.approx(2 / 3)
    assert found.value == pytest.approx(0)


def test_scores_are_those_of_the_runs_and_bleu_is_no_mean(tmp_path: Path) -> None:
    rows = [Row(str(n), Path(f"{n}.jpg"), "q", (f"a red house number {n} stands by the sea",), None, None, None, 2)
            for n in range(12)]  # fmt: skip
    texts = {
        "good": [row.references[0].replace("sea", "lake") if number % 3 else None for number, row in enumerate(rows)],
        "bad": [row.references[0][number % 4 * 6 :] for number, row in enumerate(rows)],
    }
    expected = {}
    for name, answers in texts.items():
        scores = score_answers(rows, answers, evaluator=CORAEvaluator())
        (tmp_path / name).mkdir()
        write_samples(tmp_path / name, rows, answers, scores, [None if text else "gone" for text in answers])
        expected[name] = {metric: value.value for metric, value in scores.metrics.items()}
    comparison = collect([tmp_path / "bad", tmp_path / "good"], metrics=("bleu_1", "bleu_4", "rouge_l", "cider"))
    for line in comparison.lines:
        for metric, cell in line.cells.items():
            assert cell.score == pytest.approx(expected[line.name][metric], abs=1e-12)
    bad, good = comparison.lines
    assert (good.answered, good.questions) == (8, 12)
    mean = np.mean([each.scores["bleu_4"] for each in read_samples(tmp_path / "bad")])
    assert abs(mean - bad.cells["bleu_4"].score) > 1e-3
    difference = good.cells["bleu_4"].difference
    assert difference is not None
    assert difference.low <= difference.value <= difference.high
    assert bad.cells["bleu_4"].difference is None


def test_runs_over_different_questions_are_refused(tmp_path: Path) -> None:
    base = samples_of([1.0, 0.0, 0.0])
    write(tmp_path / "base", base)
    write(tmp_path / "short", base[:2])
    write(tmp_path / "asked", [*base[:2], replace(base[2], query="p")])
    write(tmp_path / "gold", [*base[:2], replace(base[2], references=["y"])])
    write(tmp_path / "twice", [*base, base[0]])
    for other, message in {
        "short": "short lacks 1 of the 3 that base has; the first is sample 2 about 2.jpg: 'q'",
        "asked": "asked lacks 1 of the 3 that base has; the first is sample 2 about 2.jpg: 'q'",
        "gold": r"different references for sample 2: base has \['x'\], gold has \['y'\]",
        "twice": "twice has sample 0 twice",
    }.items():
        with pytest.raises(DataError, match=message):
            collect([tmp_path / "base", tmp_path / other])
    with pytest.raises(DataError, match="base lacks 1 of the 4 that long has; the first is sample 3"):
        collect([tmp_path / "base", write(tmp_path / "long", [*base, sample(3, 1.0)])])
    # Another order, another machine.
    moved = [replace(each, image=each.image.replace("/data", "/elsewhere")) for each in reversed(base)]
    comparison = collect([tmp_path / "base", write(tmp_path / "moved", moved)])
    difference = comparison.lines[1].cells["exact_match"].difference
    assert (difference.low, difference.high, difference.p_value) == (0, 0, 1)


def test_what_collect_refuses(tmp_path: Path) -> None:
    base = write(tmp_path / "base", samples_of([1.0, 0.0]))
    other = write(tmp_path / "deep/base", samples_of([1.0, 0.0]))
    with pytest.raises(ConfigError, match="given twice"):
        collect([base, base])
    with pytest.raises(ConfigError, match="the baseline none is none of the runs"):
        collect([base, other], baseline="none")
    with pytest.raises(ConfigError, match=r"no run has scores in 'exact_mach' \(did you mean 'exact_match'\?\)"):
        collect([base], metrics=["exact_mach"])
    with pytest.raises(DataError, match="no such file"):
        collect([base, tmp_path])
    assert [line.name for line in collect([base, other], baseline=other).lines] == [
        f"{tmp_path.name}/base",
        "deep/base",
    ]


def test_tables_mark_the_best_and_say_what_was_done(tmp_path: Path) -> None:
    runs = [
        write(tmp_path / "base_a&b", samples_of([1.0, 0.0, 1.0, None])),
        write(tmp_path / "=new", samples_of([1.0, 1.0, 1.0, 1.0])),
        write(tmp_path / "none", samples_of([None] * 4)),
    ]
    comparison = collect(runs)
    markdown = as_markdown(comparison).splitlines()
    assert markdown[:5] == [
        "| run | answered | Exact match |",
        "| --- | ---: | ---: |",
        r"| base\_a&b | 3 of 4 | 0.6667 |",
        "| =new | 4 of 4 | **1.0000** |",
        "| none | 0 of 4 | – |",
    ]
    assert "2000 draws of 4 panoramas, seed 0, not corrected" in markdown[6]
    assert markdown[10].startswith("| =new | +0.3333 [+0.0000, +")
    assert markdown[11] == "| none | – |"
    latex = as_latex(comparison)
    assert r"base\_a\&b & 0.6667 \\" in latex
    assert r"=new & \textbf{1.0000} \\" in latex
    assert latex.count(r"\\") == latex.count(" & ") == 6
    rows = list(csv.DictReader(as_csv(comparison).splitlines()))
    assert [row["run"] for row in rows] == ["base_a&b", "'=new", "none"]
    assert float(rows[1]["difference"]) == pytest.approx(1 / 3)
    assert (rows[0]["difference"], rows[1]["is_best"], rows[2]["score"]) == ("", "True", "")
    reverse = list(csv.DictReader(as_csv(collect(runs, baseline=runs[1])).splitlines()))
    assert float(reverse[0]["difference"]) == pytest.approx(-1 / 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        write_tables(tmp_path / "file", comparison)


def test_the_command(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, samples_of([1.0, value])) for name, value in (("one", 0.0), ("two", 1.0)))
    arguments = [str(one), str(two), "--baseline", "two", "--metric", "exact_match", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == (tmp_path / "out/comparison.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"comparison.{end}" for end in ("md", "tex", "csv")}
    result = CliRunner().invoke(main, [str(one), str(two), "--json", "--resamples", "100", "--seed", "3"])
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["baseline"] == "one"
    assert document["scores"][1]["difference"] == 0.5
    result = CliRunner().invoke(main, [str(one), str(write(tmp_path / "three", samples_of([1.0])))])
    assert result.exit_code == 2
    assert "different questions" in result.stderr
