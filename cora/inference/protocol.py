"""What generation is, apart from any back end: requests in, results out, in order, and no request harms another.

Light on purpose: evaluation and commands use these names without loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from cora.errors import ConfigError

if TYPE_CHECKING:
    from cora.processors.loading import PanoramaSource

__all__ = [
    "FinishReason",
    "GenerationRequest",
    "GenerationResult",
    "GenerationSettings",
    "Generator",
    "failed",
]

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One question about one panorama (a file, its bytes, a PIL image, or uint8[H, W, 3])."""

    image: PanoramaSource
    query: str


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How answers are generated.

    Attributes:
        max_new_tokens: Most tokens of an answer, at least 1.
        temperature: 0 is greedy.
        top_p: Probability mass sampled from, in (0, 1]; without effect when greedy.
        repetition_penalty: Above 0; 1 does not penalise.
        seed: Every sampled answer starts from this seed, so that it does not depend on the others.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that describe nothing."""
        for name, is_right, rule in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        ):
            if not is_right:
                raise ConfigError(f"generation.{name} must be {rule}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """One answer.

    Attributes:
        text: The answer without special tokens, otherwise as generated; None when the request failed.
        token_ids: The generated tokens, the one that ended the answer included.
        finish_reason: ``stop`` at an end token, ``length`` at the limit, ``error`` when the request failed.
        error: Why it failed, or None.
    """

    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    error: str | None = None


def failed(error: object) -> GenerationResult:
    """Return the result of a request that failed, with the reason on one line."""
    return GenerationResult(None, (), "error", " ".join(str(error).split()))


@runtime_checkable
class Generator(Protocol):
    """Anything that answers questions about panoramas."""

    @property
    def name(self) -> str:
        """Back end, device and precision: everything besides the model that may change an answer."""
        ...

    @property
    def model_digest(self) -> str:
        """SHA-256 over configuration and weights."""
        ...

    @property
    def processor_digest(self) -> str:
        """SHA-256 over everything that turns panorama and question into model input."""
        ...

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order; a bad request gives a result with `error`, never an exception."""
        ...

    def close(self) -> None:
        """Give memory and processes back; the generator cannot be used afterwards."""
        ...
