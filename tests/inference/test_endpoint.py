"""The client of OpenAI-compatible servers: what is tried again, what is not, and that nothing ever shows the key."""

from __future__ import annotations

import base64
import io
import itertools
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import KEY, Answer, FakeEndpoint, fails, says, serving
from PIL import Image

from cora.errors import BackendUnavailable, ConfigError, EndpointError, ImageError
from cora.inference import endpoint as endpoint_module
from cora.inference.credentials import Endpoint, find_endpoint
from cora.inference.data_uri import as_data_uri
from cora.inference.endpoint import ChatClient, Reply, answer_concurrently
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationRequest, GenerationSettings, Generator

pytest.importorskip("openai")

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("CORA_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def ask(fake: FakeEndpoint, *, retries: int = 3, timeout: float = 5.0, **options: Any) -> Reply:
    endpoint = Endpoint("m", fake.url, KEY, timeout_seconds=timeout, max_retries=retries)
    with ChatClient(endpoint) as client:
        return client.ask(MESSAGES, **options)


def test_a_reply_carries_text_tokens_and_the_model_that_answered() -> None:
    with serving(lambda _: says("hi")) as fake:
        reply = ask(fake, temperature=0.5, max_tokens=7)
    assert reply == Reply("hi", None, None, "stop", 100, 10, "served-model", 0)
    assert fake.bodies == [{"model": "m", "messages": MESSAGES, "temperature": 0.5, "max_tokens": 7}]
    assert fake.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again(status: int) -> None:
    answers = iter([fails(status), fails(status), says("at last")])
    with serving(lambda _: next(answers)) as fake:
        reply = ask(fake)
    assert (reply.text, reply.num_retries, len(fake.bodies)) == ("at last", 2, 3)


def test_retry_after_is_waited_for() -> None:
    answers = iter([fails(429, retry_after="0.7"), says("hi")])
    with serving(lambda _: next(answers)) as fake:
        assert ask(fake).text == "hi"
    assert fake.times[1] - fake.times[0] >= 0.7


def test_without_a_hint_each_wait_is_longer() -> None:
    answers = iter([Answer({}, 500), Answer({}, 500), says("hi")])
    with serving(lambda _: next(answers)) as fake:
        assert ask(fake).text == "hi"
    first, second, third = fake.times
    assert 0.3 < second - first < third - second


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        (400, None, "bad_request"),
        (401, None, "authentication"),
        (402, None, "payment"),
        (403, None, "forbidden"),
        (404, None, "not_found"),
        (422, None, "bad_request"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(status: int, code: str | None, failure: str) -> None:
    with serving(lambda _: fails(status, "because", code=code)) as fake:
        reply = ask(fake)
    assert (reply.text, reply.failure, reply.error) == (None, failure, f"HTTP {status}: because")
    assert len(fake.bodies) == 1


@pytest.mark.parametrize(("status", "failure"), [(429, "rate_limit"), (500, "server")])
def test_tries_have_an_end(status: int, failure: str) -> None:
    with serving(lambda _: fails(status)) as fake:
        reply = ask(fake, retries=2)
    assert (reply.failure, len(fake.bodies)) == (failure, 3)


def test_no_credit_is_no_rate_limit() -> None:
    with serving(lambda _: fails(429, "quota", code="insufficient_quota")) as fake:
        assert ask(fake, retries=0).failure == "payment"


def test_a_silent_server_is_a_time_out() -> None:
    with serving(lambda _: says("late", seconds=1.0)) as fake:
        started = time.monotonic()
        reply = ask(fake, retries=0, timeout=0.2)
    assert (reply.failure, reply.error) == ("timeout", "no answer within 0.2 s")
    assert time.monotonic() - started < 1.0


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with ChatClient(Endpoint("m", url, KEY, max_retries=0)) as client:
        reply = client.ask(MESSAGES)
    assert reply.failure == "connection"
    assert url in str(reply.error)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (Answer("<html>busy</html>"), "garbage"),
        (Answer(""), "garbage"),
        (Answer("[]"), "garbage"),
        (Answer({"choices": []}), "garbage"),
        (Answer({"choices": [{"message": None}]}), "garbage"),
        (says(None), "garbage"),
        (says(None, refusal="I would rather not"), "refusal"),
        (says("", finish_reason="content_filter"), "refusal"),
    ],
)
def test_a_reply_that_is_none(answer: Answer, failure: str) -> None:
    with serving(lambda _: answer) as fake:
        reply = ask(fake)
    assert (reply.text, reply.failure) == (None, failure)
    assert reply.error


