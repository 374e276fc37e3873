"""The journal of a judge: what every request came to and cost, on disk before the next one is counted.

``judge.jsonl`` holds one request per line, those without a verdict too: they may have cost as much.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from cora.errors import DataError
from cora.evaluation.judge.protocols import Verdict

__all__ = ["JOURNAL_NAME", "CallRecord", "VerdictJournal"]

logger = logging.getLogger(__name__)

JOURNAL_NAME = "judge.jsonl"


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One request.

    Attributes:
        judge: Digest of the judge.
        verdicts: Verdict by key of the item.
        failures: (reason, error) by key of an item without one.
        model: Model that answered, as the server says it.
        input_tokens: Tokens of the request; None where nobody said.
        output_tokens: Tokens of the reply.
        num_retries: Tries before this one.
        from_batch: Whether it was part of a batch.
    """

    judge: str
    verdicts: Mapping[str, Verdict]
    failures: Mapping[str, tuple[str, str]]
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    num_retries: int = 0
    from_batch: bool = False


class VerdictJournal:
    """The journal of an output folder, held by one run at a time; a context manager.

    Args:
        folder: Made if missing.

    Raises:
        DataError: Another run holds the folder, or the journal cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that a failed write leaves nothing behind to be written later.
            self._stream = self.path.open("ab", buffering=0)
        except OSError as error:
            raise DataError(f"{self.path} cannot be opened: {error.strerror or error}") from error
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise DataError(f"{folder}: another judge is writing here; wait for it or name another folder") from None
        self.records = self._read()
        self.verdicts = {key: verdict for record in self.records for key, verdict in record.verdicts.items()}

    def __enter__(self) -> VerdictJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()  # which also gives the lock back

    def append(self, record: CallRecord) -> None:
        """Write a record and return when it is on disk.

        Raises:
            DataError: It cannot be written; what was there before stays intact.
        """
        end = self.path.stat().st_size
        rest = memoryview(json.dumps(asdict(record)).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            os.truncate(self.path, end)
            raise DataError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self.records.append(record)
        self.verdicts.update(record.verdicts)

    def _read(self) -> list[CallRecord]:
        """Return the records on disk, after cutting off a last line that was never finished."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            logger.warning("%s: the last line is torn (a run was killed); it will be asked again", self.path)
            os.truncate(self.path, whole)
        records = []
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = CallRecord(**json.loads(line))
                if not isinstance(record.verdicts, dict) or not isinstance(record.failures, dict):
                    raise ValueError("no record")
            except (ValueError, TypeError):
                logger.warning("%s, line %d: not readable; it will be asked again", self.path, number)
                continue
            records.append(record)
        return records
