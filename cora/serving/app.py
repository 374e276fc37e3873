"""The application: vLLM's own behind a gate, with the routes that are named here and no others."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cora.config.serve import ServeConfig
from cora.processors.images import PanoramaImageProcessor
from cora.serving.access import Gatekeeper
from cora.serving.admission import Admission, Traffic
from cora.serving.engine import Served
from cora.serving.lingering import Lingering
from cora.serving.replies import refusal
from cora.serving.rules import CHAT, COMPLETIONS, RequestRules
from cora.serving.scrubbing import Scrubber

__all__ = ["build_application"]


async def build_application(
    client: Any,
    arguments: Namespace,
    served: Served,
    config: ServeConfig,
    *,
    api_key: str | None,
    any_host: bool,
    traffic: Traffic,
) -> tuple[ASGIApp, PanoramaImageProcessor | None]:
    """Return the application that answers clients of an engine, and the image processor it cuts panoramas with.

    Args:
        client: Talks to the engine.
        arguments: vLLM's command line.
        served: The checkpoint.
        config: Limits.
        api_key: What clients must know, or None.
        any_host: Whether requests without a key may name any host.
        traffic: Where what is under way is counted.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await client.get_supported_tasks()
    inner = build_app(arguments, tasks, client.model_config)
    # The list of models would show where the checkpoint lies.
    shown = Namespace(**{**vars(arguments), "model": served.name})
    await init_app_state(client, inner.state, shown, tasks)
    # vLLM's handlers of errors look for the server, to stop it when the engine is dead; ours watches by itself.
    inner.state.server = Namespace(should_exit=False)
    processor = _image_processor(client, served)
    if processor is not None and config.accept_flat:
        processor.accept_flat = True
    rules = RequestRules(
        max_choices=config.limits.max_choices,
        image_token_id=getattr(client.model_config.hf_config, "image_token_id", None),
    )
    admitted = Admission(inner, limits=config.limits, rules=rules, traffic=traffic)
    public: list[BaseRoute] = [Route("/health", _Health(client, traffic), methods=["GET"])]
    guarded: list[BaseRoute] = [
        Route("/v1/models", _Forward(inner), methods=["GET"]),
        Route("/metrics", _Forward(inner), methods=["GET"]),
        Route(CHAT, _Forward(admitted), methods=["POST"]),
        Route(COMPLETIONS, _Forward(admitted), methods=["POST"]),
    ]
    for route in _page_routes():
        (guarded if route.path.startswith("/cora/") else public).append(route)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = Starlette(routes=[*public, *guarded], lifespan=lifespan, exception_handlers={HTTPException: _as_refusal})
    outer.router.redirect_slashes = False
    # What the page's routes need to know.
    outer.state.served = served
    outer.state.image_processor = processor
    outer.state.limits = config.limits
    gated = Gatekeeper(outer, api_key=api_key, public=public, any_host=any_host)
    return Lingering(Scrubber(gated)), processor


class _Forward:
    """An endpoint that passes on what another application answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Health:
    """Answers 200 while the engine lives and requests are taken, 503 otherwise."""

    def __init__(self, client: Any, traffic: Traffic) -> None:
        self._client = client
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_well = not self._client.errored and not self._traffic.is_closing
        await Response(status_code=200 if is_well else 503)(scope, receive, send)


async def _as_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: "there is no such route", 405: "the route has no such method"}
    return refusal(error.status_code, message.get(error.status_code, error.detail), headers=error.headers)


def _image_processor(client: Any, served: Served) -> PanoramaImageProcessor | None:
    """Return the image processor that vLLM cuts panoramas with, in this process."""
    if not served.is_export:
        return None
    processor: PanoramaImageProcessor = client.renderer.mm_processor.info.get_hf_processor().image_processor
    return processor


def _page_routes() -> list[Route]:
    if find_spec("cora.serving.page") is None:
        return []
    routes: list[Route] = import_module("cora.serving.page").page_routes()
    return routes
