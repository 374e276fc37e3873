"""How much is under way: requests, bytes of their bodies, and whether new ones are still taken.

A request counts from its first byte to the last of its answer, or until the client is gone.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cora.config.serve import LimitsConfig
from cora.serving.replies import refusal
from cora.serving.rules import RequestRefused, RequestRules

__all__ = ["Admission", "Traffic"]

logger = logging.getLogger(__name__)

# Longest time for a body to arrive; slower clients would keep others out.
_BODY_SECONDS = 60.0
_RETRY_AFTER = {"Retry-After": "1"}


class Traffic:
    """What is under way, and whether the server is about to stop.

    Attributes:
        num_requests: Requests under way.
        num_bytes: Bytes of their bodies.
        is_closing: Whether new requests are refused.
    """

    def __init__(self) -> None:
        self.num_requests = 0
        self.num_bytes = 0
        self.is_closing = False

    async def drained(self, seconds: float) -> bool:
        """Refuse new requests from now on; return whether those under way ended in time."""
        self.is_closing = True
        try:
            async with asyncio.timeout(seconds):
                while self.num_requests:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True


class Admission:
    """Reads, limits and checks the bodies of requests to a model before vLLM sees them.

    Args:
        app: vLLM's application.
        limits: How much.
        rules: What a body may say.
        traffic: Where what is under way is counted.
    """

    def __init__(self, app: ASGIApp, *, limits: LimitsConfig, rules: RequestRules, traffic: Traffic) -> None:
        self._app = app
        self._limits = limits
        self._rules = rules
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 400, 408, 413, 415, 429 or 503."""
        traffic, limits = self._traffic, self._limits
        if traffic.is_closing:
            await refusal(503, "the server is stopping", headers=_RETRY_AFTER)(scope, receive, send)
            return
        if traffic.num_requests >= limits.max_concurrent:
            await refusal(429, "too many requests at once", headers=_RETRY_AFTER)(scope, receive, send)
            return
        traffic.num_requests += 1
        request = _Request(self._traffic, limits, receive)
        try:
            body = self._rules.applied(scope["path"], await request.read(Headers(scope=scope)))
            await self._app(scope, _replaying(body, receive), send)
            return
        except _Refused as refused:
            reply = refusal(refused.status, str(refused), headers=refused.headers)
        except RequestRefused as refused:
            reply = refusal(400, str(refused), parameter=refused.parameter)
        except _Gone:
            logger.debug("a client went before its request was there")
            return
        finally:
            traffic.num_requests -= 1
            traffic.num_bytes -= request.num_bytes
        # It counts no longer, however long the client takes to send what nobody keeps.
        await reply(scope, receive, send)


class _Refused(Exception):
    """A body that is not read to its end."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        # The rest of the body is not read: the connection is of no more use.
        self.headers = {**(headers or {}), "Connection": "close"}


class _Gone(Exception):
    """The client has closed the connection."""


class _Request:
    """The body of one request on its way in."""

    def __init__(self, traffic: Traffic, limits: LimitsConfig, receive: Receive) -> None:
        self._traffic = traffic
        self._limits = limits
        self._receive = receive
        self.num_bytes = 0

    async def read(self, headers: Headers) -> bytes:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused(415, "the Content-Type of a request is application/json")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refused(415, "compressed bodies are not available on this server")
        length = headers.get("content-length", "")
        # Told ahead, so that nothing of what is too much is read.
        self._count(int(length) if length.isdecimal() else 0)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await self._read()
        except TimeoutError:
            raise _Refused(408, f"the body did not arrive within {_BODY_SECONDS:.0f} seconds") from None

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            self._count(max(0, size - self.num_bytes))
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _count(self, further: int) -> None:
        if self.num_bytes + further > self._limits.max_body_bytes:
            raise _Refused(413, f"the body has more than {self._limits.max_body_bytes} bytes")
        if self._traffic.num_bytes + further > max(self._limits.max_bytes_in_flight, self._limits.max_body_bytes):
            raise _Refused(429, "too much data at once", _RETRY_AFTER)
        self.num_bytes += further
        self._traffic.num_bytes += further


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return what vLLM receives: the body at once, then what the client does."""
    pending: list[bytes] = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay
