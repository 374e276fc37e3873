"""Answers that end a connection whose client may still be sending."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Lingering"]

# Longest time that what still comes is read and thrown away.
_SECONDS = 30.0


class Lingering:
    """Ends an answer with ``Connection: close`` only when the client has no more to send.

    Closed with data unread, a connection is reset, and a reset can take an answer away that the client has not read.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_last = False

        async def linger(message: Message) -> None:
            nonlocal is_last
            if message["type"] == "http.response.start":
                is_last = Headers(raw=message["headers"]).get("connection") == "close"
            elif is_last and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _discard(receive)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self._app(scope, receive, linger if scope["type"] == "http" else send)


async def _discard(receive: Receive) -> None:
    """Read the rest of a body, until it ends, the client goes, or the time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            while (await receive()).get("more_body", False):
                pass
