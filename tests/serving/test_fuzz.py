"""Bodies made from vLLM's own JSON schemas, right and wrong: no answer is a failure of the server."""

from __future__ import annotations

import importlib.util
import json
import warnings
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import KEY, Server, data_uri
from tiny_models import make_panorama

from cora.serving.rules import CHAT, COMPLETIONS

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
PANORAMA = data_uri(make_panorama(0))
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
TEXTS = st.text(max_size=20) | st.sampled_from(["<|vision|>", "<|im_end|>", "\x00", "\ud800", "{{ x }}", "%s"])
URLS = TEXTS | st.sampled_from([PANORAMA, "data:,", "data:image/png;base64,AA==", "https://localhost/", "file:///etc"])
PARTS = (
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS | JUNK})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": URLS | JUNK})})
    | JUNK
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | JUNK},
        optional={"content": TEXTS | st.lists(PARTS, max_size=3) | JUNK, "name": JUNK},
    ),
    max_size=3,
)


@lru_cache
def schema(path: str) -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    return (ChatCompletionRequest if path == CHAT else CompletionRequest).model_json_schema()


def values(part: Any, definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a part of a schema allows."""
    if not isinstance(part, dict) or not part.keys() - {"title", "default", "description", "deprecated"}:
        return JUNK
    if "$ref" in part:
        return values(definitions[part["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in part or "oneOf" in part:
        return st.one_of([values(item, definitions) for item in part.get("anyOf", part.get("oneOf"))])
    if "enum" in part or "const" in part:
        return st.sampled_from(part.get("enum", [part.get("const")]))
    if part["type"] == "object":
        fields = {name: values(item, definitions) for name, item in part.get("properties", {}).items()}
        if fields:
            return st.fixed_dictionaries({}, optional=fields)
        return st.dictionaries(st.text(max_size=4), values(part.get("additionalProperties"), definitions), max_size=3)
    if part["type"] == "array":
        return st.lists(values(part.get("items"), definitions), max_size=3)
    low, high = part.get("minimum"), part.get("maximum")
    return {
        "integer": st.integers(low, high) | st.integers(-3, 3).filter(lambda n: (low or n) <= n),
        "number": st.floats(low, high, allow_nan=False) | st.floats(-1, 2),
        "boolean": st.booleans(),
        "string": TEXTS,
        "null": st.none(),
    }[part["type"]]


@lru_cache
def option(path: str, name: str) -> st.SearchStrategy[Any]:
    """Return values of a field that its schema allows."""
    document = schema(path)
    return values(document["properties"][name], document.get("$defs", {}))


def bodies(path: str) -> st.SearchStrategy[dict[str, Any]]:
    from cora.serving.rules import FIELDS

    subject = "messages" if path == CHAT else "prompt"
    served = sorted(FIELDS[path] - {subject, "model"})
    others = sorted(schema(path)["properties"].keys() - FIELDS[path])

    @st.composite
    def body(draw: st.DrawFn) -> dict[str, Any]:
        drawn = {subject: draw(MESSAGES if path == CHAT else TEXTS | st.lists(TEXTS | JUNK, max_size=3) | JUNK)}
        for name in draw(st.lists(st.sampled_from(served), max_size=4)):
            drawn[name] = draw(option(path, name) | JUNK)
        for name in draw(st.lists(st.sampled_from(others), max_size=1) | st.just([])):
            drawn[name] = draw(JUNK)
        return {"max_tokens": 2, **drawn}

    return body()


def check(server: Server, path: str, body: Any) -> int:
    """Return the status of an answer, which is none of a failure."""
    with server.client() as client:
        response = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404), f"{response.status_code} {response.text} of {body}"
    if response.status_code != 200:
        assert response.json()["error"]["message"]
        assert KEY not in response.text
    return response.status_code


@pytest.mark.slow
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_no_body_makes_the_server_fail(server: Server, path):
    statuses = set()

    @FUZZ
    @given(bodies(path))
    def run(body: dict[str, Any]) -> None:
        statuses.add(check(server, path, body))

    run()
    assert statuses >= {200, 400}


@FUZZ
@given(method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]), path=st.text(max_size=12))
def test_no_path_makes_it_fail(server: Server, method, path):
    with server.client() as client:
        escaped = "".join(f"%{byte:02x}" for byte in path.encode("utf-8", "ignore"))
        response = client.request(method, f"{server.url}/{escaped}")
    assert response.status_code in (200, 404, 405)
