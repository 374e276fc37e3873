"""docs/serving.md: its examples run against a server, and its routes and settings are those there are."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from served import KEY, Server
from tiny_models import make_panorama

PAGE = (Path(__file__).resolve().parents[2] / "docs/serving.md").read_text(encoding="utf-8")
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")


def example(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return code


def run(command: list[str], server: Server, folder: Path) -> str:
    make_panorama(0).save(folder / "panorama.jpg")
    environment = {**os.environ, "CORA_API_KEY": KEY, "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.vllm
@needs_vllm
def test_the_python_example(server: Server, tmp_path):
    code = example("python").replace("http://127.0.0.1:8000", server.url)
    whole = run([sys.executable, "-c", code], server, tmp_path)
    first, _, rest = whole.partition("\n")
    assert first
    # What is streamed is what was answered at once.
    assert rest.startswith(first)


@pytest.mark.vllm
@needs_vllm
def test_the_curl_example(server: Server, tmp_path):
    streamed = run(["bash", "-c", example("bash").replace("http://127.0.0.1:8000", server.url)], server, tmp_path)
    assert streamed.startswith("data: ")
    assert streamed.rstrip().endswith("data: [DONE]")


@pytest.mark.vllm
@needs_vllm
def test_the_routes(server: Server):
    routes = re.findall(r"^\| `(GET|POST) (\S+)` \|.*\| (yes|no) \|$", PAGE, flags=re.MULTILINE)
    assert len(routes) == 7
    with server.client(key=None) as client:
        for method, path, key in routes:
            assert client.request(method, path).status_code == (401 if key == "yes" else 200)
    with server.client() as client:
        assert {client.request(method, path).status_code for method, path, _ in routes} <= {200, 415}


def test_the_settings_are_there():
    from cora.config.serve import ServeConfig

    config = ServeConfig().known()
    for section, name in re.findall(r"`(?:--set )?(media|limits)\.(\w+)", PAGE):
        assert name in config[section]
