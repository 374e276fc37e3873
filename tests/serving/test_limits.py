"""How much a client gets: bodies, requests at once, answers and options have limits, and who leaves frees a place."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import KEY, Server, about, children, data_uri, refused
from tiny_models import make_panorama

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
MOST_BYTES = 8 * 2**20  # of SERVER_OPTIONS
MESSAGES = [{"role": "user", "content": "hi"}]


def message(response: httpx.Response) -> str:
    return response.json()["error"]["message"]


@pytest.mark.parametrize("size", [MOST_BYTES + 1, 10 * 2**20, 100 * 2**20])
@pytest.mark.abuse(5)
def test_a_body_that_is_too_large_is_not_read(server: Server, size):
    # Only the head is sent: the answer comes without the body.
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode())
        began = time.monotonic()
        answer = b""
        while not answer.endswith(b"}}"):
            answer += connection.recv(65536)
        assert time.monotonic() - began < 1
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 413 ")
    assert json.loads(body)["error"]["code"] == 413


@pytest.mark.abuse(5)
def test_a_body_without_a_length_is_read_up_to_the_limit(server: Server):
    def pieces():
        for _ in range(40):
            yield b" " * 2**18

    with server.client() as client:
        response = client.post("/v1/chat/completions", content=pieces(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("kind", "size", "status"), [("text/plain", 2**20, 415), ("application/json", MOST_BYTES + 2**20, 413)]
)
def test_a_refusal_waits_for_a_client_that_is_still_sending(server: Server, kind: str, size: int, status: int):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode())
        # The answer is there by now. Without a reader for the body it would be gone again.
        time.sleep(0.3)
        connection.sendall(b" " * size)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.endswith(b"}}")


def test_one_just_within_the_limit_is_taken(server: Server):
    body = json.dumps({"messages": MESSAGES, "max_tokens": 1}).encode()
    with server.client() as client:
        headers = {"Content-Type": "application/json"}
        response = client.post("/v1/chat/completions", content=body.ljust(MOST_BYTES), headers=headers)
    assert response.status_code == 200


@pytest.mark.abuse(26)
def test_too_many_requests_at_once_are_told_to_come_back(server: Server):
    def ask(seed: int) -> httpx.Response:
        return server.ask(about(seed % 4), max_tokens=200, ignore_eos=True)

    with ThreadPoolExecutor(40) as threads:
        responses = list(threads.map(ask, range(40)))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 12
    refused = responses[statuses.index(429)]
    assert message(refused) == "too many requests at once"
    assert refused.headers["retry-after"] == "1"
    assert ask(0).status_code == 200


def test_the_openai_client_waits_and_comes_back(server: Server):
    from openai import OpenAI

    def ask(_: int) -> str:
        with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=20) as client:
            answer = client.chat.completions.create(
                model="tiny", messages=MESSAGES, max_tokens=100, extra_body={"ignore_eos": True}
            )
        return answer.choices[0].finish_reason

    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(ask, range(20))) == {"length"}


def running(server: Server) -> float:
    with server.client() as client:
        text = client.get("/metrics").text
    return sum(map(float, re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} ([0-9.]+)$", text, re.MULTILINE)))


@pytest.mark.abuse(27)
def test_a_client_that_leaves_frees_its_place(server: Server):
    body = {"messages": MESSAGES, "stream": True, "max_tokens": 900, "ignore_eos": True, "n": 8}
    with server.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        next(lines)
        assert running(server) > 0
    left = time.monotonic()
    while running(server):
        assert time.monotonic() - left < 5
        time.sleep(0.05)
    # Nothing but the leaving of clients ended them: as many as there are places can be asked at once.
    with ThreadPoolExecutor(12) as threads:
        assert {r.status_code for r in threads.map(lambda _: server.ask("hi"), range(12))} == {200}


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"n": 10**6}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"logprobs": True, "top_logprobs": 10**6}, "logprobs"),
        ({"stop": ["x"] * 1000}, "stop"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"chat_template_kwargs": {"cora_vision": "x"}}, "chat_template_kwargs"),
        ({"mm_processor_kwargs": {"image_size": 4096}}, "mm_processor_kwargs"),
        ({"media_io_kwargs": {"image": {"image_mode": "L"}}}, "media_io_kwargs"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"documents": [{"title": "x"}]}, "documents"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"request_id": "x"}, "request_id"),
        ({"priority": -1}, "priority"),
        ({"tools": []}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"vllm_xargs": {}}, "vllm_xargs"),
    ],
)
@pytest.mark.abuse(6)
def test_options_that_change_more_than_the_answer_are_refused(server: Server, options, parameter):
    began = time.monotonic()
    response = server.ask("hi", **options)
    assert time.monotonic() - began < 1
    refused(response)
    assert response.json()["error"]["param"] == parameter
    assert server.ask("hi").status_code == 200


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "x"}, "uuid": "mine"},
        {"image_url": "http://127.0.0.1/"},
        {"type": "image_pil", "image_pil": "x"},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "prompt_embeds", "data": "AAAA"},
        {"type": "text", "text": None},
        {"type": "text"},
        "text",
        None,
    ],
)
def test_a_message_holds_text_and_panoramas_only(server: Server, part):
    assert "a part is" in message(server.ask([part]))


@pytest.mark.abuse(6)
def test_one_panorama_in_a_prompt(server: Server):
    panorama = about(0)[0]
    began = time.monotonic()
    assert "At most 1 image" in message(server.ask([panorama, panorama]))
    small = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert "At most 1 image" in message(server.ask([small] * 1000))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"{}", b'{"messages": [}', b"[" * 10**5, b"\xff\xfe", b"1e999"]
)
def test_what_is_no_request_is_refused(server: Server, body):
    for path in ("/v1/chat/completions", "/v1/completions"):
        with server.client() as client:
            response = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400


@pytest.mark.parametrize("headers", [{"Content-Encoding": "gzip"}, {"Content-Type": "multipart/form-data"}])
def test_other_kinds_of_bodies_are_refused(server: Server, headers):
    with server.client() as client:
        headers = {"Content-Type": "application/json", **headers}
        assert client.post("/v1/chat/completions", content=b"{}", headers=headers).status_code == 415


def resident_mb(server: Server) -> float:
    """Return the memory of the server and its processes that no other process shares."""
    total = 0.0
    for pid in (server.process.pid, *children(server.process.pid)):
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            total += sum(int(line.split()[1]) / 1024 for line in rollup if line.startswith("Private"))
    return total


@pytest.mark.abuse(26)
def test_more_large_panoramas_at_once_than_it_takes(server: Server, record_property):
    large = data_uri(make_panorama(0).resize((8192, 4096)), "jpeg", quality=60)

    def ask(number: int) -> tuple[int, float]:
        began = time.monotonic()
        response = server.ask(about(large, f"question {number}"), max_tokens=1)
        return response.status_code, time.monotonic() - began

    def ask_all() -> list[tuple[int, float]]:
        with ThreadPoolExecutor(36) as threads:
            return list(threads.map(ask, range(36)))

    ask_all()  # the first ones fill caches
    before = resident_mb(server)
    answers = ask_all()
    after = resident_mb(server)
    statuses = [status for status, _ in answers]
    waits = sorted(wait for status, wait in answers if status == 200)
    record_property("large panoramas", f"{len(waits)} answered, slowest {waits[-1]:.1f} s, {before:.0f}-{after:.0f} MB")
    assert set(statuses) == {200, 429}
    assert len(waits) >= 12
    # Thirty-six of them decoded are 3.5 GB; what is kept of them is little.
    assert after - before < 0.05 * before, f"{before:.0f} MB before, {after:.0f} MB after"


def test_a_slow_body_is_given_up(monkeypatch):
    from cora.config.serve import LimitsConfig
    from cora.serving import admission
    from cora.serving.rules import RequestRules

    monkeypatch.setattr(admission, "_BODY_SECONDS", 0.05)
    sent = []

    async def app(*_) -> None:
        raise AssertionError("the application was asked")

    async def receive() -> dict:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(part: dict) -> None:
        sent.append(part)

    traffic = admission.Traffic()
    rules = RequestRules(max_choices=1, image_token_id=None)
    guarded = admission.Admission(app, limits=LimitsConfig(), rules=rules, traffic=traffic)
    headers = [(b"content-type", b"application/json")]
    asyncio.run(guarded({"type": "http", "path": "/v1/completions", "headers": headers}, receive, send))
    assert sent[0]["status"] == 408
    assert (traffic.num_requests, traffic.num_bytes) == (0, 0)
