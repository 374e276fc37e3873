"""Who may ask what: the key guards every route but the public ones, and only routes that are named exist."""

from __future__ import annotations

import importlib.util

import pytest
from served import KEY, Server

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
OURS = [
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
]
# Routes that vLLM's server has, with and without its mode for developers.
NOT_OURS = [
    ("POST", "/invocations"),
    ("GET", "/ping"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/sleep"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/collective_rpc"),
    ("POST", "/scale_elastic_ep"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/chat/completions/batch"),
    ("POST", "/inference/v1/generate"),
    ("GET", "/version"),
    ("GET", "/load"),
    ("GET", "/server_info"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/metrics/x"),
    ("GET", "/v1/models/"),
    ("GET", "//v1/models"),
]


@pytest.mark.parametrize("key", [None, "wrong", KEY[:-1], KEY + "x"])
@pytest.mark.abuse(10)
def test_nothing_answers_without_the_key(server: Server, key):
    with server.client(key=key) as client:
        for method, path in OURS + NOT_OURS:
            response = client.request(method, server.url + path, json={"messages": [], "prompt": "x"})
            assert response.status_code == 401, path
            assert response.json()["error"]["message"] == "a valid API key is needed"


@pytest.mark.abuse(10)
def test_routes_that_are_not_named_do_not_exist(server: Server):
    with server.client() as client:
        for method, path in NOT_OURS:
            assert client.request(method, server.url + path, json={}).status_code == 404, path


@pytest.mark.parametrize("header", [f"Basic {KEY}", KEY, f"bearer{KEY}", "Bearer \udcff"])
def test_the_key_comes_as_a_bearer(server: Server, header):
    with server.client(key=None) as client:
        headers = [(b"Authorization", header.encode("utf-8", "surrogateescape"))]
        assert client.get("/v1/models", headers=headers).status_code == 401


def test_health_needs_no_key(server: Server):
    with server.client(key=None) as client:
        assert client.get("/health").status_code == 200
        # The public route is public for its own method only.
        assert client.post("/health").status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/chat/completions"), ("POST", "/v1/models")])
def test_routes_have_their_methods_only(server: Server, method, path):
    with server.client() as client:
        assert client.request(method, path).status_code == 405


def test_browsers_of_other_sites_are_told_nothing(server: Server):
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    with server.client() as client:
        response = client.options("/v1/chat/completions", headers=asking)
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers
        # What a page can send without asking first is not JSON to the server.
        body = b'{"messages": [{"role": "user", "content": "x"}]}'
        assert (
            client.post("/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"}).status_code == 415
        )
