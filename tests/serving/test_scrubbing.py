"""Errors tell a client what to mend, and nothing about the machine."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from cora.serving.scrubbing import Scrubber, scrubbed


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("cannot identify image file <_io.BytesIO object at 0x7f3a1c0b5d50>", "cannot identify image file <object>"),
        ("freed 0x7f3a1c0b5d50 twice", "freed <address> twice"),
        ("no such file: '/srv/models/secret/config.json'", "no such file: '<path>'"),
        ('it failed\n  File "/usr/lib/x.py", line 3, in f', "it failed"),
        ("oops\nTraceback (most recent call last):\n  x = 1\nValueError: no", "oops"),
        ("too large (parameter=n, value=9)", "too large"),
        ("pass --trust-request-mm-kwargs", "pass an option of the server"),
        ("the maximum is 1024 tokens / 2:1, and/or 3", "the maximum is 1024 tokens / 2:1, and/or 3"),
        ("https://example.org/a/b is refused", "https://example.org/a/b is refused"),
        ("x" * 10000, "x" * 500 + " ..."),
    ],
)
def test_messages(message, expected):
    assert scrubbed(message) == expected


def answer_of(app) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Scrubber(app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.get("/")

    return asyncio.run(ask())


def test_what_fails_without_an_answer_is_a_bare_500(caplog):
    async def app(*_) -> None:
        raise RuntimeError("in /srv/models/secret")

    response = answer_of(app)
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the server failed at this request; its log says more"
    assert "secret" in caplog.text


FAILED = "the server failed at this request; its log says more"


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        (
            JSONResponse({"error": {"message": "secret"}}, 500),
            500,
            "the server failed at this request; its log says more",
        ),
        (JSONResponse({"error": {"message": "not in base64"}}, 501), 400, "not in base64"),
        (JSONResponse({"error": {"message": "at /a/b/c", "param": "x"}}, 400), 400, "at <path>"),
        (JSONResponse({"error": "Unauthorized"}, 401), 401, "the request was refused"),
        (JSONResponse(["x"], 404), 404, "the request was refused"),
        (PlainTextResponse("Internal Server Error", 500), 500, FAILED),
        (StreamingResponse(iter([b'{"error": {"mess', b'age": "two parts"}}']), 400), 400, "two parts"),
    ],
)
def test_errors_have_one_form(reply, status, message):
    response = answer_of(reply)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["message"], error["code"]) == (message, status)


def test_answers_pass_as_they_are():
    response = answer_of(PlainTextResponse("/srv/models is what was asked", headers={"X-Own": "kept"}))
    assert response.text == "/srv/models is what was asked"
    assert response.headers["x-own"] == "kept"
