"""The page's files and what its script says to the server, without a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from page_host import PageHost
from starlette.testclient import TestClient

from cora.serving.page import POLICY

CHAT = (files("cora.serving") / "assets" / "chat.js").read_text()
HOSTILE = "Is it 5$ `id` $(id) \"'\\ <b>\n# end? JSON é"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(PageHost().app)


def in_node(script: str) -> Any:
    code = f"{CHAT}\nconst run = async () => {{ {script} }};\nrun().then((it) => console.log(JSON.stringify(it)));"
    done = subprocess.run(["node", "--input-type=module"], input=code, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_file_the_page_names_is_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 6
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name in named:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_nothing_comes_from_elsewhere_or_stands_in_the_markup(client: TestClient) -> None:
    page = client.get("/").text
    for name in ["", *re.findall(r'(?:src|href)="([^"]+)"', page)]:
        addresses = set(re.findall(r"https?://[^\s\"'`<>)]+", client.get(f"/{name}").text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
    assert not re.search(r"<script(?![^>]* src=)|<style|\bstyle=|\bon\w+=", page)
    assert "unsafe" not in POLICY


def test_the_views_are_those_of_the_processor(client: TestClient) -> None:
    said = client.get("/cora/views").json()
    processor = client.app.state.image_processor  # type: ignore[attr-defined]
    assert said["views"] == [view.to_dict() for view in processor.views]
    assert (said["model"], said["vision_tokens"], said["view_size"]) == ("quick <model>", 98, [64, 64])
    assert said["max_body_bytes"] == 2**20


def test_a_model_without_views_has_none() -> None:
    host = PageHost()
    host.app.state.image_processor = None
    host.app.state.served.num_vision_tokens = None
    assert TestClient(host.app).get("/cora/views").json()["views"] == []


@needs_node
def test_the_panorama_stands_before_the_first_question() -> None:
    turns = [{"role": role, "text": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    body = in_node(f"return requestOf('m', {json.dumps(turns)}, 'data:x', 7);")
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 7, True)
    first, *others = body["messages"]
    assert first["content"] == [{"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "text", "text": "a"}]
    assert others == [{"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@needs_node
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_an_answer_is_read_however_it_is_cut(size: int) -> None:
    deltas = [{"role": "assistant", "content": ""}, {"content": "grün "}, {"content": "😀\n"}, {}]
    lines = [f"data: {json.dumps({'choices': [{'delta': delta}]}, ensure_ascii=False)}\n\n" for delta in deltas]
    stream = list("".join([": hello\n\n", *lines, "data: [DONE]\n\n"]).encode())
    script = f"""
    const bytes = Uint8Array.from({stream});
    const body = new ReadableStream({{ start(controller) {{
      for (let at = 0; at < bytes.length; at += {size}) controller.enqueue(bytes.slice(at, at + {size}));
      controller.close();
    }} }});
    const parts = [];
    for await (const part of answerParts(new Response(body))) parts.push(part);
    return parts;"""
    assert in_node(script) == ["grün ", "😀\n"]


@needs_node
@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("new Response('')", "The answer broke off: the server closed the connection."),
        ("""new Response('data: {"error": {"message": "engine died"}}\\n\\n')""", "engine died"),
        ("new Response('oops', {status: 500})", "The server answered with 500."),
        ("""new Response('{"error": {"message": "not a panorama"}}', {status: 400})""", "Not a panorama"),
        (
            """new Response('{"error": {"message": "too many requests at once"}}', {status: 429})""",
            "The server is busy. Try again in a moment. Too many requests at once",
        ),
    ],
)
def test_errors_are_said_in_words(response: str, said: str) -> None:
    script = f"try {{ for await (const _ of answerParts({response})); }} catch (error) {{ return error.message; }}"
    assert in_node(script) == said


def call(kind: str, name: str) -> str:
    options = {
        "origin": "http://127.0.0.1:1",
        "model": "a 'model'",
        "question": HOSTILE,
        "maxTokens": 9,
        "hasKey": True,
    }
    return str(in_node(f"return {kind}({json.dumps({**options, 'file': {'name': name, 'type': 'image/png'}})});"))


def check_body(body: Any, content: bytes) -> None:
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("a 'model'", 9, 0)
    picture, text = body["messages"][0]["content"]
    assert picture["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(content).decode()}"
    assert text["text"] == HOSTILE


@needs_node
def test_the_copied_curl_call_sends_what_the_page_sends(tmp_path: Path) -> None:
    name = "it's $(id) pano.png"
    (tmp_path / name).write_bytes(bytes(range(256)) * 3)
    # In place of curl: writes down what it is told.
    (tmp_path / "curl").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > told\ncat > body\n')
    (tmp_path / "curl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CORA_API_KEY": "sk-1"}
    subprocess.run(["bash", "-c", call("curlCall", name)], cwd=tmp_path, env=environment, check=True, timeout=60)
    told = (tmp_path / "told").read_text().splitlines()
    assert told[0] == "http://127.0.0.1:1/v1/chat/completions"
    assert "Authorization: Bearer sk-1" in told
    check_body(json.loads((tmp_path / "body").read_text()), bytes(range(256)) * 3)


@needs_node
def test_the_copied_python_call_sends_what_the_page_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = 'a "b" pano.png'
    (tmp_path / name).write_bytes(b"\x00\x01")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORA_API_KEY", "sk-1")
    sent: dict[str, Any] = {}

    class Client:
        def __init__(self, **options: Any) -> None:
            sent["options"] = options
            self.chat = self.completions = self

        def create(self, **body: Any) -> Any:
            sent["body"] = body
            message = type("Message", (), {"content": "fine"})
            return type("Answer", (), {"choices": [type("Choice", (), {"message": message})]})

    module = ModuleType("openai")
    module.OpenAI = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openai", module)
    exec(compile(call("pythonCall", name), "copied", "exec"), {})
    assert sent["options"] == {"base_url": "http://127.0.0.1:1/v1", "api_key": "sk-1"}
    check_body(sent["body"], b"\x00\x01")
    assert capsys.readouterr().out == "fine\n"
