"""A generator without a model: answers with the picture's name and the question, fails where the picture is missing.

Run as a program it evaluates a table slowly, so that a test can kill it:
``python fake_generator.py TABLE OUTPUT_DIR SECONDS_PER_CHUNK``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, failed


class FakeGenerator:
    name = "fake"

    def __init__(self, *, model: str = "m", processor: str = "p", seconds: float = 0.0) -> None:
        self.model_digest = model
        self.processor_digest = processor
        self.seconds = seconds
        self.calls: list[list[GenerationRequest]] = []

    @property
    def num_asked(self) -> int:
        return sum(map(len, self.calls))

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        self.calls.append(list(requests))
        time.sleep(self.seconds)
        return [self.answer(request) for request in requests]

    def answer(self, request: GenerationRequest) -> GenerationResult:
        path = Path(str(request.image))
        if not path.is_file():
            return failed(f"{path}: no such file")
        return GenerationResult(f"{path.stem} {request.query}", (1, 2, 3), "stop")

    def close(self) -> None:
        pass


def main() -> None:
    from cora.data.table import read_rows
    from cora.evaluation.runner import evaluate

    table, output_dir, seconds = sys.argv[1:]
    generator = FakeGenerator(seconds=float(seconds))
    evaluate(generator, read_rows(table), output_dir=output_dir, captions=False, chunk_size=4, progress=False)


if __name__ == "__main__":
    main()
