"""A generator without a model: answers with the picture's name and the question, fails where the picture is missing.

Run as a program it evaluates a table slowly, so that a test can kill it:
``python fake_generator.py TABLE OUTPUT_DIR SECONDS_PER_CHUNK``. It notes in ``OUTPUT_DIR/asked`` what it is asked.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, failed

CHUNK_SIZE = 4


def write_table(folder: Path, rows: list[tuple[str, ...]], header: str = "url,query,annotation") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "test.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([tuple(header.split(",")), *rows])
    for row in rows:
        if "missing" not in row[0]:
            (folder / row[0]).write_bytes(row[0].encode())
    return path


class FakeGenerator:
    name = "fake"

    def __init__(
        self, *, model: str = "m", processor: str = "p", seconds: float = 0.0, asked: Path | None = None
    ) -> None:
        self.model_digest = model
        self.processor_digest = processor
        self.seconds = seconds
        self.asked = asked
        self.calls: list[list[GenerationRequest]] = []

    @property
    def num_asked(self) -> int:
        return sum(map(len, self.calls))

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        self.calls.append(list(requests))
        if self.asked is not None:
            with self.asked.open("a") as stream:
                stream.writelines(f"{request.image} {request.query}\n" for request in requests)
        time.sleep(self.seconds)
        return [self.answer(request) for request in requests]

    def answer(self, request: GenerationRequest) -> GenerationResult:
        path = Path(str(request.image))
        if not path.is_file():
            return failed(f"{path}: no such file")
        return GenerationResult(f"{path.stem} {request.query}", (1, 2, 3), "stop")

    def close(self) -> None:
        pass


class StreamingFake(FakeGenerator):
    """Keeps `room` requests in flight and ends the youngest first; stops as if interrupted after some answers."""

    room = 5

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after = stop_after
        self.in_flight: list[int] = []

    def stream(
        self, requests: Iterable[GenerationRequest], settings: GenerationSettings
    ) -> Iterator[list[tuple[int, GenerationResult]]]:
        running: list[tuple[int, GenerationRequest]] = []
        feed = enumerate(requests)
        while True:
            while len(running) < self.room and (following := next(feed, None)) is not None:
                self.calls.append([following[1]])
                running.append(following)
            if not running:
                return
            if len(self.in_flight) == self.stop_after:
                raise KeyboardInterrupt
            self.in_flight.append(len(running))
            position, request = running.pop()
            yield [(position, self.answer(request))]


def main() -> None:
    from cora.data.table import read_rows
    from cora.evaluation.runner import evaluate

    table, output_dir, seconds = sys.argv[1:]
    generator = FakeGenerator(seconds=float(seconds), asked=Path(output_dir) / "asked")
    evaluate(generator, read_rows(table), output_dir=output_dir, captions=False, chunk_size=CHUNK_SIZE, progress=False)


if __name__ == "__main__":
    main()
