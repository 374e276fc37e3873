"""Settings of endpoints that speak OpenAI's protocol, and of the judge that runs on one.

Keys are no settings: they come from the environment or a file ``.env``, see `cora.inference.credentials`.
"""

from __future__ import annotations

from pydantic import Field

from cora.config.sections import Section

__all__ = ["EndpointConfig", "JudgeConfig"]


class EndpointConfig(Section):
    """How a server that speaks OpenAI's protocol is talked to, by `cora-eval --backend openai` and `cora judge`."""

    base_url: str | None = None
    """Address up to and with ``/v1``; None takes ``OPENAI_BASE_URL``, or OpenAI's own."""
    max_concurrent: int = Field(8, ge=1, le=256)
    """Most requests on their way at once."""
    timeout_seconds: float = Field(120.0, gt=0.0)
    """Longest silence of the server before a request is given up and tried again."""
    max_retries: int = Field(5, ge=0)
    """Further tries after 408, 409, 429, 5xx, time-outs and lost connections; each waits longer, or as long as the
    server asks for."""
    image_width: int | None = Field(None, ge=16)
    """Width in pixels that `cora-eval` shrinks wider panoramas to, as JPEG; None sends the file as it is."""


class JudgeConfig(Section):
    """How `cora judge` asks a language model about answers."""

    temperature: float | None = Field(0.0, ge=0.0)
    """Temperature of the judge; None does not send one, for models that refuse it."""
    send_image: bool = True
    """Whether the judge sees the panorama."""
    image_width: int = Field(1024, ge=16)
    """Width in pixels that wider panoramas are shrunk to, as JPEG."""
    group_size: int = Field(8, ge=1)
    """Most answers about one panorama that are judged in one request."""
    tokens_per_answer: int = Field(800, ge=1)
    """Most tokens of a reply for each answer judged in it, the judge's thoughts included."""
    max_failed_share: float = Field(0.05, ge=0.0, le=1.0)
    """Share of the answers that may be left without a verdict; more is an error."""
    input_price: float | None = Field(None, ge=0.0)
    """Price of a million input tokens, in any currency; None leaves the cost unknown."""
    output_price: float | None = Field(None, ge=0.0)
    """Price of a million output tokens."""
