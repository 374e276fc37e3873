"""Answers as they get ready: requests are taken from an iterator while there is room, and no chunk has to end first.

A back end that can do so has a method `stream`; all others are asked chunk by chunk.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings

if TYPE_CHECKING:
    from concurrent.futures import Future

    from cora.processors.loading import PanoramaSource

__all__ = [
    "ImageRun",
    "Indexed",
    "StreamingBackend",
    "generate_all",
    "image_identity",
    "image_runs",
    "prepared",
    "stream_answers",
]

Indexed = tuple[int, GenerationResult]
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

# A panorama with more questions than this many chunks is given in pieces, so that a crash costs one of them.
_CHUNKS_PER_PANORAMA = 4
_MOST_QUESTIONS = 64
# Panoramas that are prepared together, and the threads that do it.
_AT_ONCE = 8
_MOST_THREADS = 4


@runtime_checkable
class StreamingBackend(Protocol):
    """A back end that takes requests while it works."""

    def stream(self, requests: Iterable[GenerationRequest], settings: GenerationSettings) -> Iterator[list[Indexed]]:
        """Yield (position of the request, result) for what got ready together; every request once, in any order."""
        ...


class _ChunkBackend(Protocol):
    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order."""
        ...


def stream_answers(
    backend: StreamingBackend | _ChunkBackend,
    requests: Iterable[GenerationRequest],
    settings: GenerationSettings,
    *,
    chunk_size: int,
) -> Iterator[list[Indexed]]:
    """Yield (position of the request, result) for what got ready together.

    Args:
        backend: A generator or back end.
        requests: Questions about one panorama follow each other.
        settings: Generation settings.
        chunk_size: Requests that are given together to a back end that has no `stream`.
    """
    if isinstance(backend, StreamingBackend):
        yield from backend.stream(requests, settings)
        return
    for start, chunk in _chunks(requests, chunk_size):
        yield list(enumerate(backend.generate(chunk, settings), start))


def generate_all(
    backend: StreamingBackend, requests: Sequence[GenerationRequest], settings: GenerationSettings
) -> list[GenerationResult]:
    """Return one result per request, in order; questions about one panorama are streamed together."""
    groups: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(image_identity(request.image), []).append(index)
    order = [index for group in groups.values() for index in group]
    results: dict[int, GenerationResult] = {}
    for finished in backend.stream((requests[index] for index in order), settings):
        results.update((order[position], result) for position, result in finished)
    return [results[index] for index in range(len(requests))]


@dataclass(frozen=True, slots=True)
class ImageRun:
    """Requests about one panorama that follow each other.

    Attributes:
        start: Position of the first of them.
        image: The panorama.
        requests: At least one, and so few that they need not all be in memory for a panorama with endless questions.
    """

    start: int
    image: PanoramaSource
    requests: list[GenerationRequest]


def image_runs(requests: Iterable[GenerationRequest]) -> Iterator[ImageRun]:
    """Yield requests by panorama; files are the same when their paths are, images in memory when the object is."""
    run: ImageRun | None = None
    for position, request in enumerate(requests):
        if (
            run is not None
            and image_identity(run.image) == image_identity(request.image)
            and len(run.requests) < _MOST_QUESTIONS
        ):
            run.requests.append(request)
            continue
        if run is not None:
            yield run
        run = ImageRun(position, request.image, [request])
    if run is not None:
        yield run


@contextmanager
def prepared(
    function: Callable[[_Item], _Made], items: Iterable[_Item], *, is_beside: bool
) -> Iterator[Iterator[tuple[_Item, _Made]]]:
    """Yield an iterator over items with what a function makes of them on other threads.

    Args:
        function: What it raises is raised when its item is due.
        items: Taken on the caller's thread.
        is_beside: Whether items to come are worked on while the caller uses one. A caller whose own work takes every
            core is better off waiting for a few at a time: side by side the two get in each other's way.
    """
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), _MOST_THREADS), "panoramas") as executor:
        yield (_ahead if is_beside else _in_waves)(executor, function, items)


def _ahead(
    executor: Executor, function: Callable[[_Item], _Made], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Made]]:
    waiting: deque[tuple[_Item, Future[_Made]]] = deque()
    for item in items:
        waiting.append((item, executor.submit(function, item)))
        if len(waiting) > _AT_ONCE:
            due, future = waiting.popleft()
            yield due, future.result()
    for due, future in waiting:
        yield due, future.result()


def _in_waves(
    executor: Executor, function: Callable[[_Item], _Made], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Made]]:
    source = iter(items)
    while wave := list(islice(source, _AT_ONCE)):
        yield from zip(wave, list(executor.map(function, wave)), strict=True)


def _chunks(requests: Iterable[GenerationRequest], size: int) -> Iterator[tuple[int, list[GenerationRequest]]]:
    """Yield requests in chunks of about `size` with the position of their first, a panorama's questions together."""
    start, chunk, about_one = 0, list[GenerationRequest](), 0
    for request in requests:
        is_same = bool(chunk) and image_identity(chunk[-1].image) == image_identity(request.image)
        if about_one == _CHUNKS_PER_PANORAMA * size or (len(chunk) >= size and not is_same):
            yield start, chunk
            start, chunk, is_same = start + len(chunk), [], False
        about_one = about_one + 1 if is_same else 1
        chunk.append(request)
    if chunk:
        yield start, chunk


def image_identity(image: PanoramaSource) -> Hashable:
    """Return what tells panoramas apart without reading them: the path of a file, or which object one in memory is."""
    return str(image) if isinstance(image, (str, Path)) else id(image)
