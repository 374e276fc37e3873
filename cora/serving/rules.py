"""What a request may say: the fields we know, text and panoramas in its messages, and no more answers than we give.

vLLM accepts far more: tensors, processor options, templates, its own identifiers of pictures. All of it is refused by
name unless it is in the tables here.
"""

from __future__ import annotations

import json
from typing import Any

from cora.errors import CoraError
from cora.processors.text import VISION_TOKEN

__all__ = ["CHAT", "COMPLETIONS", "FIELDS", "RequestRefused", "RequestRules"]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_SAMPLING = frozenset(
    [
        "model",
        "max_tokens",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_options",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "ignore_eos",
        "min_tokens",
        "skip_special_tokens",
        "include_stop_str_in_output",
        "logprobs",
        "return_token_ids",
        "user",
        "cache_salt",
    ]
)
FIELDS = {
    CHAT: _SAMPLING | {"messages", "max_completion_tokens", "top_logprobs"},
    COMPLETIONS: _SAMPLING | {"prompt", "echo"},
}
_ROLES = ("system", "user", "assistant")
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "refusal"})
_MOST_STOPS = 16
# As the chat template spells what a user typed.
_PLAIN_VISION_TOKEN = "< " + VISION_TOKEN[1:]


class RequestRefused(CoraError):
    """A request that is not answered.

    Args:
        message: Why.
        parameter: Which field is to blame.
    """

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class RequestRules:
    """Checks the bodies of requests.

    Args:
        max_choices: Most answers to one request.
        image_token_id: The placeholder of panoramas, which no prompt of token ids may hold; None where there is none.
    """

    def __init__(self, *, max_choices: int, image_token_id: int | None) -> None:
        self._max_choices = max_choices
        self._image_token_id = image_token_id

    def applied(self, path: str, body: bytes) -> bytes:
        """Return what vLLM is given: the body, with placeholders in raw prompts made plain text.

        Raises:
            RequestRefused: It asks for something this server does not do.
        """
        document = _parsed(body)
        for name, value in document.items():
            # Clients send null for what they leave to the server.
            if name not in FIELDS[path] and value is not None:
                raise RequestRefused(f"'{name}' is not available on this server", name)
        stops = document.get("stop")
        if isinstance(stops, list) and len(stops) > _MOST_STOPS:
            raise RequestRefused(f"'stop' has more than {_MOST_STOPS} texts", "stop")
        num_prompts = 1
        if path == CHAT:
            _check_messages(document.get("messages"))
        else:
            prompts = _prompts(document.get("prompt"))
            num_prompts = len(prompts)
            if any(isinstance(prompt, list) and self._image_token_id in prompt for prompt in prompts):
                raise RequestRefused("'prompt' holds the token that stands for a panorama", "prompt")
        number = document.get("n")
        if (number if isinstance(number, int) else 1) * num_prompts > self._max_choices:
            raise RequestRefused(f"more than {self._max_choices} answers to one request", "n")
        if path == COMPLETIONS and VISION_TOKEN.encode() in json.dumps(document["prompt"]).encode():
            document["prompt"] = _without_placeholders(document["prompt"])
            return json.dumps(document).encode()
        return body


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
        if b"\\u" in body:
            # Half a surrogate pair is JSON, but no text.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RequestRefused("the body is not valid JSON") from None
    if not isinstance(document, dict):
        raise RequestRefused("the body is not a JSON object")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise RequestRefused("'messages' is a list of at least one message", "messages")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise RequestRefused(f"a message is an object whose role is {', '.join(_ROLES)}", "messages")
        if unknown := sorted(name for name in message.keys() - _MESSAGE_FIELDS if message[name] is not None):
            raise RequestRefused(f"'{unknown[0]}' of a message is not available on this server", "messages")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if not isinstance(content, list) or not content:
            raise RequestRefused("the content of a message is text, or a list of parts", "messages")
        for part in content:
            _check_part(part, message["role"])


def _check_part(part: Any, role: str) -> None:
    if isinstance(part, dict):
        kind, rest = part.get("type"), part.keys() - {"type"}
        if kind == "text" and rest == {"text"} and isinstance(part["text"], str):
            return
        if kind == "image_url" and rest == {"image_url"} and role == "user":
            _check_address(part["image_url"])
            return
    raise RequestRefused(
        "a part is {'type': 'text', 'text': ...} or, of a user, {'type': 'image_url', 'image_url': {'url': ...}}",
        "messages",
    )


def _check_address(image: Any) -> None:
    if not isinstance(image, dict) or image.keys() - {"detail"} != {"url"}:
        raise RequestRefused("an image_url is {'url': ...}", "messages")
    if not isinstance(image["url"], str) or not image["url"]:
        raise RequestRefused("the url of an image is text", "messages")
    if image.get("detail") not in (None, "auto", "low", "high"):
        raise RequestRefused("the detail of an image is auto, low or high", "messages")


def _prompts(prompt: Any) -> list[Any]:
    """Return the prompts of a request: texts or lists of token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise RequestRefused("'prompt' is text, a list of token ids, or a list of either", "prompt")
    if all(type(item) is int for item in prompt):
        return [prompt]
    for item in prompt:
        is_ids = isinstance(item, list) and item and all(type(token) is int for token in item)
        if not isinstance(item, str) and not is_ids:
            raise RequestRefused("'prompt' is text, a list of token ids, or a list of either", "prompt")
    return prompt


def _without_placeholders(prompt: Any) -> Any:
    if isinstance(prompt, str):
        return prompt.replace(VISION_TOKEN, _PLAIN_VISION_TOKEN)
    return [_without_placeholders(item) for item in prompt] if isinstance(prompt, list) else prompt
