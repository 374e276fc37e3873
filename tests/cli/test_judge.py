"""cora judge from the command line: scores, exit codes, resuming after a kill, batches, and no key anywhere."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_endpoint import KEY, Answer, FakeEndpoint, fails, says, serving
from fake_judge import grade, prefer, replies, samples_in, write_predictions

import cora
from cora.cli.collect import main as collect
from cora.cli.judge import main
from cora.cli.report import main as report
from cora.evaluation.metrics import CORAEvaluator
from cora.evaluation.runner import score_file

pytest.importorskip("openai")

ROWS = [(f"{n // 2}.png", f"q{n % 2}", f"answer {n}", f"reference {n}") for n in range(40)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("CORA_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    Path(".env").write_text(f"OPENAI_API_KEY={KEY}\n")
    write_predictions(tmp_path / "run", ROWS)


def arguments(fake: FakeEndpoint, *more: str) -> list[str]:
    settings = ("--set", "endpoint.max_retries=1", "--set", "endpoint.timeout_seconds=5")
    return ["run/predictions.csv", "--model", "org/judge:1", "--base-url", fake.url, *settings, *more]


def invoke(fake: FakeEndpoint, *more: str) -> Result:
    result = CliRunner().invoke(main, arguments(fake, *more), prog_name="cora judge")
    written = [path.read_text() for path in Path("run").rglob("*") if path.suffix != ".png" and path.is_file()]
    assert KEY not in "".join([result.output, *written])
    return result


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def four(body: dict[str, Any]) -> Answer:
    return replies(lambda _: grade(4, fluency=5))(body)


def test_a_predictions_file_is_judged() -> None:
    with serving(four) as fake:
        result = invoke(fake, "--set", "judge.input_price=1", "--set", "judge.output_price=1")
        assert result.exit_code == 0, result.output
        assert {header["Authorization"] for header in fake.headers} == {f"Bearer {KEY}"}
    assert "weighted_score      82.0  (95 %: 82 … 82)" in result.stdout
    assert "  spatial_coherence 4.00" in result.stdout
    assert "40 of 40 questions judged\n20 requests, 2000 tokens in, 200 tokens out, cost 0.0022\n" in result.stdout
    assert result.stdout.endswith("files: run/judge-org-judge-1\n")
    assert sorted(path.name for path in Path("run/judge-org-judge-1").iterdir()) == [
        "judge.csv",
        "judge.json",
        "judge.jsonl",
    ]


def test_the_last_line_is_one_json_document() -> None:
    with serving(four) as fake:
        result = invoke(fake, "--json", "--limit", "3", "--output-dir", "out")
        document = json.loads(result.stdout.splitlines()[-1])
        again = json.loads(invoke(fake, "--json", "--limit", "3", "--output-dir", "out").stdout.splitlines()[-1])
    assert (document["exit_code"], document["mode"], document["counts"]["judged"]) == (0, "pointwise", 3)
    assert document["weighted_score"]["value"] == pytest.approx(82)
    assert (document["reused"], again["reused"], len(fake.bodies)) == (0, 3, 2)


def test_a_judged_run_is_reported_and_compared() -> None:
    score_file("run/predictions.csv", "run", evaluator=CORAEvaluator(metrics=("cider",), tokenizer="regex"))
    with serving(four) as fake:
        assert invoke(fake).exit_code == 0
    assert CliRunner().invoke(report, ["run"]).exit_code == 0
    text = Path("run/report.html").read_text()
    assert "40 of 40 answers have a verdict." in text
    assert "judged answers are not those of this run" not in text
    assert "| Judge org/judge:1 |" in CliRunner().invoke(collect, ["run"]).stdout


@pytest.mark.parametrize(("num_bad", "exit_code"), [(2, 0), (3, 3)])
@pytest.mark.abuse(23)
def test_more_than_one_in_twenty_without_a_verdict_is_an_error(num_bad: int, exit_code: int) -> None:
    bad = {f"answer {n}" for n in range(num_bad)}
    with serving(replies(lambda sample: None if sample["candidate"] in bad else grade(4))) as fake:
        result = invoke(fake)
        assert result.exit_code == exit_code
        assert f"{num_bad} of 40 answers have no verdict (garbage {num_bad}; allowed are 5%)" in result.stderr
        assert bool(errors(result)) == (exit_code == 3)
        assert invoke(fake, "--set", "judge.max_failed_share=0.5").exit_code == 0


@pytest.mark.parametrize("status", [401, 402])
@pytest.mark.abuse(23)
def test_a_refusal_stops_early_and_keeps_what_is_done(status: int) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return four(body) if len(fake.bodies) <= 5 else fails(status, f"no more for {KEY}")

    with serving(answer) as fake:
        result = invoke(fake, "--set", "endpoint.max_concurrent=1")
        assert (result.exit_code, len(fake.bodies)) == (2, 6)
        assert f"error: {fake.url}: HTTP {status}: no more for ***" in result.stderr
        report = json.loads(Path("run/judge-org-judge-1/judge.json").read_text())
        assert report["counts"] == {"samples": 40, "judged": 10, "unanswered": 0, "failed": 30}
        assert report["failures"]["not_asked"] == 28
        fake.answer = four
        result = invoke(fake)
    assert "40 of 40 questions judged, 10 of them by an earlier run" in result.stdout
    assert len(fake.bodies) == 6 + 15


@pytest.mark.abuse(23)
def test_rate_limits_and_server_faults_are_waited_out() -> None:
    hiccups = iter([fails(429, retry_after="0.2"), fails(500), fails(503)])
    with serving(lambda body: next(hiccups, None) or four(body)) as fake:
        result = invoke(fake, "--set", "endpoint.max_retries=3", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["usage"]["retries"] == 3


@pytest.mark.abuse(23)
def test_a_slow_judge_is_counted_as_a_time_out() -> None:
    with serving(lambda body: says("late", seconds=3) if "answer 0" in str(body) else four(body)) as fake:
        result = invoke(fake, "--set", "endpoint.timeout_seconds=1.5", "--set", "endpoint.max_retries=0", "--json")
    assert json.loads(result.stdout)["failures"] == {"timeout": 2}


def test_killed_and_resumed_it_says_what_an_unbroken_run_says() -> None:
    def answer(body: dict[str, Any]) -> Answer:
        reply = replies(lambda sample: grade(1 + int(sample["candidate"].split()[1]) % 5))(body)
        reply.seconds = 0.05
        return reply

    environment = {**os.environ, "PYTHONPATH": str(Path(cora.__file__).parents[1])}
    journal = Path("run/judge-org-judge-1/judge.jsonl")
    with serving(answer) as fake:
        for target in (3, 9):
            command = [sys.executable, "-m", "cora.cli.main", "judge", *arguments(fake)]
            command += ["--set", "endpoint.max_concurrent=2"]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if journal.is_file() and journal.read_bytes().count(b"\n") >= target:
                    break
                time.sleep(0.002)
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            _, stderr = process.communicate()
            assert KEY.encode() not in stderr
        result = invoke(fake, "--set", "endpoint.max_concurrent=2")
        assert result.exit_code == 0
        # Lost is at most what was on its way at each kill.
        assert 20 <= len(fake.bodies) <= 20 + 2 * 2
        broken = Path("run/judge-org-judge-1/judge.csv").read_bytes()
        assert invoke(fake, "--output-dir", "run/whole").exit_code == 0
    assert Path("run/whole/judge.csv").read_bytes() == broken
    with Path("run/whole/judge.csv").open(newline="") as stream:
        assert [float(row["weighted_score"]) for row in csv.DictReader(stream)] == [
            20.0 * (1 + n % 5) for n in range(40)
        ]


@pytest.mark.parametrize(("number", "code", "words"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "ended by")])
def test_told_to_end_it_ends_soon_and_keeps_what_is_done(number: str, code: int, words: str) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        if len(fake.bodies) <= 6:
            return four(body)
        return says("slow", seconds=30)

    environment = {**os.environ, "PYTHONPATH": str(Path(cora.__file__).parents[1])}
    with serving(answer) as fake:
        command = [sys.executable, "-m", "cora.cli.main", "judge", *arguments(fake)]
        command += ["--set", "endpoint.timeout_seconds=60"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(fake.bodies) < 9:
            time.sleep(0.01)
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(signal.Signals[number])
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - started < 10
    assert process.returncode == code
    assert f"error: {words}".encode() in stderr
    assert len(Path("run/judge-org-judge-1/judge.jsonl").read_text().splitlines()) == 6


def test_two_files_are_compared() -> None:
    rows = [(f"../run/{image}", query, f"other {n}", reference) for n, (image, query, _, reference) in enumerate(ROWS)]
    write_against(rows)
    with serving(replies(lambda sample: prefer("first" if "other" in sample["first"] else "second"))) as fake:
        result = invoke(fake, "--against", "other/predictions.csv")
        assert (result.exit_code, len(fake.bodies)) == (0, 40)
    assert "overall               0.000  1.000  0.000" in result.stdout
    report = json.loads(Path("run/judge-org-judge-1-against-other/judge.json").read_text())
    assert (report["mode"], report["margin"]["value"], report["orders_agree"]) == ("pairwise", -1.0, 1.0)
    assert report["provenance"]["questions_in_one_file_only"] == 0


def write_against(rows: list[tuple[str, str, str, str]]) -> None:
    Path("other").mkdir()
    with Path("other/predictions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("image_path", "query", "prediction", "reference"), *rows])


def test_a_batch_is_handed_in_once_and_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    from cora.evaluation.judge import batch

    monkeypatch.setattr(batch, "MAX_REQUESTS", 12)
    bad = {"answer 6", "answer 7"}

    def answer(body: dict[str, Any]) -> Answer:
        if samples_in(body)[0]["candidate"] == "answer 0":
            return fails(429, "too many")
        return replies(lambda sample: None if sample["candidate"] in bad else grade(3))(body)

    with serving(answer) as fake:
        fake.batch_status = "in_progress"
        result = invoke(fake, "--batch", "--json")
        assert result.exit_code == 0, result.output
        handed_in = json.loads(result.stdout.splitlines()[-1])
        assert (handed_in["batches"], handed_in["requests"]) == (2, 20)
        assert [len(content.splitlines()) for content in fake.files.values()] == [12, 8]
        assert {batch["endpoint"] for batch in fake.batches.values()} == {"/v1/chat/completions"}
        request = json.loads(fake.files["file-0"].splitlines()[0])
        assert (request["method"], request["url"], request["body"]["model"]) == (
            "POST",
            "/v1/chat/completions",
            "org/judge:1",
        )
        for more in ((), ("--batch",)):
            again = invoke(fake, *more)
            assert again.exit_code == 2
            assert "batch batch-0 is under way; fetch it with --collect-batch" in again.stderr
        waiting = invoke(fake, "--collect-batch", "--json")
        assert waiting.exit_code == 3
        assert "2 batches are not finished" in waiting.stderr
        assert json.loads(waiting.stdout)["failures"] == {"pending": 40}
        fake.batch_status = "completed"
        result = invoke(fake, "--collect-batch", "--json")
        assert result.exit_code == 3
        document = json.loads(result.stdout)
        assert document["failures"] == {"garbage": 2, "rate_limit": 2}
        assert document["counts"]["judged"] == 36
        assert document["weighted_score"]["value"] == pytest.approx(60)
        assert (document["usage"]["requests_in_batches"], document["usage"]["input_tokens"]) == (20, 1900)
        assert len(fake.bodies) == 0
        assert json.loads(invoke(fake, "--collect-batch", "--json").stdout)["failures"] == document["failures"]
        bad.clear()
        fake.answer = four
        assert invoke(fake).exit_code == 0
        assert sum(len(samples_in(body)) for body in fake.bodies) == 4


def test_a_batch_that_expired_leaves_null() -> None:
    with serving(four) as fake:
        assert invoke(fake, "--batch").exit_code == 0
        fake.batches["batch-0"]["status"] = "expired"
        result = invoke(fake, "--collect-batch", "--json")
        assert json.loads(result.stdout)["failures"] == {"server": 40}
        assert "the batch ended without an answer: expired" in result.stderr
        assert invoke(fake).exit_code == 0


BAD_INPUT = {
    "both": (("--batch", "--collect-batch"), "give one of them"),
    "no batch": (("--collect-batch",), "no batch of this judge was handed in"),
    "section": (("--set", "training.seed=1"), "only keys of the sections judge and endpoint have an effect here"),
    "key": (("--set", "judge.temprature=1"), "judge.temprature: unknown key (did you mean 'temperature'?)"),
    "value": (("--set", "judge.max_failed_share=2"), "judge.max_failed_share"),
    "against": (("--against", "none.csv"), "none.csv: no such file"),
    "root": (("--image-root", "nowhere"), "image root nowhere: no such folder"),
}


@pytest.mark.parametrize(("more", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line(more: tuple[str, ...], message: str) -> None:
    with serving(four) as fake:
        result = invoke(fake, *more)
    assert (result.exit_code, len(fake.bodies)) == (2, 0)
    (line,) = errors(result)
    assert message in line


def test_no_key_for_openai_itself() -> None:
    Path(".env").unlink()
    result = CliRunner().invoke(main, ["run/predictions.csv", "--model", "m"])
    assert result.exit_code == 2
    assert "error: no key for https://api.openai.com/v1: set CORA_API_KEY or OPENAI_API_KEY" in result.stderr
