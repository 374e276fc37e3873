"""A web server on loopback with a certificate of its own, that answers with the bytes a test tells it to."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HOST = "panoramas.test"
Answer = Callable[[str, asyncio.StreamWriter], object]


@dataclass
class Host:
    """A running server.

    Attributes:
        port: Its port.
        tls: What trusts its certificate.
        paths: What was asked for.
    """

    port: int
    tls: ssl.SSLContext
    paths: list[str] = field(default_factory=list)

    def url(self, path: str = "/p.png", host: str = HOST) -> str:
        """Return an address on it."""
        return f"https://{host}:{self.port}{path}"


def response(body: bytes, *headers: str, status: str = "200 OK", kind: str = "image/png") -> bytes:
    """Return a whole response."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def make_certificate(folder: Path) -> Path:
    """Write a key with its certificate into one file."""
    path = folder / "host.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", path, "-out", folder / "cert.pem", "-days", "2", "-subj", f"/CN={HOST}"),
            *("-addext", f"subjectAltName=DNS:{HOST},DNS:other.test"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + (folder / "cert.pem").read_text())
    return path


@asynccontextmanager
async def hosting(
    certificate: Path, answer: Callable[[str], bytes | list[bytes]], *, pause: float = 0.0
) -> AsyncIterator[Host]:
    """Serve what `answer` says for a path: a response, or its pieces with a pause after each; PORT is our own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate.parent / "cert.pem"))
    host = Host(0, trusting)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            host.paths.append(request.split()[1])
            answered = answer(host.paths[-1])
            for piece in [answered] if isinstance(answered, bytes) else answered:
                writer.write(piece.replace(b"PORT", str(host.port).encode()))
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
