"""A server on loopback that speaks OpenAI's protocol and says what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-0123456789"


@dataclass
class Answer:
    """One response; a `body` that is text is sent as it is."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def says(text: str | None, *, finish_reason: str = "stop", seconds: float = 0.0, **message: Any) -> Answer:
    """A completion with 100 tokens in and 10 out."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "served-model", "choices": [choice]}
    return Answer({**body, "usage": usage}, seconds=seconds)


def fails(status: int, message: str = "no", *, code: str | None = None, retry_after: str | None = None) -> Answer:
    # Without a hint the client would wait half a second and more.
    headers = {"Retry-After": retry_after} if retry_after is not None else {"retry-after-ms": "5"}
    return Answer({"error": {"message": message, "code": code}}, status, headers)


class FakeEndpoint:
    """Answers completions with a function of the request's body; keeps bodies, headers, files and batches."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[Message] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.batch_status = "completed"
        self.num_open = self.most_open = 0
        self.lock = threading.Lock()
        self.url = ""

    def complete(self, body: dict[str, Any], headers: Message) -> Answer:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.num_open += 1
            self.most_open = max(self.most_open, self.num_open)
        try:
            answer = self.answer(body)
            time.sleep(answer.seconds)
            return answer
        finally:
            with self.lock:
                self.num_open -= 1

    def upload(self, content: bytes) -> Answer:
        # The JSON lines are the part of the form between its first line of braces and its last.
        lines = [line for line in content.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"{")]
        name = f"file-{len(self.files)}"
        self.files[name] = b"\n".join(lines)
        return Answer({"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "f", "purpose": "batch"})

    def submit(self, body: dict[str, Any]) -> Answer:
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {"id": name, "object": "batch", "status": "in_progress", "created_at": 0, **body}
        return Answer(self.batches[name])

    def batch(self, name: str) -> Answer:
        batch = self.batches[name]
        if batch["status"] == "in_progress" and self.batch_status != "in_progress":
            output, errors = [], []
            for line in self.files[batch["input_file_id"]].splitlines():
                request = json.loads(line)
                answer = self.answer(request["body"])
                response = {"status_code": answer.status, "request_id": "r", "body": answer.body}
                record = {"id": "x", "custom_id": request["custom_id"], "response": response, "error": None}
                (output if answer.status == 200 else errors).append(json.dumps(record).encode())
            batch["status"] = self.batch_status
            for role, lines in (("output_file_id", output), ("error_file_id", errors)):
                if lines:
                    batch[role] = f"{role}-{name}"
                    self.files[batch[role]] = b"\n".join(lines)
        return Answer(batch)


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[FakeEndpoint]:
    """Run a fake endpoint in a thread; its `url` ends with ``/v1``."""
    fake = FakeEndpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/files"):
                self.send(fake.upload(content))
            elif self.path.endswith("/batches"):
                self.send(fake.submit(json.loads(content)))
            else:
                self.send(fake.complete(json.loads(content), self.headers))

        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            if parts[-1] == "content":
                self.send(Answer(fake.files[parts[-2]].decode()))
            else:
                self.send(fake.batch(parts[-1]))

        def send(self, answer: Answer) -> None:
            content = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
            try:
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True  # the client gave up or was killed

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
