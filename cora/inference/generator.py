"""PanoramaGenerator: opens an export or an endpoint, chooses what runs it, and answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from cora.errors import BackendUnavailable, CheckpointError, ConfigError, ImageError, did_you_mean
from cora.inference.checkpoint import check_agreement, open_export
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings
from cora.inference.streams import Indexed, stream_answers

if TYPE_CHECKING:
    from cora.inference.checkpoint import Export
    from cora.inference.credentials import Endpoint
    from cora.model.configuration import PanoramaVLMConfig
    from cora.processors.loading import PanoramaSource
    from cora.processors.processor import PanoramaProcessor
    from cora.types import ViewSpec

__all__ = ["BACKENDS", "Backend", "PanoramaGenerator", "load_parts"]

logger = logging.getLogger(__name__)

BackendName = Literal["auto", "vllm", "transformers", "openai"]
BACKENDS: tuple[BackendName, ...] = ("auto", "vllm", "transformers", "openai")


class Backend(Protocol):
    """Software that runs an export: a generator that does not know which checkpoint it runs.

    One that can take requests while it works has `stream` too, see `cora.inference.streams.StreamingBackend`.
    """

    @property
    def name(self) -> str:
        """Back end, device and precision."""
        ...

    @property
    def chunk_size(self) -> int:
        """Number of requests that are worth giving it at once."""
        ...

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order."""
        ...

    def close(self) -> None:
        """Give memory and processes back."""
        ...


class PanoramaGenerator:
    """Answers questions about panoramas with an exported or served model; see `cora.inference.protocol.Generator`.

    Args:
        backend: What runs the model.
        model_digest: SHA-256 of configuration and weights.
        processor_digest: SHA-256 of tokenizer, chat template and image processing.
        views: What is cut from a panorama.
    """

    def __init__(
        self, backend: Backend, *, model_digest: str, processor_digest: str, views: Sequence[ViewSpec] = ()
    ) -> None:
        self.backend = backend
        self.model_digest = model_digest
        self.processor_digest = processor_digest
        self.views = tuple(views)

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | Path,
        backend: str = "auto",
        *,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> PanoramaGenerator:
        """Return a generator for an export directory.

        Args:
            directory: What `PanoramaVLM.export` wrote.
            backend: ``vllm``, ``transformers``, or ``auto``: vLLM where it can be used, else Transformers.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
            batch_size: Prompts that Transformers generates together, by default what fits; vLLM batches by itself.

        Raises:
            CheckpointError: It is no export, lacks a part, or its model and processor disagree.
            BackendUnavailable: The back end or device that was asked for is not there.
        """
        if backend not in BACKENDS:
            raise ConfigError(
                f"unknown back end '{backend}'{did_you_mean(backend, BACKENDS)}; known: {', '.join(BACKENDS)}"
            )
        if backend == "openai":
            raise ConfigError("the back end openai runs no export: PanoramaGenerator.from_endpoint names a server")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        export = open_export(directory)
        config, processor = load_parts(export)
        return cls(
            _open_backend(backend, export, config, processor, device=device, batch_size=batch_size),
            model_digest=export.model_digest(),
            processor_digest=export.processor_digest(),
            views=processor.image_processor.views,
        )

    @classmethod
    def from_endpoint(cls, endpoint: Endpoint, *, image_width: int | None = None) -> PanoramaGenerator:
        """Return a generator for a model behind a server that speaks OpenAI's protocol.

        Args:
            endpoint: Model, address and key, see `cora.inference.credentials.find_endpoint`.
            image_width: Width in pixels that wider panoramas are shrunk to; None sends files as they are.

        Raises:
            BackendUnavailable: The package `openai` is not installed.
        """
        from cora.inference.openai_backend import OpenAIBackend

        backend = OpenAIBackend(endpoint, image_width=image_width)
        return cls(backend, model_digest=backend.model_digest, processor_digest=backend.processor_digest)

    @property
    def name(self) -> str:
        """Back end, device and precision."""
        return self.backend.name

    @property
    def chunk_size(self) -> int:
        """Number of requests that are worth giving it at once."""
        return self.backend.chunk_size

    def generate(
        self, requests: Sequence[GenerationRequest], settings: GenerationSettings | None = None
    ) -> list[GenerationResult]:
        """Return one result per request, in order; a bad request gives a result with `error`."""
        return self.backend.generate(requests, settings or GenerationSettings())

    def stream(
        self, requests: Iterable[GenerationRequest], settings: GenerationSettings | None = None
    ) -> Iterator[list[Indexed]]:
        """Yield (position of the request, result) for what got ready together; requests are taken while there is room.

        Questions about one panorama should follow each other.
        """
        return stream_answers(self.backend, requests, settings or GenerationSettings(), chunk_size=self.chunk_size)

    def answer(self, image: PanoramaSource, query: str, settings: GenerationSettings | None = None) -> str:
        """Return the answer to one question.

        Raises:
            ImageError: The panorama cannot be used or the question is too long; the message says which.
        """
        (result,) = self.generate([GenerationRequest(image, query)], settings)
        if result.text is None:
            raise ImageError(result.error)
        return result.text

    def close(self) -> None:
        """Give memory and processes back."""
        self.backend.close()


def load_parts(export: Export) -> tuple[PanoramaVLMConfig, PanoramaProcessor]:
    """Return configuration and processor of an export; CheckpointError where they cannot be loaded or disagree."""
    from cora.model.configuration import PanoramaVLMConfig
    from cora.processors.processor import PanoramaProcessor

    directory = str(export.directory)
    try:
        config, processor = PanoramaVLMConfig.from_pretrained(directory), PanoramaProcessor.from_pretrained(directory)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {directory}: configuration or processor cannot be loaded: {error}"
        ) from error
    check_agreement(export.directory, config, processor)
    return config, processor


def _open_backend(
    backend: str,
    export: Export,
    config: PanoramaVLMConfig,
    processor: PanoramaProcessor,
    *,
    device: str,
    batch_size: int | None,
) -> Backend:
    from cora.inference.transformers_backend import TransformersBackend
    from cora.inference.vllm_backend import VLLMBackend, why_unavailable

    if backend in ("auto", "vllm"):
        try:
            if backend == "auto" and (reason := why_unavailable()) is not None:
                raise BackendUnavailable(reason)
            chosen: Backend = VLLMBackend.load(export.directory, config, processor, device=device)
        except BackendUnavailable as error:
            if backend == "vllm":
                raise
            logger.warning("back end transformers, because vllm cannot be used: %s", error)
        else:
            logger.info("back end vllm: %s", "asked for" if backend == "vllm" else "it is installed")
            return chosen
    return TransformersBackend.load(export.directory, processor, device=device, batch_size=batch_size)
