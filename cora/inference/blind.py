"""A generator that never sees the panorama: what a model scores from the questions alone."""

from __future__ import annotations

from collections.abc import Sequence

from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, Generator

__all__ = ["BlackImageGenerator"]


class BlackImageGenerator:
    """Asks another generator every question about the same black panorama, each distinct question once.

    Args:
        generator: The generator to blind.
        height: Height of the black panorama in pixels; it is twice as wide.
    """

    def __init__(self, generator: Generator, *, height: int = 256) -> None:
        from PIL import Image

        self.generator = generator
        self.panorama = Image.new("RGB", (2 * height, height))
        self.processor_digest = generator.processor_digest
        # Its answers must never be taken for those of the model that sees.
        self.model_digest = f"{generator.model_digest}+black{height}"
        self.name = f"{generator.name}, black image"

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order; the panoramas of the requests are not opened."""
        queries = list(dict.fromkeys(request.query for request in requests))
        blind = [GenerationRequest(self.panorama, query) for query in queries]
        answers = dict(zip(queries, self.generator.generate(blind, settings), strict=True))
        return [answers[request.query] for request in requests]

    def close(self) -> None:
        """Do nothing: the blinded generator belongs to the caller."""
