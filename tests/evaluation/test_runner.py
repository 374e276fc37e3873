"""A run asks each question once, survives failures and kills, and writes what it knows."""

from __future__ import annotations

import csv
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from fake_generator import FakeGenerator, StreamingFake, write_table

from cora.data.table import Row, read_rows
from cora.errors import DataError
from cora.evaluation import intervals, metrics, ngrams
from cora.evaluation.cells import escape_cell, unescape_cell
from cora.evaluation.journal import Journal, JournalEntry, answer_key
from cora.evaluation.metrics import CORAEvaluator
from cora.evaluation.predictions import read_predictions
from cora.evaluation.report.page import ReportOptions, write_report
from cora.evaluation.runner import EvaluationResult, evaluate, score_file
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, Generator


def run(generator: Generator, table: Path, output_dir: Path, **options: object) -> EvaluationResult:
    options = {"captions": False, "progress": False, **options}
    return evaluate(generator, read_rows(table), output_dir=output_dir, **options)  # type: ignore[arg-type]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def entry(key: str, prediction: str | None = "text", error: str | None = None) -> JournalEntry:
    return JournalEntry(key, "0", "a.jpg", "q", prediction, 1, "stop", error)


def test_the_fake_is_a_generator() -> None:
    assert isinstance(FakeGenerator(), Generator)


def test_each_distinct_question_is_asked_once_with_its_image_together(tmp_path: Path) -> None:
    rows = [("a.jpg", "q", "a q"), ("b.jpg", "q", "b q"), ("a.jpg", "q", "a tower"), ("a.jpg", "p", "a p")]
    table = write_table(tmp_path, rows)
    generator = FakeGenerator()
    result = run(generator, table, tmp_path / "out", captions=True, test_csv=table)
    assert [(Path(str(r.image)).name, r.query) for r in generator.calls[0]] == [
        ("a.jpg", "q"),
        ("a.jpg", "p"),
        ("b.jpg", "q"),
    ]
    lines = read_csv(tmp_path / "out/predictions.csv")
    assert list(lines[0]) == ["sample_id", "image_path", "query", "prediction", "reference"]
    assert [(line["sample_id"], line["prediction"], line["reference"]) for line in lines] == [
        ("0", "a q", "a q"),
        ("1", "b q", "b q"),
        ("2", "a q", "a tower"),
        ("3", "a p", "a p"),
    ]
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["metrics"]["bleu_1"]["value"] == pytest.approx(1.0)
    assert report["metrics"]["exact_match"]["status"] == "not_applicable"
    assert report["counts"] == {"rows": 4, "questions": 3, "answered": 3, "unanswered": 0, "empty": 0, "closed": 0}
    origin = report["provenance"]
    assert origin["generation"]["max_new_tokens"] == 128
    assert len(origin["test_csv_sha256"]) == 64
    assert origin["scoring"]["tokenizer"].startswith("ptb")
    (scores,) = read_csv(tmp_path / "out/metrics.csv")
    assert (scores["experiment"], scores["bleu_1"], scores["spice"]) == ("out", "1.000000", "")
    assert result.failures == ()


def test_chunks_hold_whole_panoramas_but_not_without_end(tmp_path: Path) -> None:
    rows = [(f"{name}.jpg", f"q{n}", "r") for name, count in (("a", 3), ("b", 3), ("c", 20)) for n in range(count)]
    generator = FakeGenerator()
    run(generator, write_table(tmp_path, rows), tmp_path / "out", chunk_size=4)
    assert [len(call) for call in generator.calls] == [6, 16, 4]


@pytest.mark.abuse(11)
def test_failed_rows_are_null_counted_and_asked_again(tmp_path: Path) -> None:
    header = "url,query,annotation,answer,type"
    rows = [("a.jpg", "q", "a q", "a q", "colour"), ("missing.jpg", "q", "r", "r", "colour")]
    table = write_table(tmp_path, rows, header)
    result = run(FakeGenerator(), table, tmp_path / "out", captions=True)
    assert result.accuracy == 1.0
    (failure,) = result.failures
    assert (failure.row.sample_id, failure.error.endswith("missing.jpg: no such file")) == ("1", True)
    lines = read_csv(tmp_path / "out/predictions.csv")
    assert [line["prediction"] for line in lines] == ["a q", ""]
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["counts"]["unanswered"] == 1
    assert report["exact_match_by_type"]["colour"]["unanswered"] == 1
    (tmp_path / "missing.jpg").write_bytes(b"now it is there")
    generator = FakeGenerator()
    result = run(generator, table, tmp_path / "out")
    assert (generator.num_asked, result.num_reused, result.failures) == (1, 1, ())


