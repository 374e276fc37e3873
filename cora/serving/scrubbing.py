"""Error answers that tell clients what they can mend, and nothing about this machine."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cora.serving.replies import refusal

__all__ = ["Scrubber", "scrubbed"]

logger = logging.getLogger(__name__)

_MOST_CHARACTERS = 500
_INTERNAL = "the server failed at this request; its log says more"
_REMOVED = (
    (re.compile(r"Traceback \(most recent call last\).*", re.DOTALL), ""),
    (re.compile(r'\s*File "[^"]*", line \d+(, in \S+)?'), ""),
    (re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>"), "<object>"),
    (re.compile(r"\b0x[0-9a-fA-F]{4,}"), "<address>"),
    (re.compile(r"(?<![\w.:/-])(?:/[\w.@+~-]+){2,}/?"), "<path>"),
    (re.compile(r"\(parameter=[^)]*\)"), ""),
    (re.compile(r"--[a-z][a-z0-9-]+"), "an option of the server"),
)


def scrubbed(message: str) -> str:
    """Return a message without tracebacks, paths, addresses and names of the server's options, and not too long."""
    for pattern, replacement in _REMOVED:
        message = pattern.sub(replacement, message)
    message = " ".join(message.split())
    return message if len(message) <= _MOST_CHARACTERS else message[:_MOST_CHARACTERS] + " ..."


class Scrubber:
    """Rewrites error answers of an application: one form, messages scrubbed, failures without their cause.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what goes wrong before the answer has begun is a 500 with no details."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(scope, receive, send)
        try:
            await self._app(scope, receive, reply.send)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if reply.has_begun:
                raise
            await refusal(500, _INTERNAL)(scope, receive, send)


class _Reply:
    """One answer on its way out; the body of an error is held back until it is complete."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._error: Message | None = None
        self._body = bytearray()
        self.has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._error = message
        elif self._error is None:
            self.has_begun = True
            await self._send(message)
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                self.has_begun = True
                await self._finish(self._error)

    async def _finish(self, start: Message) -> None:
        status = int(start["status"])
        kept = {b"retry-after", b"allow", b"connection", b"www-authenticate"}
        headers = {name.decode(): value.decode() for name, value in start["headers"] if name.lower() in kept}
        message, parameter = _described(bytes(self._body))
        if status == 501:
            # vLLM's word for what a client asks of it that it cannot do.
            status = 400
        if status >= 500 and status != 503:
            logger.error("%s %s: status %d: %s", self._scope["method"], self._scope["path"], status, message)
            message = _INTERNAL
        reply = refusal(status, scrubbed(message), parameter=parameter, headers=headers)
        if self._scope["method"] == "HEAD" or not self._body:
            await self._send({**start, "status": status})
            await self._send({"type": "http.response.body", "body": b""})
            return
        await reply(self._scope, self._receive, self._send)


def _described(body: bytes) -> tuple[str, str | None]:
    """Return message and parameter of an error as vLLM and we write it; other bodies are told nothing of."""
    try:
        error: Any = json.loads(body)["error"]
        parameter = error.get("param")
        return str(error["message"]), None if parameter is None else str(parameter)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "the request was refused", None
