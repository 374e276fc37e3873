"""Finds the address of an endpoint and the key to it, and keeps the key out of everything that is shown or written."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from cora.errors import BackendUnavailable, ConfigError

__all__ = ["Endpoint", "find_endpoint"]

logger = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
KEY_NAMES = ("CORA_API_KEY", "OPENAI_API_KEY")
_NO_KEY = "none"
_SHORTEST_SECRET = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind a server that speaks OpenAI's protocol.

    Attributes:
        model: Name of the model there.
        base_url: Address without a slash at its end; holds no secret.
        api_key: Never shown, logged or written.
        timeout_seconds: Longest silence of the server.
        max_retries: Further tries after a failure that may pass.
        max_concurrent: Most requests on their way at once.
    """

    model: str
    base_url: str
    api_key: str = field(repr=False)
    timeout_seconds: float = 120.0
    max_retries: int = 5
    max_concurrent: int = 8

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's own."""
        return urlsplit(self.base_url).hostname == urlsplit(OPENAI_URL).hostname

    @property
    def limit_name(self) -> str:
        """Name of the field that limits an answer: OpenAI's new models refuse the older one, others know only that."""
        return "max_completion_tokens" if self.is_openai else "max_tokens"

    def without_key(self, text: str) -> str:
        """Return a text with the key blotted out: a server may repeat it in an error."""
        return text.replace(self.api_key, "***") if len(self.api_key) >= _SHORTEST_SECRET else text


def find_endpoint(
    model: str,
    base_url: str | None = None,
    *,
    timeout_seconds: float = 120.0,
    max_retries: int = 5,
    max_concurrent: int = 8,
    dotenv: Path = Path(".env"),
) -> Endpoint:
    """Return an endpoint with its key, from the environment or a file of such variables.

    The key is ``CORA_API_KEY`` or ``OPENAI_API_KEY``; a server that is not OpenAI's may need none.

    Args:
        model: Name of the model.
        base_url: Address; by default ``OPENAI_BASE_URL``, then OpenAI's.
        timeout_seconds: Longest silence of the server.
        max_retries: Further tries after a failure that may pass.
        max_concurrent: Most requests on their way at once.
        dotenv: The file; what the environment has goes before it.

    Raises:
        ConfigError: OpenAI's own server without a key, or an address or key that cannot be one.
    """
    variables = {**_read_dotenv(dotenv), **os.environ}
    url = _checked_url(base_url or variables.get("OPENAI_BASE_URL") or OPENAI_URL)
    name = next((name for name in KEY_NAMES if (variables.get(name) or "").strip()), None)
    key = (variables[name] or "").strip() if name is not None else _NO_KEY
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{name} is no key: it has characters that no key has")
    endpoint = Endpoint(model, url, key, timeout_seconds, max_retries, max_concurrent)
    if name is None:
        if endpoint.is_openai:
            raise ConfigError(f"no key for {url}: set {' or '.join(KEY_NAMES)} in the environment or in {dotenv}")
        logger.info("no key for %s: neither %s is set", url, " nor ".join(KEY_NAMES))
    return endpoint


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the base URL is no http(s) address: {url.rpartition('@')[2]}")
    if parts.username or parts.password or parts.query or parts.fragment:
        # Whatever stands there would be written into results.
        raise ConfigError(
            f"the base URL of {parts.hostname} holds a user, a password or a query; give a key as {KEY_NAMES[0]}"
        )
    return url.rstrip("/")


def _read_dotenv(path: Path) -> dict[str, str | None]:
    if not path.is_file():
        return {}
    if find_spec("dotenv") is None:
        raise BackendUnavailable(f"{path} cannot be read: pip install 'cora-panorama[judge]'")
    from dotenv import dotenv_values

    return dict(dotenv_values(path, interpolate=False))
