"""Settings of `cora-serve`, the files in ``configs/serve``: where it listens, what it accepts, and vLLM's own flags.

The API key is no setting: it comes from the command line or the environment.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from cora.config.sections import Section

__all__ = ["LimitsConfig", "MediaConfig", "ServeConfig"]

# Flags of vLLM that would take back what the server promises; the key says what to use instead.
_NOT_OF_THE_ENGINE = {
    "api_key": "--api-key or CORA_API_KEY",
    "host": "host",
    "port": "port",
    "uds": "host and port",
    "served_model_name": "served_model_name",
    "allowed_media_domains": "media.domains",
    "allowed_local_media_path": "media.directory",
    "shutdown_timeout": "limits.drain_seconds",
    "enable_mm_embeds": "nothing: tensors of clients are not accepted",
    "enable_prompt_embeds": "nothing: tensors of clients are not accepted",
    "trust_request_mm_kwargs": "nothing: clients do not change the processor",
    "trust_request_chat_template": "nothing: clients do not change the chat template",
    "middleware": "nothing: code is not named in a configuration",
}


class MediaConfig(Section):
    """Where panoramas may come from, besides the request itself."""

    domains: list[str] = Field(default_factory=list)
    """Hosts that panoramas are fetched from over https, exactly as written; none by default."""
    directory: str | None = None
    """Folder whose files ``file://`` addresses may name; None refuses them."""
    max_pixels: int = Field(178_956_970, ge=1, le=178_956_970)
    """Largest number of pixels of a panorama, told from its header before it is decoded; Pillow opens no larger one."""
    max_pixels_in_flight: int = Field(512 * 2**20, ge=1)
    """Most pixels of decoded panoramas in memory at once, three bytes each; others wait."""
    max_bytes: int = Field(64 * 2**20, ge=1)
    """Largest file that is fetched, or read from the directory."""
    fetch_seconds: float = Field(10.0, gt=0.0)
    """Longest time that fetching a panorama takes, redirects included."""

    @field_validator("domains")
    @classmethod
    def _domains_are_hosts(cls, domains: list[str]) -> list[str]:
        for domain in domains:
            if not domain or any(character in domain for character in "/:@*\\ "):
                raise ValueError(f"'{domain}' is not the name of a host, such as images.example.org")
        return [domain.lower().rstrip(".") for domain in domains]


class LimitsConfig(Section):
    """How much the server takes on; what is beyond is refused with 413 or 429."""

    max_body_bytes: int = Field(64 * 2**20, ge=1024)
    """Largest body of a request; larger ones are refused with 413."""
    max_concurrent: int = Field(64, ge=1)
    """Most requests under way at once; more are refused with 429."""
    max_bytes_in_flight: int = Field(512 * 2**20, ge=1024)
    """Most bytes of bodies under way at once; more are refused with 429."""
    max_choices: int = Field(8, ge=1)
    """Most answers to one request (``n`` times the number of prompts)."""
    drain_seconds: float = Field(30.0, ge=0.0)
    """How long requests under way may still take after SIGTERM."""


class ServeConfig(Section):
    """How `cora-serve` serves a checkpoint."""

    host: str = "127.0.0.1"
    """Address to listen on; another than loopback needs an API key."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and says which."""
    served_model_name: str | None = None
    """What clients call the model; None takes the checkpoint's name."""
    accept_flat: bool = False
    """Whether pictures that are not 2:1 are taken for panoramas all the same."""
    media: MediaConfig = Field(default_factory=MediaConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    engine: dict[str, Any] = Field(default_factory=dict)
    """Flags of vLLM's server with underscores, such as ``max_num_seqs: 64``; they replace our defaults."""

    @field_validator("engine")
    @classmethod
    def _engine_leaves_the_rest_alone(cls, engine: dict[str, Any]) -> dict[str, Any]:
        for name in engine:
            if (instead := _NOT_OF_THE_ENGINE.get(name.replace("-", "_"))) is not None:
                raise ValueError(f"engine.{name} is not available; use {instead}")
        return engine
