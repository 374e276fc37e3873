"""Which addresses may be served without a key."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from cora.errors import ConfigError
from cora.serving.access import Gatekeeper, check_exposure


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org", ""])
def test_other_machines_need_a_key(host):
    with pytest.raises(ConfigError, match="API key"):
        check_exposure(host, None, insecure=False)
    check_exposure(host, "key", insecure=False)
    check_exposure(host, None, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.8.0.1"])
def test_loopback_needs_none(host):
    check_exposure(host, None, insecure=False)


def status_of(*, host: str, **settings) -> int:
    """Return how a request that names a host is answered by a server without a key."""

    async def app(scope, receive, send) -> None:
        await PlainTextResponse("answered")(scope, receive, send)

    async def ask() -> int:
        gate = Gatekeeper(app, public=[], **{"api_key": None, "any_host": False, **settings})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://server") as client:
            return (await client.get("/v1/models", headers={"Host": host})).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost", "127.0.0.1"])
def test_without_a_key_loopback_names_are_answered(host):
    assert status_of(host=host) == 200


@pytest.mark.parametrize("host", ["rebound.evil.test:8000", "evil.test", "localhost.evil.test", "[::2]:8000", ""])
def test_without_a_key_other_names_are_not(host):
    # What a page sends whose own name was made to resolve to loopback.
    assert status_of(host=host) == 403
    assert status_of(host=host, any_host=True) == 200
