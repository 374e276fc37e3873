"""Judging in batches: requests are handed in as files and answered within a day, often at half the price.

``judge_batches.json`` remembers what was handed in, so that nothing is handed in twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cora.errors import DataError, ImageError
from cora.evaluation.judge.calls import Call, Judge
from cora.evaluation.judge.journal import CallRecord, VerdictJournal
from cora.files import write_json
from cora.inference.endpoint import ChatClient, Reply, reply_from_body

__all__ = ["STATE_NAME", "Batches"]

logger = logging.getLogger(__name__)

STATE_NAME = "judge_batches.json"
# What OpenAI takes is 50,000 requests and 200 MB.
MAX_REQUESTS = 50_000
MAX_BYTES = 190 * 10**6
_UNDER_WAY = frozenset({"validating", "in_progress", "finalizing", "cancelling"})


class Batches:
    """The batches of one judge in an output folder.

    Args:
        folder: The output folder, held by the caller's journal.
        judge: Who judges.

    Raises:
        DataError: What was handed in cannot be read.
    """

    def __init__(self, folder: Path, judge: Judge) -> None:
        self.folder = folder
        self.judge = judge
        self.path = folder / STATE_NAME
        try:
            self.state: list[dict[str, Any]] = json.loads(self.path.read_bytes()) if self.path.exists() else []
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read: {error}") from error

    @property
    def under_way(self) -> list[dict[str, Any]]:
        """What this judge was handed and has not given back."""
        return [batch for batch in self.state if batch["judge"] == self.judge.digest and not batch["is_collected"]]

    def check_none_under_way(self) -> None:
        """Raise a DataError where the same questions would be paid twice."""
        if self.under_way:
            raise DataError(
                f"{self.folder}: batch {self.under_way[0]['id']} is under way; fetch it with --collect-batch"
            )

    def submit(self, client: ChatClient, calls: Sequence[Call]) -> tuple[int, int]:
        """Hand in calls and return how many batches and requests that were; see `submit_batches`."""
        self.check_none_under_way()
        num_batches = num_requests = 0
        for path, requests in self._write_files(calls):
            with client.refusals_raised():
                with path.open("rb") as stream:
                    uploaded = client.api.files.create(file=stream, purpose="batch")
                batch = client.api.batches.create(
                    input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
            self.state.append({"id": batch.id, "judge": self.judge.digest, "is_collected": False, "requests": requests})
            write_json(self.path, self.state)
            path.unlink()
            logger.info("batch %s: %d requests", batch.id, len(requests))
            num_batches += 1
            num_requests += len(requests)
        return num_batches, num_requests

    def collect(self, client: ChatClient, journal: VerdictJournal) -> tuple[dict[str, tuple[str, str]], int]:
        """Write finished batches to the journal; return failures for the keys of the others, and how many those are."""
        if not any(batch["judge"] == self.judge.digest for batch in self.state):
            raise DataError(f"{self.folder}: no batch of this judge was handed in; do that with --batch")
        pending: dict[str, tuple[str, str]] = {}
        num_pending = 0
        for batch in self.under_way:
            with client.refusals_raised():
                found = client.api.batches.retrieve(batch["id"])
                if found.status in _UNDER_WAY:
                    logger.info("batch %s is not finished: %s", batch["id"], found.status)
                    pending |= {
                        key: ("pending", f"batch {batch['id']} is not finished")
                        for keys in batch["requests"].values()
                        for key in keys
                    }
                    num_pending += 1
                    continue
                names = [name for name in (found.output_file_id, found.error_file_id) if name]
                contents = [client.api.files.content(name).content for name in names]
            for record in self._records(client, batch["requests"], contents, status=found.status):
                journal.append([record])
            batch["is_collected"] = True
            write_json(self.path, self.state)
        return pending, num_pending

    def _write_files(self, calls: Sequence[Call]) -> Iterator[tuple[Path, dict[str, list[str]]]]:
        """Yield input files as large as the server takes, with the keys behind each of their requests."""
        lines = self._lines(calls)
        pending = next(lines, None)
        number = 0
        while pending is not None:
            number += 1
            path = self.folder / f"judge-batch-{number}.jsonl"
            with _written(path) as stream:
                requests: dict[str, list[str]] = {}
                while pending is not None:
                    name, keys, line = pending
                    if requests and (len(requests) >= MAX_REQUESTS or stream.tell() + len(line) > MAX_BYTES):
                        break
                    stream.write(line)
                    requests[name] = keys
                    pending = next(lines, None)
            yield path, requests

    def _lines(self, calls: Iterable[Call]) -> Iterator[tuple[str, list[str], bytes]]:
        for call in calls:
            try:
                body = {"model": self.judge.endpoint.model, **self.judge.request(call)}
            except ImageError as error:
                logger.warning("not judged: %s", error)
                continue
            keys = [item.key for item in call.items]
            request = {"custom_id": keys[0], "method": "POST", "url": "/v1/chat/completions", "body": body}
            yield keys[0], keys, json.dumps(request).encode() + b"\n"

    def _records(
        self, client: ChatClient, requests: dict[str, list[str]], contents: Sequence[bytes], *, status: str
    ) -> Iterator[CallRecord]:
        """Yield one record for each request of a batch, answered or not."""
        replies: dict[str, Reply] = {}
        for line in b"\n".join(contents).splitlines():
            try:
                result = json.loads(line)
                replies[str(result["custom_id"])] = _reply(client, result)
            except (ValueError, KeyError, TypeError):
                logger.warning("a line of the results of a batch is not readable")
        lost = Reply(None, "server", f"the batch ended without an answer: {status}")
        for name, keys in requests.items():
            yield self.judge.record(keys, replies.get(name, lost), from_batch=True)


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("wb") as stream:
            yield stream
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def _reply(client: ChatClient, result: dict[str, Any]) -> Reply:
    response = result.get("response")
    if isinstance(response, dict) and response.get("status_code") == 200:
        return reply_from_body(response.get("body"))
    said = json.dumps(response.get("body") if isinstance(response, dict) else result.get("error"))
    status = response.get("status_code") if isinstance(response, dict) else None
    return client.refused(status if isinstance(status, int) else 500, said)
