"""A client of any server that speaks OpenAI's chat protocol: one request in, one typed reply out, never an exception.

What may pass (408, 409, 429, 5xx, time-outs, lost connections) is tried again by the `openai` package, which waits
longer each time, with jitter, or as long as ``Retry-After`` says; everything else is a failure at once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cora.errors import BackendUnavailable, EndpointError
from cora.inference.credentials import Endpoint

if TYPE_CHECKING:
    import openai

__all__ = ["FATAL", "ChatClient", "FailureKind", "Reply", "answer_concurrently", "reply_from_body"]

FailureKind = Literal[
    "authentication",
    "payment",
    "not_found",
    "forbidden",
    "bad_request",
    "rate_limit",
    "server",
    "timeout",
    "connection",
    "garbage",
    "refusal",
]
# After one of these no other request can succeed.
FATAL: frozenset[FailureKind] = frozenset({"authentication", "payment", "not_found"})
_BY_STATUS: dict[int, FailureKind] = {
    401: "authentication",
    402: "payment",
    403: "forbidden",
    404: "not_found",
    408: "timeout",
    429: "rate_limit",
}
# How servers say that a 429 will not pass by waiting.
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_LONGEST_ERROR = 300

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request.

    Attributes:
        text: What the model wrote, or None when there is no answer.
        failure: Why there is none, as a word to count, or None.
        error: The same as a sentence on one line, without the key.
        finish_reason: As the server says it: ``stop``, ``length``, …; empty after a failure.
        input_tokens: Tokens of the request that were charged; None where the server does not say.
        output_tokens: Tokens of the answer, thoughts included.
        model: Name of the model that answered, as the server says it.
        num_retries: Tries before this one.
    """

    text: str | None
    failure: FailureKind | None = None
    error: str | None = None
    finish_reason: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    num_retries: int = 0


class ChatClient:
    """Talks to one endpoint; safe to use from several threads; a context manager.

    Raises:
        BackendUnavailable: The package `openai` is not installed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        if find_spec("openai") is None:
            raise BackendUnavailable("the package openai is not installed: pip install 'cora-panorama[judge]'")
        import openai

        self.endpoint = endpoint
        self.api = openai.OpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_seconds,
            max_retries=endpoint.max_retries,
        )

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.api.close()

    def model_names(self) -> list[str]:
        """Return the names of the models there.

        Raises:
            EndpointError: The server does not say.
        """
        with self.refusals_raised():
            return [model.id for model in self.api.models.list()]

    def ask(self, messages: Sequence[dict[str, Any]], **options: Any) -> Reply:
        """Return the reply to one conversation.

        Args:
            messages: As in OpenAI's chat protocol.
            **options: Further fields of the request.
        """
        import openai

        fields: dict[str, Any] = {"model": self.endpoint.model, "messages": list(messages), **options}
        try:
            response = self.api.chat.completions.with_raw_response.create(**fields)
        except openai.OpenAIError as error:
            return self.failure(error)
        try:
            body = json.loads(response.content)
        except ValueError:
            return Reply(None, "garbage", "the reply is no JSON", num_retries=response.retries_taken)
        return reply_from_body(body, num_retries=response.retries_taken)

    def failure(self, error: openai.OpenAIError) -> Reply:
        """Return the reply that stands for an exception of the package."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return Reply(None, "timeout", f"no answer within {self.endpoint.timeout_seconds:g} s")
        if isinstance(error, openai.APIConnectionError):
            said = f"{self.endpoint.base_url} cannot be reached: {error.__cause__ or error}"
            return Reply(None, "connection", self._shown(said))
        if isinstance(error, openai.APIStatusError):
            return self.refused(error.status_code, _said(error), code=error.code)
        return Reply(None, "garbage", self._shown(f"the reply is unusable: {error}"))

    def refused(self, status: int, said: str, *, code: str | None = None) -> Reply:
        """Return the reply for a response that is an error.

        Args:
            status: HTTP status.
            said: The server's words.
            code: The server's name for it.
        """
        default: FailureKind = "server" if status >= 500 else "bad_request"
        kind = "payment" if code in _NO_CREDIT else _BY_STATUS.get(status, default)
        return Reply(None, kind, self._shown(f"HTTP {status}: {said}"))

    @contextmanager
    def refusals_raised(self) -> Iterator[None]:
        """Turn the package's exceptions into an EndpointError, for uses of `api` that are no questions."""
        import openai

        try:
            yield
        except openai.OpenAIError as error:
            raise self.refusal_to_work(self.failure(error)) from None

    def _shown(self, text: str) -> str:
        return self.endpoint.without_key(" ".join(text.split()))[:_LONGEST_ERROR]

    def refusal_to_work(self, reply: Reply) -> EndpointError:
        """Return the error for a failure after which it is pointless to go on."""
        remedies = {
            "authentication": "; check the key",
            "payment": "; the account has no credit",
            "not_found": f"; check the base URL and the model name '{self.endpoint.model}'",
        }
        return EndpointError(f"{self.endpoint.base_url}: {reply.error}{remedies.get(reply.failure or '', '')}")


def reply_from_body(body: object, *, num_retries: int = 0) -> Reply:
    """Return the reply in the body of a completion, which any server may have got wrong.

    Args:
        body: The JSON document.
        num_retries: Tries before this one.
    """
    document: dict[str, Any] = body if isinstance(body, dict) else {}
    usage: Any = document.get("usage")
    charged = usage if isinstance(usage, dict) else {}
    reply = Reply(
        None,
        input_tokens=_count(charged.get("prompt_tokens")),
        output_tokens=_count(charged.get("completion_tokens")),
        model=document["model"] if isinstance(document.get("model"), str) else None,
        num_retries=num_retries,
    )
    try:
        choice = document["choices"][0]
        text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        reply = replace(reply, finish_reason=str(choice.get("finish_reason") or ""))
    except (KeyError, IndexError, TypeError, AttributeError):
        return replace(reply, failure="garbage", error="the reply holds no message")
    if isinstance(refusal, str) or reply.finish_reason == "content_filter":
        said = " ".join(refusal.split())[:_LONGEST_ERROR] if isinstance(refusal, str) else "content filter"
        return replace(reply, failure="refusal", error=f"the model refused: {said}")
    if not isinstance(text, str):
        return replace(reply, failure="garbage", error="the message has no text")
    return replace(reply, text=text)


def answer_concurrently(
    ask: Callable[[_Item], _Result], items: Iterable[_Item], max_concurrent: int
) -> Iterator[tuple[_Item, _Result]]:
    """Yield each item with its result as soon as it is there; an item is taken only when a place is free.

    Args:
        ask: Called in a thread for each item.
        items: May end early: what is on its way is still yielded.
        max_concurrent: Most calls at once.
    """
    remaining = iter(items)
    running: dict[Future[_Result], _Item] = {}
    while True:
        for item in islice(remaining, max_concurrent - len(running)):
            running[_started(ask, item)] = item
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def _started(ask: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
    """Return the future of a call in a thread of its own, which does not keep an interrupted process alive."""
    future: Future[_Result] = Future()

    def work() -> None:
        try:
            future.set_result(ask(item))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="cora-endpoint", daemon=True).start()
    return future


def _said(error: openai.APIStatusError) -> str:
    """Return what the server said is wrong, without the JSON around it."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return message if isinstance(message, str) else str(error.body or error.message)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
