"""A `cora-serve` of a tiny checkpoint, started as users start it, and what tests send to it."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from tiny_models import make_model, make_panorama

KEY = "sk-only-for-tests"
MODEL = "tiny"
# Waiting for a server that is shared with other work of the machine; it is ready in half a minute alone.
START_SECONDS = 240
# Small limits, so that tests reach them.
SERVER_OPTIONS = (
    "--allow-media-domain",
    "localhost",
    "--set",
    "limits.max_body_bytes=8388608",
    "--set",
    "limits.max_bytes_in_flight=25165824",
    "--set",
    "limits.max_concurrent=12",
    "--set",
    "engine.max_num_seqs=16",
)
_READY = re.compile(r"ready after [0-9.]+ s: (http://\S+)/v1")


# Nothing of this machine: no path, no address, no traceback, no class of Python.
LEAKS = re.compile(
    r"0x[0-9a-f]{4}|Traceback|File \"|\.py\b|/(etc|home|root|tmp|usr|work)\b|site-packages|object at", re.I
)


def refused(response: httpx.Response, *, status: int = 400) -> str:
    """Return the message of a refusal, which is short JSON without anything that is nobody's business."""
    assert response.status_code == status, response.text
    assert not LEAKS.search(response.text), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert 0 < len(error["message"]) < 600
    return error["message"]


@dataclass
class Server:
    """A running server.

    Attributes:
        url: Its address, without ``/v1``.
        process: The process.
        log: What it wrote.
        media: The folder that ``file://`` addresses may name.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    media: Path

    def client(self, key: str | None = KEY) -> httpx.Client:
        """Return a client that sends the key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def ask(self, content: Any, **options: Any) -> httpx.Response:
        """Return the response to one message."""
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0, **options}
        with self.client() as client:
            return client.post("/v1/chat/completions", json=body)

    def engine_pid(self) -> int:
        """Return the process of the engine: the child that runs the model."""
        for pid in children(self.process.pid):
            if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                return pid
        raise AssertionError("the engine has no process")


def stop_while_answering(server: Server) -> None:
    """Send SIGTERM while an answer is streamed: all of it arrives, new requests are refused, the exit code is 0."""
    body = {"messages": [{"role": "user", "content": about(0)}], "stream": True, "max_tokens": 900, "ignore_eos": True}
    with server.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        server.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    assert len(rest) > 1000
    assert server.process.wait(30) == 0, server.log.read_text(errors="replace")[-2000:]


def children(pid: int) -> list[int]:
    """Return the processes below a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def data_uri(picture: Image.Image | bytes, kind: str = "png", **options: Any) -> str:
    """Return a picture, or the bytes of its file, as an address."""
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        picture = file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def about(panorama: Any, question: str = "What is ahead?") -> list[dict[str, Any]]:
    """Return the content of a message about a panorama: an address, or a number that one is made of."""
    url = panorama if isinstance(panorama, str) else data_uri(make_panorama(panorama))
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]


def write_checkpoint(folder: Path) -> Path:
    """Save a tiny model with random weights and return where."""
    model, processor = make_model("qwen")
    model.export(folder, processor)
    return folder


@contextmanager
def serving(
    checkpoint: Path, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start a server, wait until it is ready, and end it if it still runs."""
    media = folder / "media"
    media.mkdir()
    log = folder / "serve.log"
    command = [sys.executable, "-m", "cora.cli.serve", "--checkpoint", str(checkpoint), "--port", "0"]
    command += ["--served-model-name", MODEL, "--allow-media-dir", str(media), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "CORA_API_KEY": KEY, **(environment or {})}
        )
    try:
        yield Server(_wait_for_address(process, log), process, log, media)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (found := _READY.search(log.read_text(errors="replace"))) is not None:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')}")
