"""Requests and tokens per second of vLLM with CORA's plug-in beside Transformers one at a time, and the waits.

All requests of a round are there from the start, their panoramas are files that neither has seen, and the two take
turns, round by round. A request's first token is timed from the moment the request is taken: by the short script that
answers one after the other, or by the run, which takes requests while there is room for them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cora.bench.eval import (
    PANORAMAS,
    QUESTIONS,
    SOURCE_WIDTH,
    OneByOne,
    export_model,
    split_rounds,
    write_panoramas,
)
from cora.bench.timing import PERCENTILES, environment
from cora.config.manager import ConfigManager
from cora.data.table import Row
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationRequest, GenerationSettings
from cora.inference.vllm_backend import VLLMBackend
from cora.processors.images import PanoramaImageProcessor

__all__ = ["COLUMNS", "run"]

COLUMNS = (
    "way",
    "requests_per_s",
    "tokens_per_s",
    "times_sequential",
    *(f"first_token_p{each}_ms" for each in PERCENTILES),
    *(f"inter_token_p{each}_ms" for each in PERCENTILES),
    "preprocessing_share",
    "equal_answers",
    "max_new_tokens",
    "panoramas",
    "requests",
    "source_width",
    "rounds",
    "device",
    "cores",
    "torch",
)


@dataclass(slots=True)
class _Round:
    """What one way made of a round's requests.

    Attributes:
        texts: The answers.
        started: When each request was taken.
        tokens: When each token of each request came.
        seconds: All of it.
        preprocessing: Seconds of them in which a panorama was decoded or cut.
    """

    texts: list[str] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    tokens: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    preprocessing: float = 0.0


def run(config: Path, *, checkpoint: Path | None = None, rounds: int = 3) -> list[dict[str, Any]]:
    """Return a row with the keys of `COLUMNS` for each of the two; rates are medians of the rounds.

    Args:
        config: Configuration that says how long answers may be, and the sizes of the model where one is made.
        checkpoint: Export to answer with; None makes one of the configuration's sizes and trains it for a moment.
        rounds: Times that everything is measured, each with other panoramas.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = ConfigManager.load(config)
        limit = GenerationSettings(max_new_tokens=settings.generation.max_new_tokens)
        export = checkpoint or export_model(settings, config, folder)[0]
        parts = [questions for questions, _ in split_rounds(write_panoramas(folder / "rows", rounds), rounds)]
        one_by_one = OneByOne(export, limit)
        generator = PanoramaGenerator.from_checkpoint(export, "vllm")
        batched = _Batched(generator, limit)
        found: list[tuple[_Round, _Round]] = []
        try:
            for part in parts:
                found.append((_timed(_sequential, one_by_one, part), _timed(batched, part)))
        finally:
            generator.close()
    # The first part is there to warm up.
    ways = list(zip(*found[1:], strict=True))
    names = ("transformers, one by one", generator.name)
    shared = {"max_new_tokens": limit.max_new_tokens, "panoramas": PANORAMAS, "requests": PANORAMAS * QUESTIONS}
    shared |= {"source_width": SOURCE_WIDTH, "rounds": rounds, **environment()}
    rows = [{"way": name, **_figures(way, ways[0]), **shared} for name, way in zip(names, ways, strict=True)]
    return [{column: row[column] for column in COLUMNS} for row in rows]


