"""Fetching panoramas: from named hosts over https only, at addresses that were checked, in time and within size."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time

import pytest
from https_host import HOST, Host, hosting, make_certificate, response

from cora.config.serve import MediaConfig
from cora.errors import ImageError
from cora.serving.fetch import HttpsSource, is_public_address

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
PICTURE = b"not looked at here"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def fetch(certificate, answer, *, path="/p.png", address=None, resolve=None, is_allowed=None, pause=0.0, **media):
    """Return what was fetched, or the message of the refusal; and the paths the host was asked for."""

    async def look_up(_: str) -> list[str]:
        return ["127.0.0.1"]

    async def run() -> tuple[bytes | str, list[str]]:
        config = MediaConfig(domains=[HOST, "other.test"], **media)
        async with hosting(certificate, answer, pause=pause) as host:
            source = HttpsSource(
                config,
                resolve=resolve or look_up,
                is_allowed=is_allowed or (lambda ip: ip == "127.0.0.1"),
                tls=host.tls,
                port=host.port,
            )
            try:
                return await source.read(_address(host, path, address)), host.paths
            except ImageError as error:
                return str(error), host.paths

    return asyncio.run(run())


def _address(host: Host, path: str, address: str | None) -> str:
    return host.url(path) if address is None else address.replace("PORT", str(host.port))


def test_a_panorama_of_a_named_host(certificate):
    assert fetch(certificate, lambda _: response(PICTURE)) == (PICTURE, ["/p.png"])


@pytest.mark.parametrize(
    "address",
    [
        "http://panoramas.test:PORT/p.png",
        "https://evil.test:PORT/p.png",
        "https://panoramas.test.evil.test:PORT/p.png",
        "https://panoramas.test/p.png",
        "https://127.0.0.1:PORT/p.png",
        "https://[::1]:PORT/p.png",
        "https://2130706433:PORT/p.png",
        "https://0.0.0.0:PORT/p.png",
        "https://169.254.169.254:PORT/latest/meta-data",
        "https://127.0.0.1:PORT\\@panoramas.test:PORT/p.png",
        "https://panoramas.test:PORT\\@127.0.0.1/p.png",
        "https://panoramas.test@127.0.0.1:PORT/p.png",
        "https://user:word@panoramas.test:PORT/p.png",
        "https://127.0.0.1:PORT#@panoramas.test:PORT/",
        "https://panoramas.test:PORT /p.png",
        "https://panoramas.test:PORT/\r\nHost: evil.test",
        "https://panor\u0430mas.test:PORT/p.png",
        "https://panoramas.test:99999999/p.png",
        "https:panoramas.test:PORT/p.png",
        "https:///p.png",
        "https://",
    ],
)
@pytest.mark.abuse(9)
def test_other_addresses_are_refused_without_a_request(certificate, address):
    message, paths = fetch(certificate, lambda _: response(PICTURE), address=address)
    assert message == "image: the address is not of a host that this server fetches from"
    assert paths == []


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["127.0.0.1"], ["93.184.216.34", "169.254.169.254"], ["::1"], []])
@pytest.mark.abuse(9)
def test_a_named_host_with_a_private_address_is_refused(certificate, addresses):
    async def resolve(_: str) -> list[str]:
        return addresses

    message, paths = fetch(certificate, lambda _: response(PICTURE), resolve=resolve, is_allowed=is_public_address)
    assert message == "image: the host could not be reached, or did not answer as a web server does"
    assert paths == []


@pytest.mark.abuse(9)
def test_the_address_that_was_checked_is_the_one_that_is_asked(certificate):
    # A name that resolves to another address each time it is looked up: whichever was checked is connected to.
    answers = itertools.chain([["127.0.0.1"]], itertools.repeat(["127.0.0.99"]))
    looked_up = []

    async def resolve(host: str) -> list[str]:
        looked_up.append(next(answers))
        return looked_up[-1]

    content, _ = fetch(certificate, lambda _: response(PICTURE), resolve=resolve)
    assert content == PICTURE
    assert looked_up == [["127.0.0.1"]]


def redirect(target: str) -> bytes:
    return response(b"", f"Location: {target}", status="302 Found")


def test_a_redirect_within_the_named_hosts_is_followed(certificate):
    def answer(path: str) -> bytes:
        return redirect("/moved.png") if path == "/p.png" else response(PICTURE)

    assert fetch(certificate, answer) == (PICTURE, ["/p.png", "/moved.png"])


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/", "https://169.254.169.254/", "https://evil.test/", "file:///etc/passwd", "//evil.test/"],
)
@pytest.mark.abuse(9)
def test_a_redirect_elsewhere_is_not(certificate, target):
    message, paths = fetch(certificate, lambda _: redirect(target))
    assert message == "image: the address is not of a host that this server fetches from"
    assert paths == ["/p.png"]


@pytest.mark.abuse(9)
def test_a_redirect_to_a_named_host_that_is_private_is_not_followed(certificate):
    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"] if host == HOST else ["192.168.0.1"]

    message, paths = fetch(certificate, lambda _: redirect("https://other.test:PORT/"), resolve=resolve)
    assert message == "image: the host could not be reached, or did not answer as a web server does"
    assert paths == ["/p.png"]


def test_redirects_end(certificate):
    message, paths = fetch(certificate, lambda _: redirect("/p.png"))
    assert message == "image: the host redirects more than 3 times"
    assert len(paths) == 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response(PICTURE, kind="text/html"), "image: what the host sent is no image"),
        (response(PICTURE, "Content-Encoding: gzip"), "image: what the host sent is no image"),
        (response(b"", status="404 Not Found"), "image: the host answered with status 404"),
        (b"nonsense\r\n\r\n", "image: the host could not be reached, or did not answer as a web server does"),
        (response(PICTURE)[:-5], "image: the host could not be reached, or did not answer as a web server does"),
    ],
)
@pytest.mark.abuse(9)
def test_what_is_no_image_is_refused(certificate, answer, message):
    assert fetch(certificate, lambda _: answer)[0] == message


@pytest.mark.abuse(9)
def test_an_endless_body_is_cut_off(certificate):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nConnection: close\r\n\r\n"
    pieces = [head, *[bytes(2**16)] * 64]
    message, _ = fetch(certificate, lambda _: pieces, max_bytes=2**18)
    assert message == "image: the host sent more than 262144 bytes (media.max_bytes)"


@pytest.mark.abuse(9)
def test_a_slow_host_is_given_up(certificate):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n"
    began = time.monotonic()
    message, _ = fetch(certificate, lambda _: [head, *[b"x"] * 50], pause=0.1, fetch_seconds=0.5)
    assert message == "image: the host did not send the panorama in time"
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses(address):
    assert is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *(
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
        ),
        *("2002:7f00:1::", "ff02::1", "fe80::1%eth0", "localhost", ""),
    ],
)
def test_private_addresses(address):
    assert not is_public_address(address)
