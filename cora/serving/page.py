"""The page at ``/``: look around in a panorama, see what the model gets of it, ask, and read the answer as it is made.

Plain files that come from this server alone; what the page may do is bounded by its content security policy.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cora.viewer import SCRIPTS, viewer_source

__all__ = ["POLICY", "page_routes"]

# Panoramas are data: and blob: addresses of pictures; nothing else but this server's own files and answers.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # A server that was updated shows its new page at once.
    "Cache-Control": "no-cache",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_ASSETS = ("page.css", "chat.js", "page.js", "icon.svg")


def page_routes() -> list[Route]:
    """Return the routes of the page: its files, and ``/cora/views``, which the page asks what the model sees."""
    sources = {"/": ("index.html", _asset)}
    sources |= {f"/page/{name}": (name, _asset) for name in _ASSETS}
    sources |= {f"/page/{name}": (name, viewer_source) for name in SCRIPTS}
    routes = [Route(path, _file(name, read), methods=["GET"]) for path, (name, read) in sources.items()]
    return [*routes, Route("/cora/views", _views, methods=["GET"])]


def _asset(name: str) -> str:
    return files("cora.serving").joinpath("assets", name).read_text(encoding="utf-8")


def _file(name: str, read: Callable[[str], str]) -> Callable[[Request], Response]:
    content = read(name)
    kind = _TYPES[name[name.rindex(".") :]]

    def answer(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return answer


def _views(request: Request) -> Response:
    """Answer with the model's name, the views it gets of a panorama, and what a request may weigh."""
    state = request.app.state
    processor = state.image_processor
    document: dict[str, Any] = {
        "model": state.served.name,
        "vision_tokens": state.served.num_vision_tokens,
        "view_size": None if processor is None else list(processor.image_size),
        "views": [] if processor is None else [view.to_dict() for view in processor.views],
        "max_body_bytes": state.limits.max_body_bytes,
    }
    return JSONResponse(document, headers={"Cache-Control": "no-store"})
