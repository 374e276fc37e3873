"""Panoramas from https hosts that the operator named.

Every hop of a redirect is checked like the first address. A host's addresses are looked up once per hop, checked, and
those very addresses are connected to: a name that resolves to something else a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cora.config.serve import MediaConfig
from cora.errors import ImageError, SourceRefused

__all__ = ["HttpsSource", "is_public_address"]

Resolve = Callable[[str], Awaitable[list[str]]]

_MOST_REDIRECTS = 3
_CHUNK_BYTES = 2**16
_REDIRECTS = (301, 302, 303, 307, 308)
# Prefixes through which gateways reach IPv4 addresses, private ones too.
_TRANSLATED = tuple(
    ipaddress.ip_network(prefix) for prefix in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


def is_public_address(text: str) -> bool:
    """Return whether an IP address is one of the public internet: not private, loopback, link-local or translated."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast


async def resolve_name(host: str) -> list[str]:
    """Return the addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class HttpsSource:
    """Fetches panoramas.

    Args:
        config: Which hosts, how much and how long.
        resolve: Looks up the addresses of a host.
        is_allowed: Whether an address may be connected to.
        tls: How certificates are checked; the usual way by default.
    """

    def __init__(
        self,
        config: MediaConfig,
        *,
        resolve: Resolve = resolve_name,
        is_allowed: Callable[[str], bool] = is_public_address,
        tls: ssl.SSLContext | None = None,
        port: int = 443,
    ) -> None:
        self._domains = frozenset(config.domains)
        self._max_bytes = config.max_bytes
        self._seconds = config.fetch_seconds
        self._resolver = _CheckedResolver(resolve, is_allowed)
        self._tls = tls
        self._port = port

    async def read(self, address: str) -> bytes:
        """Return what an address holds.

        Raises:
            SourceRefused: It is none that this server fetches from.
            ImageError: The host did not answer with an image in time.
        """
        url = self._checked(address)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._read(url)
        except TimeoutError:
            raise ImageError("image: the host did not send the panorama in time") from None
        except (aiohttp.ClientError, OSError, ValueError, UnicodeError):
            raise ImageError("image: the host could not be reached, or did not answer as a web server does") from None

    async def _read(self, url: URL) -> bytes:
        connector = aiohttp.TCPConnector(resolver=self._resolver, ssl=self._tls or True, use_dns_cache=False, limit=1)
        # Compressed answers could be larger than what was counted.
        headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            for _ in range(_MOST_REDIRECTS + 1):
                async with session.get(url, allow_redirects=False) as response:
                    if response.status not in _REDIRECTS:
                        return await self._body(response)
                    url = self._checked(str(url.join(URL(response.headers.get("Location", "")))))
        raise ImageError(f"image: the host redirects more than {_MOST_REDIRECTS} times")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise ImageError(f"image: the host answered with status {response.status}")
        if not response.content_type.startswith("image/") or "Content-Encoding" in response.headers:
            raise ImageError("image: what the host sent is no image")
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            if len(content) > self._max_bytes:
                raise ImageError(f"image: the host sent more than {self._max_bytes} bytes (media.max_bytes)")
        return bytes(content)

    def _checked(self, address: str) -> URL:
        """Return an address that may be fetched, as the one parser reads it that the request is made with."""
        refused = SourceRefused("image: the address is not of a host that this server fetches from")
        if not address.isascii() or not address.isprintable() or any(character in address for character in "\\ "):
            raise refused
        try:
            url = URL(address)
            port = url.port
        except ValueError:
            raise refused from None
        if url.scheme != "https" or port != self._port or url.user is not None or url.password is not None:
            raise refused
        if (url.host or "").rstrip(".") not in self._domains or is_ip_address(url.host or ""):
            raise refused
        return url


def is_ip_address(host: str) -> bool:
    """Return whether a host is written as an address: the resolver would not be asked about it."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _CheckedResolver(AbstractResolver):
    """Gives a connection the addresses of a host, all of which are checked."""

    def __init__(self, resolve: Resolve, is_allowed: Callable[[str], bool]) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host)
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise OSError("the host has an address that is not public")
        return [_resolved(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Do nothing; there is nothing to close."""


def _resolved(host: str, address: str, port: int) -> Any:
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
