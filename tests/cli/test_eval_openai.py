"""cora-eval with a model behind an endpoint, from the command line to the files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_endpoint import KEY, FakeEndpoint, fails, says, serving
from PIL import Image

from cora.cli.eval import main

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CORA_API_KEY", KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (64, 32), colour).save(f"{name}.png")
    Path("test.csv").write_text("url,query,annotation,type\na.png,q,red,colour\nb.png,q,blue,colour\n")


def invoke(fake: FakeEndpoint, *arguments: str) -> Result:
    base = ("--backend", "openai", "--test-csv", "test.csv", "--output-dir", "out")
    url = ("--set", f"endpoint.base_url={fake.url}", "--set", "endpoint.max_retries=1")
    return CliRunner().invoke(main, [*base, *url, *arguments], prog_name="cora-eval")


def everything_written() -> str:
    return "".join(path.read_text() for path in Path("out").rglob("*") if path.is_file())


def test_a_served_model_is_evaluated_and_resumed() -> None:
    with serving(lambda _: says("Red.")) as fake:
        result = invoke(fake, "--checkpoint", "org/model", "--set", "generation.max_new_tokens=9", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout.splitlines()[-1])["metrics"]["exact_match"] == 0.5
        assert [(body["model"], body["max_tokens"]) for body in fake.bodies] == [("org/model", 9)] * 2
        assert invoke(fake, "--checkpoint", "org/model", "--set", "generation.max_new_tokens=9").exit_code == 0
        assert len(fake.bodies) == 2
        assert invoke(fake, "--checkpoint", "org/other", "--set", "generation.max_new_tokens=9").exit_code == 0
        assert len(fake.bodies) == 4
    origin = json.loads(Path("out/metrics.json").read_text())["provenance"]
    assert origin["backend"] == f"openai {fake.url}"
    assert KEY not in everything_written() + result.output


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: says("red")) as fake:
        monkeypatch.setitem(os.environ, "OPENAI_BASE_URL", fake.url)
        arguments = ["--backend", "openai", "--checkpoint", "m", "--test-csv", "test.csv", "--output-dir", "out"]
        assert CliRunner().invoke(main, arguments).exit_code == 0
    assert len(fake.bodies) == 2


def test_a_wrong_key_is_one_line() -> None:
    with serving(lambda _: fails(401, f"wrong key {KEY}")) as fake:
        result = invoke(fake, "--checkpoint", "m")
    assert result.exit_code == 2
    assert f"error: {fake.url}: HTTP 401: wrong key ***; check the key" in result.stderr.splitlines()
    assert KEY not in everything_written() + result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cpu"), "--device cpu: the server of the back end openai has its own"),
        (("--set", "judge.temperature=1"), "sections generation, evaluation and endpoint have an effect here"),
        (("--set", "endpoint.base_url=ftp://x"), "the base URL is no http(s) address"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], message: str) -> None:
    with serving(lambda _: says("red")) as fake:
        result = invoke(fake, "--checkpoint", "m", *arguments)
    assert (result.exit_code, fake.bodies) == (2, [])
    assert message in result.stderr
