"""cora-eval with a model that reads what no rule can, from the command line to the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_endpoint import KEY, Answer, FakeEndpoint, fails, says, serving

from cora.cli.eval import main

pytest.importorskip("openai")

ANSWERS = ("B", "like the sea", "hard to say", "", "I say blue", "like a rose")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CORA_API_KEY", KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    lines = [f'{n}.png,Which?,"{answer}",blue,red|blue,multiple_choice' for n, answer in enumerate(ANSWERS)]
    Path("answers.csv").write_text("\n".join(["image,query,prediction,reference,choices,protocol", *lines]))


def reads(body: dict[str, Any]) -> Answer:
    asked = json.loads(body["messages"][1]["content"])
    return says({"like the sea": "B", "like a rose": "A"}.get(asked["answer"], "NONE"))


def invoke(fake: FakeEndpoint, *arguments: str) -> Result:
    base = ("--csv-input", "answers.csv", "--output-dir", "out", "--set", "evaluation.caption_metrics=[]")
    model = ("--set", "evaluation.extraction_model=reader", "--set", f"evaluation.extraction_base_url={fake.url}")
    return CliRunner().invoke(main, [*base, *model, "--set", "endpoint.max_retries=0", *arguments])


def scores() -> dict[str, Any]:
    found = json.loads(Path("out/metrics.json").read_text())
    return {**found["protocols"]["multiple_choice"], **found["provenance"]["scoring"]["extraction"]}


def test_a_model_reads_what_rules_cannot_and_is_asked_once() -> None:
    with serving(reads) as fake:
        invoke(fake)
        found = scores()
        assert found["read_by"] == {"exact": 1, "pattern": 1, "model": 2}
        assert (found["correct"], found["unextracted"], found["asked"], found["failures"]) == (3, 1, 3, {})
        assert (found["model"], found["input_tokens"]) == ("reader", 300)
        # The question with its choices and the answer, but not what would be right.
        shown = json.loads(fake.bodies[0]["messages"][1]["content"])
        assert set(shown) == {"question", "answer"}
        assert "B. blue" in shown["question"]
        assert "letter of the choice" in fake.bodies[0]["messages"][0]["content"]
        invoke(fake)
        assert len(fake.bodies) == 3
        assert (scores()["asked"], scores()["reused"], scores()["correct"]) == (0, 3, 3)
    assert KEY not in "".join(path.read_text() for path in Path("out").iterdir() if path.is_file())


def test_a_request_that_fails_leaves_its_answer_unread_and_is_asked_again() -> None:
    with serving(lambda body: fails(500) if "rose" in body["messages"][1]["content"] else reads(body)) as fake:
        invoke(fake)
        assert (scores()["unextracted"], scores()["failures"]) == (2, {"server": 1})
    with serving(reads) as other:
        fake.url = other.url
        invoke(fake)
        # Another address is another model.
        assert (scores()["asked"], scores()["unextracted"]) == (3, 1)


def test_a_wrong_key_is_one_line_and_what_was_read_is_kept() -> None:
    with serving(lambda body: fails(401) if "rose" in body["messages"][1]["content"] else reads(body)) as fake:
        result = invoke(fake, "--set", "endpoint.max_concurrent=1")
        assert result.exit_code == 2
        assert "check the key" in result.stderr.splitlines()[-1]
        assert len(json.loads(Path("out/extractions.json").read_text())) == 2


def test_readings_of_another_kind_are_refused() -> None:
    Path("out").mkdir()
    Path("out/extractions.json").write_text("[1]")
    with serving(reads) as fake:
        result = invoke(fake)
    assert result.exit_code == 2
    assert "extractions.json is no table of readings" in result.stderr


def test_endpoint_settings_without_an_endpoint_have_no_effect_and_are_refused() -> None:
    Path("test.csv").write_text("url,query,annotation\na.png,q,red\n")
    arguments = ["--checkpoint", "m", "--test-csv", "test.csv", "--set", "endpoint.max_retries=0"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "endpoint.max_retries=0: only keys of" in result.stderr
    arguments = ["--csv-input", "answers.csv", "--set", "evaluation.extraction_base_url=http://127.0.0.1:1/v1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "no effect without evaluation.extraction_model" in result.stderr