@pytest.mark.parametrize("change", ["model", "processor", "image", "settings", "backend", "query"])
@pytest.mark.abuse(19)
def test_answers_are_reused_only_where_everything_is_equal(tmp_path: Path, change: str) -> None:
    table = write_table(tmp_path, [("a.jpg", "q", "r")])
    run(FakeGenerator(), table, tmp_path / "out")
    again = FakeGenerator()
    assert run(again, table, tmp_path / "out").num_reused == 1
    assert again.num_asked == 0
    other, settings = FakeGenerator(), GenerationSettings()
    if change == "model":
        other.model_digest = "m2"
    elif change == "processor":
        other.processor_digest = "p2"
    elif change == "backend":
        other.name = "other"
    elif change == "settings":
        settings = GenerationSettings(max_new_tokens=5)
    elif change == "query":
        table = write_table(tmp_path, [("a.jpg", "p", "r")])
    else:
        (tmp_path / "a.jpg").write_bytes(b"another picture")
    assert run(other, table, tmp_path / "out", settings=settings).num_reused == 0
    assert other.num_asked == 1


def test_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    class Silent(FakeGenerator):
        def answer(self, request: GenerationRequest) -> GenerationResult:
            return GenerationResult("", (2,), "stop")

    table = write_table(tmp_path, [("a.jpg", "q", "r")])
    result = run(Silent(), table, tmp_path / "out")
    assert (result.failures, result.scores.counts["empty"]) == ((), 1)
    silent = Silent()
    assert run(silent, table, tmp_path / "out").num_reused == 1
    assert silent.num_asked == 0


def test_all_rows_failed(tmp_path: Path) -> None:
    table = write_table(tmp_path, [("missing.jpg", "q", "r")])
    result = run(FakeGenerator(), table, tmp_path / "out", captions=True)
    assert len(result.failures) == 1
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["metrics"]["cider"] == {
        "value": None,
        "status": "not_applicable",
        "why": "there is no answer to score",
        "how": "",
        "interval": None,
    }


def test_no_rows() -> None:
    with pytest.raises(DataError, match="no row to evaluate"):
        evaluate(FakeGenerator(), [], output_dir="unused")
    assert not Path("unused").exists()


def test_an_interrupted_run_keeps_its_answers(tmp_path: Path) -> None:
    class Interrupted(FakeGenerator):
        def generate(self, requests: list[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().generate(requests, settings)

    table = write_table(tmp_path, [(f"{n}.jpg", "q", "r") for n in range(10)])
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), table, tmp_path / "out", chunk_size=2)
    generator = FakeGenerator()
    assert run(generator, table, tmp_path / "out", chunk_size=2).num_reused == 4
    assert generator.num_asked == 6


@pytest.mark.parametrize("chunk_size", [1, 3, 50])
@pytest.mark.abuse(19)
def test_another_batch_size_or_a_stream_reuses_the_answers(tmp_path: Path, chunk_size: int) -> None:
    table = write_table(tmp_path, [(f"{n % 4}.jpg", f"q{n}", "r") for n in range(20)])
    first = FakeGenerator()
    run(first, table, tmp_path / "out", chunk_size=chunk_size)
    for again in (FakeGenerator(), StreamingFake()):
        assert run(again, table, tmp_path / "out", chunk_size=7).num_reused == 20
        assert again.num_asked == 0


def test_a_stream_is_kept_as_it_comes(tmp_path: Path) -> None:
    """Answers come out of order, each in the journal before the next is waited for, with a request always in flight."""
    rows = [(f"{n % 4}.jpg", f"q{n // 4}", "r") for n in range(20)]
    table = write_table(tmp_path, [*rows, ("missing.jpg", "q", "r")])
    run(FakeGenerator(), table, tmp_path / "whole")
    generator = StreamingFake(stop_after=9)
    with pytest.raises(KeyboardInterrupt):
        run(generator, table, tmp_path / "out")
    kept = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert len(kept) == 9
    assert len(generator.in_flight) == 9
    assert set(generator.in_flight) == {StreamingFake.room}
    again = StreamingFake()
    result = run(again, table, tmp_path / "out")
    assert (again.num_asked, result.num_reused, len(result.failures)) == (12, 9, 1)
    assert (tmp_path / "out/predictions.csv").read_bytes() == (tmp_path / "whole/predictions.csv").read_bytes()


