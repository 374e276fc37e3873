"""The back end openai: a model behind an endpoint, such as a vLLM server of an export, answers about panoramas."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from cora.errors import ImageError
from cora.inference.credentials import Endpoint
from cora.inference.data_uri import JPEG_QUALITY, as_data_uri
from cora.inference.endpoint import FATAL, ChatClient, Reply, answer_concurrently
from cora.inference.protocol import FinishReason, GenerationRequest, GenerationResult, GenerationSettings, failed

__all__ = ["OpenAIBackend"]

# Enough to keep all connections busy, few enough that a killed run loses little.
_CHUNKS_PER_CONNECTION = 4


class OpenAIBackend:
    """Sends each panorama with its question as one message; see `cora.inference.generator.Backend`.

    Args:
        endpoint: Model, address and key.
        image_width: Width in pixels that wider panoramas are shrunk to; None sends files as they are.
    """

    def __init__(self, endpoint: Endpoint, *, image_width: int | None = None) -> None:
        self.client = ChatClient(endpoint)
        self.endpoint = endpoint
        self.image_width = image_width
        self._fatal: Reply | None = None

    @property
    def name(self) -> str:
        """Back end and address."""
        return f"openai {self.endpoint.base_url}"

    @property
    def model_digest(self) -> str:
        """SHA-256 over address and name: whether another model answers to them later, nobody can tell from here."""
        return _digest({"base_url": self.endpoint.base_url, "model": self.endpoint.model})

    @property
    def processor_digest(self) -> str:
        """SHA-256 over how a panorama is sent."""
        return _digest({"image_width": self.image_width, "quality": JPEG_QUALITY if self.image_width else None})

    @property
    def chunk_size(self) -> int:
        """Number of requests that are worth giving it at once."""
        return _CHUNKS_PER_CONNECTION * self.endpoint.max_concurrent

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order.

        Raises:
            EndpointError: The server refuses every request. Answers that came before are returned first.
        """
        if self._fatal is not None:
            raise self.client.refusal_to_work(self._fatal)
        results: dict[int, GenerationResult] = {}
        indices = takewhile(lambda _: self._fatal is None, range(len(requests)))
        for index, reply in answer_concurrently(
            lambda index: self._ask(requests[index], settings), indices, self.endpoint.max_concurrent
        ):
            results[index] = reply if isinstance(reply, GenerationResult) else _result(reply)
            if isinstance(reply, Reply) and reply.failure in FATAL:
                self._fatal = reply
        if self._fatal is not None and all(result.text is None for result in results.values()):
            raise self.client.refusal_to_work(self._fatal)
        not_asked = failed(f"not asked, because another request failed for good: {self._fatal and self._fatal.error}")
        return [results.get(index, not_asked) for index in range(len(requests))]

    def parts(self, request: GenerationRequest, settings: GenerationSettings) -> Iterator[str]:
        """Yield one answer in pieces, as the server writes it.

        Raises:
            ImageError: The panorama cannot be used.
            EndpointError: The server refuses the request or stops answering.
        """
        fields: dict[str, Any] = {"model": self.endpoint.model, "messages": self._messages(request)}
        with self.client.refusals_raised():
            stream = self.client.api.chat.completions.create(**fields, **self._options(settings), stream=True)
            for chunk in stream:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    yield text

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

    def _ask(self, request: GenerationRequest, settings: GenerationSettings) -> Reply | GenerationResult:
        try:
            messages = self._messages(request)
        except ImageError as error:
            return failed(error)
        return self.client.ask(messages, **self._options(settings))

    def _messages(self, request: GenerationRequest) -> list[dict[str, Any]]:
        image = {"url": as_data_uri(request.image, self.image_width)}
        content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": request.query}]
        return [{"role": "user", "content": content}]

    def _options(self, settings: GenerationSettings) -> dict[str, Any]:
        return {self.endpoint.limit_name: settings.max_new_tokens, **_sampling(settings)}


def _sampling(settings: GenerationSettings) -> dict[str, object]:
    """Return the settings under the protocol's names; what has no effect is not sent, as some servers refuse it."""
    options: dict[str, object] = {"temperature": settings.temperature}
    if settings.temperature > 0:
        options |= {"top_p": settings.top_p, "seed": settings.seed}
    if settings.repetition_penalty != 1:
        # No field of OpenAI's own; vLLM and most servers of open models know it.
        options["extra_body"] = {"repetition_penalty": settings.repetition_penalty}
    return options


def _result(reply: Reply) -> GenerationResult:
    if reply.text is None:
        return failed(f"{reply.failure}: {reply.error}")
    finish_reason: FinishReason = "length" if reply.finish_reason == "length" else "stop"
    return GenerationResult(reply.text, (), finish_reason)


def _digest(parts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
