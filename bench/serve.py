"""How a running server holds up: waits of its answers under load, refusals, and the memory of its processes.

Requests come at random moments however long the answers take (open loop), or so many are always under way (a soak).
vLLM's own bench client draws the moments, sends a request and times the pieces of its answer.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cora.bench.timing import PERCENTILES, environment
from cora.data.table import Row
from cora.errors import EndpointError
from cora.inference.credentials import Endpoint
from cora.inference.data_uri import as_data_uri

__all__ = ["COLUMNS", "Load", "Outcome", "drift", "run"]

COLUMNS = (
    "load",
    "seconds",
    "requests",
    "answered",
    "answers_per_s",
    "tokens_per_s",
    "goodput_per_s",
    "within_ms",
    *(f"{what}_p{each}_ms" for what in ("first_token", "inter_token", "total") for each in PERCENTILES),
    "errors",
    "memory_mb",
    "memory_peak_mb",
    "memory_drift",
    "max_new_tokens",
    "device",
    "cores",
    "torch",
)
MAX_NEW_TOKENS = 64
# The first part of a run fills caches and pools.
WARM_UP_SHARE = 0.25
_SAMPLE_SECONDS = 0.5
# As servers ask of clients that they refuse for the moment.
_RETRY_SECONDS = 1.0
_FIRST_ANSWER_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a server is asked.

    Attributes:
        rate: Requests per second of an open loop, at moments of a Poisson process.
        num_requests: How many of them.
        soak_seconds: How long to keep `concurrent` requests under way instead; None is the open loop.
        concurrent: Clients of a soak; each asks again when it is answered, or a second after it was refused.
        within_ms: An answer is good if it ends within this time; None takes every answer.
    """

    rate: float = 1.0
    num_requests: int = 100
    soak_seconds: float | None = None
    concurrent: int = 200
    within_ms: float | None = None

    @property
    def name(self) -> str:
        """What it is, in words."""
        if self.soak_seconds is None:
            return f"{self.rate:g} requests/s"
        return f"{self.concurrent} at once"


@dataclass(slots=True)
class Outcome:
    """What came of a load.

    Attributes:
        row: The keys of `COLUMNS`.
        totals: (second at which a request was sent, seconds until its answer ended) of each answer.
        memory: (second, MiB of the server's processes).
    """

    row: dict[str, Any]
    totals: list[tuple[float, float]]
    memory: list[tuple[float, float]]


@dataclass(slots=True)
class _Log:
    """What vLLM's client says of each request, and how it ended: ``answered``, a status, or what else happened."""

    answers: list[Any] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)


_STATUS: ContextVar[list[int]] = ContextVar("status of this task's request")


def run(rows: Sequence[Row], endpoint: Endpoint, load: Load, *, pid: int | None = None) -> Outcome:
    """Return how a server bore a load.

    Args:
        rows: Questions, asked in order and from the start again.
        endpoint: The server; its `model` may be empty, then it is asked for the name.
        load: When to ask.
        pid: The server's process, whose memory is watched with that of its children; None watches none.

    Raises:
        EndpointError: The server cannot be reached or has no model, or not one request was answered.
    """
    return asyncio.run(_run(rows, endpoint, load, pid))


async def _run(rows: Sequence[Row], endpoint: Endpoint, load: Load, pid: int | None) -> Outcome:
    # Loading vLLM takes seconds, which the clock must not see; what its own code is warned of says nothing here.
    with warnings.catch_warnings(action="ignore"):
        import vllm.benchmarks.serve  # noqa: F401

    log = _Log()
    async with _session() as session:
        ask = _Asker(session, endpoint, await _model(session, endpoint))
        # Whatever a server does only once is not what is measured.
        await asyncio.wait_for(ask(rows[0], _Log()), _FIRST_ANSWER_SECONDS)
        memory: list[tuple[float, float]] = []
        start = time.perf_counter()
        watcher = None if pid is None else asyncio.ensure_future(_watch(pid, start, memory))
        if load.soak_seconds is None:
            await _open_loop(ask, rows, load, log)
        else:
            await _soak(ask, rows, load, log, start + load.soak_seconds)
        seconds = time.perf_counter() - start
        if watcher is not None:
            watcher.cancel()
    if not log.answers:
        raise EndpointError(f"{endpoint.base_url}: no request was answered: {dict(log.endings)}")
    totals = [(answer.start_time - start, answer.latency) for answer in log.answers]
    return Outcome(_row(load, log, seconds, memory), totals, memory)


class _Asker:
    """Sends one row as a streamed chat request and notes how it ends."""

    def __init__(self, session: Any, endpoint: Endpoint, model: str) -> None:
        from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, async_request_openai_chat_completions

        self._request, self._send, self._session = RequestFuncInput, async_request_openai_chat_completions, session
        self._url = f"{endpoint.base_url}/chat/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {endpoint.api_key}"}

    async def __call__(self, row: Row, log: _Log) -> bool:
        """Return whether there was an answer."""
        # Of this task only: others are under way.
        status: list[int] = []
        _STATUS.set(status)
        content = [
            {"type": "image_url", "image_url": {"url": _address(row.image)}},
            {"type": "text", "text": row.query},
        ]
        request = self._request(
            prompt="",
            api_url=self._url,
            prompt_len=0,
            output_len=MAX_NEW_TOKENS,
            model=self._model,
            extra_headers=self._headers,
            extra_body={"temperature": 0},
            chat_messages=[{"role": "user", "content": content}],
        )
        answer = await self._send(request, self._session)
        if answer.success:
            log.answers.append(answer)
        else:
            log.endings["no response" if not status else "cut off" if status[0] == 200 else str(status[0])] += 1
        return bool(answer.success)