def test_copies_of_a_picture_are_asked_about_once(tmp_path: Path) -> None:
    table = write_table(tmp_path, [("a.jpg", "q", "r"), ("b.jpg", "q", "r"), ("c.jpg", "q", "r")])
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    generator = FakeGenerator()
    run(generator, table, tmp_path / "out")
    assert generator.num_asked == 2
    assert [line["prediction"] for line in read_csv(tmp_path / "out/predictions.csv")] == ["a q", "a q", "c q"]


def test_the_seed_counts_where_answers_are_sampled(tmp_path: Path) -> None:
    table = write_table(tmp_path, [("a.jpg", "q", "r")])
    for settings, is_new in (
        (GenerationSettings(seed=0), True),
        (GenerationSettings(seed=1, top_p=0.5), False),
        (GenerationSettings(temperature=1.0, seed=1), True),
        (GenerationSettings(temperature=1.0, seed=2), True),
        (GenerationSettings(temperature=1.0, seed=2), False),
    ):
        generator = FakeGenerator()
        run(generator, table, tmp_path / "out", settings=settings)
        assert generator.num_asked == is_new


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (GenerationSettings(seed=7), "d619e46b42e0a34ddb2c130b72c991aa15239bf72e07a36b344dde33d549d8f3"),
        (
            GenerationSettings(temperature=0.5, seed=3),
            "b0b9ad8232f594d9d3a5821c904ce4b0b10f62068ee89cc9f1a8ac0bf6384221",
        ),
    ],
)
def test_a_key_stays_what_it_was(settings: GenerationSettings, key: str) -> None:
    """Other keys would find none of the answers that are there already."""
    assert answer_key(FakeGenerator(), settings, image="i", query="q") == key


