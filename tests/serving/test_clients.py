"""What docs/serving.md shows: clients of OpenAI's protocol get answers, whole and streamed, over several turns."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess

import pytest
from served import KEY, MODEL, Server, about, data_uri
from tiny_models import make_panorama

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]


@pytest.fixture
def openai_client(server: Server):
    from openai import OpenAI

    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_a_panorama_changes_the_answer_and_the_same_one_does_not(openai_client):
    answers = [
        openai_client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": about(seed)}], max_tokens=12, temperature=0
        )
        for seed in (0, 1, 0)
    ]
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[0] == texts[2] != texts[1]
    assert answers[0].model == MODEL
    assert answers[0].usage.completion_tokens == 12


def test_a_server_answers_as_the_offline_engine_does(server: Server, server_checkpoint):
    from cora.inference.generator import PanoramaGenerator
    from cora.inference.protocol import GenerationRequest, GenerationSettings

    generator = PanoramaGenerator.from_checkpoint(server_checkpoint, "transformers", device="cpu")
    requests = [GenerationRequest(make_panorama(seed), "What is ahead?") for seed in range(4)]
    expected = [
        list(result.token_ids) for result in generator.generate(requests, GenerationSettings(max_new_tokens=12))
    ]
    generator.close()
    answered = [
        server.ask(about(seed), max_tokens=12, return_token_ids=True).json()["choices"][0]["token_ids"]
        for seed in range(4)
    ]
    assert answered == expected


def test_a_streamed_answer_is_the_whole_one_in_parts(openai_client):
    def request(**options):
        return openai_client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": about(3)}], max_tokens=24, temperature=0, **options
        )

    parts = [chunk.choices[0].delta.content or "" for chunk in request(stream=True) if chunk.choices]
    assert len([part for part in parts if part]) > 3
    assert "".join(parts) == request().choices[0].message.content


def test_several_turns_about_one_panorama(openai_client):
    def answer(*turns):
        reply = openai_client.chat.completions.create(model=MODEL, messages=list(turns), max_tokens=8, temperature=0)
        return reply.choices[0].message.content, reply.usage.prompt_tokens

    question = {"role": "user", "content": about(5)}
    first, length = answer(question)
    follow_up = {"role": "user", "content": "And behind?"}
    second, longer = answer(question, {"role": "assistant", "content": first}, follow_up)
    assert longer > length
    # The answer depends on what was said, and on the panorama at the start.
    assert second != answer(follow_up)[0]
    other = {"role": "user", "content": about(6)}
    assert second != answer(other, {"role": "assistant", "content": first}, follow_up)[0]


def test_text_alone_and_raw_prompts(openai_client):
    chat = openai_client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "sky"}], max_tokens=4
    )
    assert chat.usage.prompt_tokens < 64
    raw = openai_client.completions.create(model=MODEL, prompt=["sky", "sea"], max_tokens=4, temperature=0)
    assert len(raw.choices) == 2


def test_the_model_has_the_name_it_was_given(openai_client):
    (model,) = openai_client.models.list().data
    assert model.id == MODEL
    assert "/" not in json.dumps(model.model_dump())


def test_curl(server: Server, tmp_path):
    body = tmp_path / "request.json"
    url = data_uri(make_panorama(0), "jpeg")
    body.write_text(
        json.dumps({"model": MODEL, "messages": [{"role": "user", "content": about(url)}], "max_tokens": 4})
    )
    done = subprocess.run(
        [
            *("curl", "-sS", "--fail", f"{server.url}/v1/chat/completions", "-H", f"Authorization: Bearer {KEY}"),
            *("-H", "Content-Type: application/json", "-d", f"@{body}"),
        ],
        capture_output=True,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_metrics_count_what_was_asked(server: Server):
    def answered() -> float:
        with server.client() as client:
            text = client.get("/metrics").text
        return sum(map(float, re.findall(r"^vllm:request_success_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)))

    before = answered()
    assert server.ask(about(0)).status_code == 200
    assert answered() == before + 1
