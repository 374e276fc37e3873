"""``cora ask``: one answer in the terminal, from an export and from a server, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from page_host import KEY, PageHost, hosting
from tiny_models import make_panorama

from cora.cli.main import main
from cora.inference.generator import PanoramaGenerator


@pytest.fixture(scope="module")
def shared_host() -> Iterator[PageHost]:
    with hosting() as running:
        yield running


@pytest.fixture
def host(shared_host: PageHost, monkeypatch: pytest.MonkeyPatch) -> PageHost:
    shared_host.reset()
    for name in ("CORA_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return shared_host


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    make_panorama(0).save(tmp_path / "pano.png")
    return tmp_path / "pano.png"


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ask", *map(str, arguments)], prog_name="cora")


@pytest.mark.parametrize("path", ["", "/", "/v1"])
def test_a_server_is_asked(host: PageHost, panorama: Path, path: str) -> None:
    result = ask(panorama, "What is ahead?", "--url", host.url + path, "--max-tokens", 9)
    assert (result.exit_code, result.stdout) == (0, "A red cone <b>here</b>.\n"), result.output
    (body,) = host.bodies
    assert (body["model"], body["max_tokens"], body["stream"]) == ("quick <model>", 9, True)
    picture, text = body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"] == "What is ahead?"


def test_the_key_comes_from_the_environment(host: PageHost, panorama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.needs_key = True
    refused = ask(panorama, "What?", "--url", host.url)
    assert refused.exit_code == 2
    assert "HTTP 401: a valid API key is needed; check the key" in refused.stderr
    monkeypatch.setenv("CORA_API_KEY", KEY)
    assert ask(panorama, "What?", "--url", host.url).exit_code == 0


def test_one_of_several_models_is_chosen(host: PageHost, panorama: Path) -> None:
    host.models = ["a", "b"]
    refused = ask(panorama, "What?", "--url", host.url)
    assert refused.exit_code == 2
    assert "has 2 models, choose one with --model: a, b" in refused.stderr
    assert ask(panorama, "What?", "--url", host.url, "--model", "b").exit_code == 0
    assert host.bodies[-1]["model"] == "b"


def test_refusals_are_said(host: PageHost, panorama: Path, tmp_path: Path) -> None:
    host.refuses = (400, "image: 5 x 4 pixels are no panorama")
    refused = ask(panorama, "What?", "--url", host.url)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "HTTP 400: image: 5 x 4 pixels are no panorama" in refused.stderr
    host.refuses = None
    missing = ask(tmp_path / "none.png", "What?", "--url", host.url)
    assert missing.exit_code == 2
    assert "none.png" in missing.stderr
    assert host.bodies[1:] == []
    away = ask(panorama, "What?", "--url", "http://127.0.0.1:9")
    assert away.exit_code == 2
    assert "http://127.0.0.1:9/v1 cannot be reached" in away.stderr


@pytest.mark.parametrize("options", [(), ("--url", "http://127.0.0.1:9", "--checkpoint", "here")])
def test_there_is_one_model_to_ask(panorama: Path, options: tuple[str, ...]) -> None:
    refused = ask(panorama, "What?", *options)
    assert refused.exit_code == 2
    assert "give either --checkpoint DIR or --url URL" in refused.stderr
    assert "the question is empty" in ask(panorama, " ", *options).stderr


def test_an_export_is_asked(server_checkpoint: Path, panorama: Path, tmp_path: Path) -> None:
    result = ask(panorama, "What is ahead?", "--checkpoint", server_checkpoint)
    generator = PanoramaGenerator.from_checkpoint(server_checkpoint, "transformers")
    expected = generator.answer(panorama, "What is ahead?")
    generator.close()
    assert (result.exit_code, result.stdout) == (0, f"{expected}\n"), result.output
    flat = tmp_path / "flat.png"
    make_panorama(0).resize((100, 100)).save(flat)
    refused = ask(flat, "What?", "--checkpoint", server_checkpoint)
    assert refused.exit_code == 2
    assert "flat.png" in refused.stderr