def test_the_key_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(lambda _: fails(401, f"wrong key {KEY}\nBearer {KEY}")) as fake:
        reply = ask(fake)
        endpoint = Endpoint("m", fake.url, KEY)
        with ChatClient(endpoint) as client:
            error = client.refusal_to_work(reply)
    assert reply.error == "HTTP 401: wrong key *** Bearer ***"
    assert str(error).endswith("; check the key")
    assert KEY not in repr((reply, endpoint, error)) + caplog.text


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "find_spec", lambda _: None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'cora-panorama\[judge\]'"):
        ChatClient(Endpoint("m", "http://127.0.0.1/v1", KEY))


def test_key_and_address_come_from_the_environment_or_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text('OPENAI_API_KEY="from-file"\nexport OPENAI_BASE_URL=http://file:1/v1/\n')
    endpoint = find_endpoint("m")
    assert (endpoint.api_key, endpoint.base_url) == ("from-file", "http://file:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", " from-environment\n")
    assert find_endpoint("m").api_key == "from-environment"
    monkeypatch.setenv("CORA_API_KEY", "of-cora")
    assert find_endpoint("m", "https://named/v1").api_key == "of-cora"
    assert find_endpoint("m", "https://named/v1").base_url == "https://named/v1"


def test_only_openai_itself_needs_a_key() -> None:
    with pytest.raises(ConfigError, match=r"set CORA_API_KEY or OPENAI_API_KEY in the environment or in \.env"):
        find_endpoint("m")
    assert find_endpoint("m", "http://127.0.0.1:8000/v1").api_key == "none"


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "host/v1", "", "http://", "https://me:secret@host/v1", "https://host/v1?key=secret"]
)
def test_an_address_that_is_none_or_holds_a_secret(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORA_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "no address")
    with pytest.raises(ConfigError, match="base URL") as caught:
        find_endpoint("m", url)
    assert "secret" not in str(caught.value)


def test_a_key_with_other_characters_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORA_API_KEY", "sk-sécret")
    with pytest.raises(ConfigError, match="CORA_API_KEY is no key") as caught:
        find_endpoint("m", "http://host/v1")
    assert "cret" not in str(caught.value)


def test_no_more_than_so_many_at_once_and_all_of_them() -> None:
    running, most = 0, 0

    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return item * item

    def items() -> Iterator[int]:
        for item in range(20):
            assert running <= 3
            yield item

    assert dict(answer_concurrently(work, items(), 3)) == {item: item * item for item in range(20)}
    assert most == 3


def test_an_early_end_keeps_what_is_on_its_way() -> None:
    started: list[int] = []
    done: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.05)
        return item

    for item, _ in answer_concurrently(work, itertools.takewhile(lambda _: not done, itertools.count()), 4):
        done.append(item)
    assert sorted(done) == sorted(started) == [0, 1, 2, 3]


def picture_of(body: dict[str, Any]) -> tuple[str, bytes]:
    (message,) = body["messages"]
    image, text = message["content"]
    assert (message["role"], image["type"], text["type"]) == ("user", "image_url", "text")
    kind, _, content = image["image_url"]["url"].partition(";base64,")
    return kind, base64.b64decode(content)


def open_generator(fake: FakeEndpoint, **options: Any) -> PanoramaGenerator:
    return PanoramaGenerator.from_endpoint(Endpoint("m", fake.url, KEY, max_retries=1, max_concurrent=2), **options)


def test_the_back_end_sends_one_panorama_and_the_question(panoramas: list[Path]) -> None:
    with serving(lambda body: says(body["messages"][0]["content"][1]["text"].upper(), seconds=0.1)) as fake:
        generator = open_generator(fake)
        assert isinstance(generator, Generator)
        requests = [GenerationRequest(panoramas[index % 3], f"q{index}") for index in range(9)]
        results = generator.generate(requests, GenerationSettings(max_new_tokens=9))
        generator.close()
    assert [(result.text, result.finish_reason) for result in results] == [(f"Q{n}", "stop") for n in range(9)]
    assert fake.most_open == 2
    (body,) = (body for body in fake.bodies if body["messages"][0]["content"][1]["text"] == "q0")
    assert picture_of(body) == ("data:image/png", panoramas[0].read_bytes())
    assert {name: body[name] for name in body if name != "messages"} == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.0,
    }
    assert generator.name == f"openai {fake.url}"