class _Batched:
    """Answers rows as CORA does offline, and notes when vLLM gives each token."""

    def __init__(self, generator: PanoramaGenerator, settings: GenerationSettings) -> None:
        assert isinstance(generator.backend, VLLMBackend)
        self._generator, self._settings = generator, settings
        self._requests: list[str] = []
        self._tokens: dict[str, list[float]] = {}
        engine = generator.backend.engine
        core = engine.llm_engine.engine_core
        # Results come when a request ends; what the core gives after a step is the only sign of its tokens.
        engine.llm_engine.add_request = self._noting_requests(engine.llm_engine.add_request)
        core.get_output = self._noting_tokens(core.get_output)

    def _noting_requests(self, add_request: Callable[..., str]) -> Callable[..., str]:
        def noting(*arguments: Any) -> str:
            self._requests.append(identifier := add_request(*arguments))
            return identifier

        return noting

    def _noting_tokens(self, get_output: Callable[[], Any]) -> Callable[[], Any]:
        def noting() -> Any:
            outputs = get_output()
            now = time.perf_counter()
            for output in outputs.outputs:
                self._tokens.setdefault(output.request_id, []).extend(now for _ in output.new_token_ids)
            return outputs

        return noting

    def __call__(self, rows: Sequence[Row]) -> _Round:
        self._requests.clear()
        self._tokens.clear()
        result = _Round()

        def requests() -> Iterator[GenerationRequest]:
            for row in rows:
                result.started.append(time.perf_counter())
                yield GenerationRequest(row.image, row.query)

        texts: dict[int, str] = {}
        for finished in self._generator.stream(requests(), self._settings):
            texts.update((position, answer.text or "") for position, answer in finished)
        result.texts = [texts[position] for position in range(len(rows))]
        result.tokens = [self._tokens[identifier] for identifier in self._requests]
        return result


class _TokenTimes:
    """A streamer of Transformers that notes when tokens come; the first that it is given is the prompt."""

    def __init__(self) -> None:
        self._given: list[float] = []

    def put(self, value: Any) -> None:
        self._given.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing."""

    @property
    def tokens(self) -> list[float]:
        return self._given[1:]


def _sequential(one_by_one: OneByOne, rows: Sequence[Row]) -> _Round:
    result = _Round()
    for row in rows:
        result.started.append(time.perf_counter())
        times = _TokenTimes()
        result.texts.append(one_by_one.answer_one(row, times))
        result.tokens.append(times.tokens)
    return result


def _timed(function: Callable[..., _Round], *arguments: Any) -> _Round:
    spans: list[tuple[float, float]] = []
    start = time.perf_counter()
    with _noting_preprocessing(spans):
        result = function(*arguments)
    result.seconds = time.perf_counter() - start
    result.preprocessing = _covered(spans)
    return result


@contextmanager
def _noting_preprocessing(spans: list[tuple[float, float]]) -> Iterator[None]:
    """Note from when to when each panorama is decoded or cut, by whichever thread."""
    originals = {name: getattr(PanoramaImageProcessor, name) for name in ("load", "crop")}

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                spans.append((start, time.perf_counter()))

        return method

    try:
        for name, original in originals.items():
            setattr(PanoramaImageProcessor, name, noting(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(PanoramaImageProcessor, name, original)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the seconds in which at least one span runs."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _figures(rounds: Sequence[_Round], sequential: Sequence[_Round]) -> dict[str, Any]:
    """Return what a way achieves: rates as medians over the rounds, waits as percentiles over all their tokens."""
    first = [tokens[0] - start for each in rounds for start, tokens in zip(each.started, each.tokens, strict=True)]
    between = [later - token for each in rounds for tokens in each.tokens for token, later in pairwise(tokens)]
    beside = list(zip(rounds, sequential, strict=True))

    def median(value: Callable[[_Round], float]) -> float:
        return statistics.median(map(value, rounds))

    return {
        "requests_per_s": round(median(lambda each: len(each.texts) / each.seconds), 2),
        "tokens_per_s": round(median(lambda each: sum(map(len, each.tokens)) / each.seconds), 1),
        "times_sequential": round(statistics.median(one.seconds / mine.seconds for mine, one in beside), 2),
        **{f"first_token_p{each}_ms": _percentile_ms(first, each) for each in PERCENTILES},
        **{f"inter_token_p{each}_ms": _percentile_ms(between, each) for each in PERCENTILES},
        "preprocessing_share": round(median(lambda each: each.preprocessing / each.seconds), 3),
        "equal_answers": round(min(_equal(mine.texts, one.texts) for mine, one in beside), 3),
    }


def _percentile_ms(seconds: Sequence[float], percentile: int) -> float | None:
    return round(1e3 * float(np.percentile(seconds, percentile)), 2) if seconds else None


def _equal(mine: Sequence[str], theirs: Sequence[str]) -> float:
    return sum(one.strip() == other.strip() for one, other in zip(mine, theirs, strict=True)) / len(mine)