async def _open_loop(ask: _Asker, rows: Sequence[Row], load: Load, log: _Log) -> None:
    from vllm.benchmarks.datasets import SampleRequest
    from vllm.benchmarks.serve import get_request

    # The moments are drawn from NumPy's global generator.
    np.random.seed(0)
    chosen = list(itertools.islice(itertools.cycle(rows), load.num_requests))
    samples = [SampleRequest(prompt=str(index), prompt_len=0) for index in range(len(chosen))]
    async with asyncio.TaskGroup() as group:
        async for sample, _ in get_request(samples, load.rate):
            group.create_task(ask(chosen[int(sample.prompt)], log))


async def _soak(ask: _Asker, rows: Sequence[Row], load: Load, log: _Log, until: float) -> None:
    endless = itertools.cycle(rows)

    async def client(rows: Iterator[Row]) -> None:
        while time.perf_counter() < until:
            if not await ask(next(rows), log):
                await asyncio.sleep(_RETRY_SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(load.concurrent):
            group.create_task(client(endless))


@asynccontextmanager
async def _session() -> AsyncIterator[Any]:
    """Open a session of any number of connections that remembers the status of each task's response."""
    import aiohttp

    async def note(_: Any, __: Any, end: Any) -> None:
        if (status := _STATUS.get(None)) is not None:
            status.append(end.response.status)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(note)
    # As many seconds as it takes: a server that is slow shall show in the figures.
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), trace_configs=[trace], timeout=timeout
    ) as session:
        yield session


async def _model(session: Any, endpoint: Endpoint) -> str:
    import aiohttp

    if endpoint.model:
        return endpoint.model
    try:
        async with session.get(
            f"{endpoint.base_url}/models", headers={"Authorization": f"Bearer {endpoint.api_key}"}
        ) as response:
            response.raise_for_status()
            return str((await response.json())["data"][0]["id"])
    except (aiohttp.ClientError, LookupError, ValueError) as error:
        raise EndpointError(f"{endpoint.base_url} names no model: {endpoint.without_key(str(error))}") from error


@lru_cache(maxsize=32)
def _address(image: Path) -> str:
    return as_data_uri(image)


async def _watch(pid: int, start: float, memory: list[tuple[float, float]]) -> None:
    """Note the memory of a process and its children until cancelled."""
    import psutil

    root = psutil.Process(pid)
    while True:
        resident = 0
        for process in (root, *root.children(recursive=True)):
            # One may have ended since.
            with suppress(psutil.NoSuchProcess):
                resident += process.memory_info().rss
        memory.append((time.perf_counter() - start, resident / 2**20))
        await asyncio.sleep(_SAMPLE_SECONDS)


def drift(memory: Sequence[tuple[float, float]]) -> float | None:
    """Return by which share memory grows after the warm-up: its last quarter over its first, as medians."""
    settled = [amount for _, amount in memory[int(WARM_UP_SHARE * len(memory)) :]]
    quarter = len(settled) // 4
    if not quarter:
        return None
    return float(np.median(settled[-quarter:]) / np.median(settled[:quarter])) - 1.0


def _row(load: Load, log: _Log, seconds: float, memory: Sequence[tuple[float, float]]) -> dict[str, Any]:
    waits = {
        "first_token": [answer.ttft for answer in log.answers],
        "inter_token": [wait for answer in log.answers for wait in answer.itl],
        "total": [answer.latency for answer in log.answers],
    }
    good = sum(load.within_ms is None or 1e3 * total <= load.within_ms for total in waits["total"])
    amounts = [amount for _, amount in memory]
    grown = drift(memory)
    row = {
        "load": load.name,
        "seconds": round(seconds, 1),
        "requests": len(log.answers) + log.endings.total(),
        "answered": len(log.answers),
        "answers_per_s": round(len(log.answers) / seconds, 2),
        "tokens_per_s": round(sum(answer.output_tokens or 0 for answer in log.answers) / seconds, 1),
        "goodput_per_s": round(good / seconds, 2),
        "within_ms": load.within_ms,
        **{
            f"{what}_p{each}_ms": round(1e3 * float(np.percentile(values, each)), 1) if values else None
            for what, values in waits.items()
            for each in PERCENTILES
        },
        "errors": dict(log.endings),
        "memory_mb": round(float(np.median(amounts)), 1) if amounts else None,
        "memory_peak_mb": round(max(amounts), 1) if amounts else None,
        "memory_drift": None if grown is None else round(grown, 4),
        "max_new_tokens": MAX_NEW_TOKENS,
        **environment(),
    }
    return {column: row[column] for column in COLUMNS}
