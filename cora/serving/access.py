"""Who may ask: the API key, the addresses that need one, and the names a server without a key answers to."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from cora.errors import ConfigError
from cora.serving.replies import refusal

__all__ = ["Gatekeeper", "check_exposure", "is_loopback"]


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address, or a name that cannot be anything else."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, api_key: str | None, *, insecure: bool) -> None:
    """Raise a ConfigError where other machines could ask without a key, unless that is wanted."""
    if api_key is not None and not api_key.strip():
        raise ConfigError("the API key is empty")
    if api_key is None and not insecure and not is_loopback(host):
        raise ConfigError(
            f"{host or 'every address'} is reached from other machines: set an API key (CORA_API_KEY), "
            "or let anybody ask with --insecure"
        )


class Gatekeeper:
    """Lets through who has the key; without a key, who asks for a loopback name.

    A page on the internet can make a browser send requests here under a name of its own that resolves to loopback, but
    not under one of ours.

    Args:
        app: What is guarded.
        api_key: The key, or None.
        public: Routes that need none.
        any_host: Whether requests without a key may name any host.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, public: Sequence[BaseRoute], any_host: bool) -> None:
        self._app = app
        self._digest = None if api_key is None else _digest(api_key)
        self._public = tuple(public)
        self._any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._digest is None and not self._any_host and not is_loopback(_host_name(headers.get("host", ""))):
            await refusal(403, "this server answers to loopback names only")(scope, receive, send)
        elif self._digest is not None and not self._is_public(scope) and not self._has_key(headers):
            reply = refusal(401, "a valid API key is needed", headers={"WWW-Authenticate": "Bearer"})
            await reply(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL for route in self._public)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        assert self._digest is not None
        # Digests have one length, so that not even the length of the key shows in the time.
        return hmac.compare_digest(_digest(key.strip()), self._digest) and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str:
    """Return the name in a ``Host`` header, without the port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
