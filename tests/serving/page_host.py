"""The page without an engine: its own routes, and completions that say what a test wants."""

from __future__ import annotations

import asyncio
import json
import threading
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cora.processors.images import PanoramaImageProcessor
from cora.serving.page import page_routes
from cora.serving.replies import refusal

KEY = "sk-page"


class PageHost:
    """A server of the page on loopback.

    Attributes:
        url: Its address.
        bodies: What was asked.
        parts: What the answers are made of.
        models: Names of the models.
        refuses: Status and words of a refusal in place of answers.
        is_slow: Whether an answer stays unfinished.
        needs_key: Whether guarded routes want `KEY`.
    """

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.parts = ["A red ", "cone <b>here</b>."]
        self.refuses: tuple[int, str] | None = None
        self.models = ["quick <model>"]
        self.is_slow = self.needs_key = False
        self.app.state.limits.max_body_bytes = 2**20

    @property
    def app(self) -> Starlette:
        if not hasattr(self, "_app"):
            completions = Route("/v1/chat/completions", self._complete, methods=["POST"])
            models = Route("/v1/models", self._models, methods=["GET"])
            self._app = Starlette(routes=[*page_routes(), completions, models])
            self._app.add_middleware(_Guard, host=self)
            self._app.state.served = Namespace(name="quick <model>", num_vision_tokens=98)
            self._app.state.image_processor = PanoramaImageProcessor(crop_strategy="anyres_e2p", image_size=64)
            self._app.state.limits = Namespace(max_body_bytes=2**20)
        return self._app

    async def _complete(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        if self.refuses is not None:
            return refusal(*self.refuses)
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _events(self) -> AsyncIterator[str]:
        for part in self.parts:
            yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': part}}]})}\n\n"
            await asyncio.sleep(0.02)
        while self.is_slow:
            await asyncio.sleep(0.02)
        yield "data: [DONE]\n\n"


class _Guard:
    """Asks for the key where the real server does."""

    def __init__(self, app: Any, host: PageHost) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        guarded = scope["type"] == "http" and scope["path"].startswith(("/cora/", "/v1/"))
        has_key = dict(scope.get("headers", [])).get(b"authorization") == f"Bearer {KEY}".encode()
        refused = refusal(401, "a valid API key is needed") if guarded and self.host.needs_key and not has_key else None
        await (refused or self.app)(scope, receive, send)


@contextmanager
def hosting() -> Iterator[PageHost]:
    """Run the page's server in a thread."""
    host = PageHost()
    server = uvicorn.Server(uvicorn.Config(host.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        host.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield host
    finally:
        host.is_slow = False
        server.should_exit = True
        thread.join()