@pytest.mark.abuse(11)
def test_memory_grows_by_less_than_two_kilobytes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million rows then fit into 2 GiB: questions, answers, journal, predictions, scores and report together."""
    evaluator = CORAEvaluator(tokenizer="regex", metrics=["bleu_4", "rouge_l", "cider"])
    # Parts so small that what is done by parts takes the same at every size.
    parts = ((metrics, "_WORDS"), (ngrams, "_WORDS"), (ngrams, "_WORDS_OF_SAMPLES"), (intervals, "_DRAWS"))
    for module, name in parts:
        monkeypatch.setattr(module, name, 2**10)

    def peak(num_rows: int) -> int:
        folder = tmp_path / str(num_rows)
        rows = [(f"{n // 3}.jpg", f"What is {n} steps ahead?", f"It is tower number {n}.") for n in range(num_rows)]
        table = write_table(folder, rows)
        del rows

        class Forgetful(FakeGenerator):
            def generate(self, requests: Any, settings: Any) -> list[GenerationResult]:
                return [self.answer(request) for request in requests]

        tracemalloc.start()
        try:
            assert run(Forgetful(), table, folder / "out").num_reused == 0
            result = run(Forgetful(), table, folder / "out", captions=True, evaluator=evaluator)
            assert (result.num_reused, result.scores.metrics["cider"].status) == (num_rows, "ok")
            write_report(folder / "out", options=ReportOptions(max_pictures=0, max_rows=10))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = 500, 2500
    growth = (peak(many) - peak(few)) / (many - few)
    assert 200 < growth < 2000, f"{growth:.0f} bytes a row"


@pytest.mark.abuse(20)
def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append([entry("k")])
        assert journal.find("k") == entry("k")
        journal.forget()
        assert journal.find("k") is None
        with pytest.raises(DataError, match=rf"another run is writing here \(process {os.getpid()} on "):
            Journal(tmp_path)
    with Journal(tmp_path) as journal:
        assert len(journal) == 1


@pytest.mark.parametrize("torn", [b'{"key": "k2", "pred', b"\0\0\0", b"{}", b'{"key": "k2"}'])
@pytest.mark.abuse(14)
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    with Journal(tmp_path) as journal:
        journal.append([entry("k1"), entry("k3", None, "failed")])
    path = tmp_path / "predictions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Journal(tmp_path) as journal:
        assert journal.find("k1") == entry("k1")
        assert journal.find("k3") is None
        journal.append([entry("k2")])
    assert path.read_bytes().startswith(whole + b'{"key": "k2"')
    with Journal(tmp_path) as journal:
        assert len(journal) == 2


def test_an_unreadable_line_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Journal(tmp_path) as journal:
        journal.append([entry("k1")])
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b'\xff\xfe\n{"key": 3}\n' + path.read_bytes())
    with Journal(tmp_path) as journal:
        assert len(journal) == 1
    assert "line 1: not readable" in caplog.text


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path) as journal:
        journal.append([entry("k1")])
        before = journal.path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left on device; 1 answers are kept"):
            journal.append([entry("k2")])
        assert journal.path.read_bytes() == before
        assert journal.find("k2") is None


def test_an_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    table = write_table(tmp_path, [("a.jpg", "q", "r")])
    with pytest.raises(DataError, match="cannot be opened"):
        run(FakeGenerator(), table, tmp_path / "file")


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1", "-5", "@SUM(A1)", "\tx", "\rx", "'=x", "''-x", "'plain", "", "plain", "1-2"]
)
@pytest.mark.abuse(11)
def test_cells_are_no_formulas_and_come_back(text: str) -> None:
    escaped = escape_cell(text)
    assert not escaped.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unescape_cell(escaped) == text


def test_scoring_the_file_of_a_run_gives_the_scores_of_the_run(tmp_path: Path) -> None:
    class Tricky(FakeGenerator):
        def answer(self, request: GenerationRequest) -> GenerationResult:
            answer = super().answer(request)
            return answer if answer.text is None else GenerationResult(f"=1+1, {answer.text}\r\n", (1,), "stop")

    header = "url,query,annotation,answer,type,choices"
    rows = [
        ("a.jpg", "-q", "=one a", "=1+1 a q", "colour", "x|=1+1 a q"),
        ("a.jpg", "-q", "two b", "=1+1 a q", "colour", "x|=1+1 a q"),
        ("b.jpg", "q", "b q", "no", "shape", ""),
        ("missing.jpg", "q", "r", "r", "shape", ""),
        ("c.jpg", "q", "free text", "", "", ""),
    ]
    table = write_table(tmp_path, rows, header)
    first = run(Tricky(), table, tmp_path / "out", captions=True)
    second = score_file(tmp_path / "out/predictions.csv", tmp_path / "scored")
    assert second.scores.metrics == first.scores.metrics
    assert second.scores.by_type == first.scores.by_type
    assert second.scores.counts == first.scores.counts
    assert first.accuracy == 0.5
    assert [failure.row.sample_id for failure in second.failures] == ["3"]
    assert not (tmp_path / "scored/predictions.csv").exists()


def test_predictions_of_others(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("output,annotation\na red house,a red house\n,a dog\n")
    predictions = read_predictions(path)
    assert predictions.answers == ["a red house", None]
    path.write_text("image,prompt,caption,response\na,q,x,r1\na,q,x,r2\na,q,y,r3\n")
    predictions = read_predictions(path)
    assert predictions.answers == ["x", "y"]
    assert predictions.rows[0].references == predictions.rows[1].references == ("r1", "r2", "r3")
    path.write_text("image,query,predicton,response\na,q,x,r1\n")
    with pytest.raises(DataError, match=r"no prediction column; .*did you mean 'prediction'"):
        read_predictions(path)
    path.write_text("prediction,reference\nx,\n")
    with pytest.raises(DataError, match=r"line 2: column 'reference' is empty"):
        read_predictions(path)


def test_rows_of_predictions_share_equal_cells(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("image,prompt,caption,response\na,what is it,x,a red ball\nb,what is it,y,a red ball\n")
    first, second = read_predictions(path).rows
    assert first.query is second.query
    assert first.references is second.references


def test_rows_that_carry_several_references_write_one_line_each(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(b"x")
    rows = [Row("s", image, "q", ("one", "two"), None, None, None, 2)]
    evaluate(FakeGenerator(), rows, output_dir=tmp_path / "out", captions=False, progress=False)
    lines = read_csv(tmp_path / "out/predictions.csv")
    assert [(line["sample_id"], line["reference"]) for line in lines] == [("s", "one"), ("s", "two")]