def test_sampling_settings_are_sent_where_they_act(panoramas: list[Path]) -> None:
    with serving(lambda _: says("x", finish_reason="length")) as fake:
        settings = GenerationSettings(temperature=0.5, top_p=0.9, repetition_penalty=1.2, seed=3)
        (result,) = open_generator(fake).generate([GenerationRequest(panoramas[0], "q")], settings)
    assert result.finish_reason == "length"
    assert (fake.bodies[0]["top_p"], fake.bodies[0]["seed"], fake.bodies[0]["repetition_penalty"]) == (0.9, 3, 1.2)


def test_a_bad_picture_or_reply_harms_no_other(panoramas: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    sources = [panoramas[0], tmp_path / "missing.png", tmp_path / "text.jpg", panoramas[1]]
    with serving(lambda body: fails(400) if body["messages"][0]["content"][1]["text"] == "3" else says("ok")) as fake:
        requests = [GenerationRequest(source, str(index)) for index, source in enumerate(sources)]
        results = open_generator(fake).generate(requests)
    assert [result.text for result in results] == ["ok", None, None, None]
    assert "No such file" in str(results[1].error)
    assert "text.jpg: not a picture" in str(results[2].error)
    assert results[3].error == "bad_request: HTTP 400: no"
    assert len(fake.bodies) == 2


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_server_that_refuses_everything_is_asked_no_more(panoramas: list[Path], status: int) -> None:
    answers = itertools.chain([says("ok")] * 3, itertools.repeat(fails(status)))
    with serving(lambda _: next(answers)) as fake:
        generator = open_generator(fake)
        requests = [GenerationRequest(panoramas[0], str(index)) for index in range(30)]
        results = generator.generate(requests)
        assert sum(result.text == "ok" for result in results) == 3
        assert "not asked, because another request failed for good: HTTP" in str(results[-1].error)
        asked = len(fake.bodies)
        assert asked <= 3 + 2
        with pytest.raises(EndpointError, match=f"HTTP {status}"):
            generator.generate(requests)
        assert len(fake.bodies) == asked
        with pytest.raises(EndpointError, match=f"{fake.url}: HTTP {status}"):
            open_generator(fake).generate(requests)


def test_the_key_of_an_answer_knows_address_model_and_picture_size() -> None:
    def digests(url: str, model: str, width: int | None) -> tuple[str, str, str]:
        generator = PanoramaGenerator.from_endpoint(Endpoint(model, url, KEY), image_width=width)
        return generator.name, generator.model_digest, generator.processor_digest

    first = digests("http://a/v1", "m", None)
    assert digests("http://a/v1", "m", None) == first
    others = [digests("http://b/v1", "m", None), digests("http://a/v1", "n", None), digests("http://a/v1", "m", 64)]
    assert len({first, *others}) == 4


def test_an_export_does_not_run_behind_an_endpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from_endpoint"):
        PanoramaGenerator.from_checkpoint(tmp_path, "openai")


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_panoramas_as_addresses(panoramas: list[Path], tmp_path: Path) -> None:
    content = panoramas[0].read_bytes()
    assert as_data_uri(content) == as_data_uri(panoramas[0]) == as_data_uri(str(panoramas[0]))
    small = decoded(as_data_uri(panoramas[0], 32))
    assert (small.format, small.size) == ("JPEG", (32, 16))
    assert decoded(as_data_uri(panoramas[0], 999)).size == (64, 32)
    with Image.open(panoramas[0]) as picture:
        picture.save(tmp_path / "p.bmp")
        exact = decoded(as_data_uri(tmp_path / "p.bmp"))
        assert (exact.format, exact.tobytes()) == ("PNG", picture.convert("RGB").tobytes())
        picture.save(tmp_path / "p.webp")
    assert as_data_uri(tmp_path / "p.webp").startswith("data:image/webp;base64,")
    (tmp_path / "cut.png").write_bytes(content[:200])
    with pytest.raises(ImageError, match=r"cut\.png"):
        as_data_uri(tmp_path / "cut.png", 32)
    Image.new("RGB", (30, 30)).save(tmp_path / "square.png")
    with pytest.raises(ImageError, match="no panorama"):
        as_data_uri(tmp_path / "square.png", 16)
